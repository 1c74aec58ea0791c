"""How the yard stands, in one look: versions, routes, queues, and who is alive.

Read in few round trips, two of them for each model: its versions, and its route, which is worked
out by the same script as a submission's, so that a key set by hand shows at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis import Redis

from yard.broker import redis_reachable
from yard.cluster import Presence, read_presence
from yard.contract import ModelRef, Route, keys
from yard.errors import UnknownModel
from yard.registry import Published, model_names, read_versions
from yard.routing import read_route


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """One queue.

    Attributes:
        depth: Jobs that wait.
        oldest_s: How long the first of them has waited; 0.0 where none does.
        inflight: Jobs that workers have claimed and not ended.
    """

    depth: int = 0
    oldest_s: float = 0.0
    inflight: int = 0


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model.

    Attributes:
        name: Its name.
        route: How its traffic splits.
        versions: Its published versions by name, in order.
        queues: Its queues by name: one a version, and the front door, named as the model.
    """

    name: str
    route: Route
    versions: Mapping[str, Published]
    queues: Mapping[str, QueueStatus]

    @property
    def depth(self) -> int:
        """Jobs that wait, over all queues."""
        return sum(queue.depth for queue in self.queues.values())


@dataclass(frozen=True, slots=True)
class Status:
    """The whole yard, or the models that were asked for."""

    models: tuple[ModelStatus, ...]
    presence: Presence


def read_status(redis: Redis, only: str | None = None) -> Status:
    """Look at every published model, or at one.

    Raises:
        UnknownModel: No version of the one is published.
        Unavailable: Redis does not answer.
    """
    with redis_reachable():
        models = []
        for name in [only] if only is not None else model_names(redis):
            versions = read_versions(redis, name)
            if versions:
                models.append((name, versions))
            elif only is not None:
                raise UnknownModel(f"no version of model {only!r} is published")
        names = [queue for name, versions in models for queue in _queues_of(name, versions)]
        queues = read_queues(redis, names)
        return Status(
            tuple(
                ModelStatus(
                    name,
                    read_route(redis, name),
                    versions,
                    {queue: queues[queue] for queue in _queues_of(name, versions)},
                )
                for name, versions in models
            ),
            read_presence(redis),
        )


def read_queues(redis: Redis, names: Sequence[str]) -> dict[str, QueueStatus]:
    """Queues by name, in two round trips; what is no list or set counts as empty."""
    pipe = redis.pipeline(transaction=False)
    pipe.time()
    for name in names:
        pipe.llen(keys.key("queue", name))
        pipe.zcard(keys.key("wip", name))
        pipe.lindex(keys.key("queue", name), 0)
    (seconds, _), *replies = pipe.execute(raise_on_error=False)
    heads = [reply if isinstance(reply, bytes) else b"" for reply in replies[2::3]]
    waiting = _waiting_since(redis, heads)
    return {
        name: QueueStatus(
            _number(replies[3 * place]),
            max(0.0, seconds - since) if since is not None else 0.0,
            _number(replies[3 * place + 1]),
        )
        for place, (name, since) in enumerate(zip(names, waiting, strict=True))
    }


def _queues_of(model: str, versions: Iterable[str]) -> list[str]:
    return [*(keys.queue_name(ModelRef(model, version)) for version in versions), model]


def _waiting_since(redis: Redis, heads: Sequence[bytes]) -> list[float | None]:
    """When each job was made, in seconds since 1970; None where there is none."""
    pipe = redis.pipeline(transaction=False)
    for head in heads:
        pipe.hget(keys.key("job", head.decode("utf-8", "replace")), "created_at")
    return [_moment(reply) for reply in pipe.execute(raise_on_error=False)]


def _moment(raw: Any) -> float | None:
    try:
        moment = datetime.fromisoformat(raw.decode())
    except (AttributeError, ValueError):  # nothing there, or nothing of RQ's
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _number(reply: Any) -> int:
    return reply if isinstance(reply, int) else 0
