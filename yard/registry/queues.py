"""Queues to serve: those of the catalogue, and those of ending versions that still have jobs.

Each version has a queue, and each model an unversioned one. The queue of a retired or deleted
version counts while something is on it, so that accepted jobs are run and later pushes are failed.
Workers and autoscalers look at the same queues.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from redis import Redis
from redis.exceptions import RedisError

from yard.cluster import held_back_queues
from yard.contract import ModelRef, is_name, keys, lenient
from yard.registry import lifecycle
from yard.registry.catalog import model_names
from yard.registry.lifecycle import VersionState


def queue_names(redis: Redis, pattern: str = "*") -> list[str]:
    """Reads the queues of all models whose name matches, as a shell matches file names, in order.

    Queues of versions that are held back because they kill their workers are left out
    (`yard.cluster.crash_loops`).

    Raises:
        RedisError: Redis does not answer.
    """
    return read_served_queues(redis, pattern)[0]


def read_served_queues(
    redis: Redis, pattern: str
) -> tuple[list[str], dict[str, tuple[VersionState, str]]]:
    """Reads the same, and the versions out of service as `lifecycle.read_states` does.

    Marks retired versions as drained once their queue is empty.

    Raises:
        RedisError: Redis does not answer.
    """
    models = [model for model in model_names(redis) if fnmatchcase(model, pattern)]
    pipe = redis.pipeline(transaction=False)
    for model in models:
        pipe.hkeys(keys.key("signatures", model))
    pipe.hgetall(keys.RETIRED)
    *published, retired = pipe.execute(raise_on_error=False)
    states = {
        queue: state
        for queue, state in lifecycle.parse_states(retired).items()
        if fnmatchcase(queue.partition("@")[0], pattern)
    }
    queues: list[str] = []
    for model, versions in zip(models, published, strict=True):
        if isinstance(versions, RedisError):  # the key holds another type: the other models go on
            continue
        names = sorted(lenient.decode(raw) for raw in versions)
        queues += [keys.queue_name(ModelRef(model, name)) for name in names if is_name(name)]
        queues.append(model)
    queues += _ending(redis, states, frozenset(queues))
    held = held_back_queues(redis)
    return [queue for queue in queues if queue not in held], states


def _ending(
    redis: Redis, states: Mapping[str, tuple[VersionState, str]], known: frozenset[str]
) -> list[str]:
    """Queues beside the ``known`` ones with work left of versions out of service."""
    versions = sorted(states.keys() - known)
    names = versions + sorted({queue.partition("@")[0] for queue in versions} - known)
    pipe = redis.pipeline(transaction=False)
    for name in names:
        pipe.llen(keys.key("queue", name))
    lengths = dict(zip(names, pipe.execute(raise_on_error=False), strict=True)) if names else {}
    if drying := [name for name in versions if states[name][0] == "retired" and lengths[name] == 0]:
        lifecycle.mark_drained(redis, drying)
    return [name for name in names if isinstance(lengths[name], int) and lengths[name] > 0]
