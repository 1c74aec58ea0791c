"""Status of a yard: its models with their routes, versions and queues, and the loaded versions.

The command line, the gateway's ``/v1/models``, ``/readyz`` and ``/metrics`` read it here, in two
round trips for each model and four for all. A route is worked out by the script that submissions
use, so that a key set by hand shows at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from yard.broker import redis_reachable
from yard.cluster import Presence, believed_wait_s, read_presence, read_waiting_since_s
from yard.contract import ModelRef, Route, keys, lenient
from yard.errors import UnknownModel
from yard.registry import PublishedVersion, model_names, read_versions
from yard.routing import cold_versions, read_route

#: Said while RQ's key is there.
SUSPENDED = "suspended by `rq suspend`: jobs are accepted and wait until `rq resume`"


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """One queue.

    Attributes:
        depth: Jobs that wait.
        inflight: Jobs that workers have claimed and not ended.
        oldest_s: Wait of the first job, in seconds; 0.0 if none waits, or if waits were not read.
    """

    depth: int = 0
    inflight: int = 0
    oldest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model.

    Attributes:
        name: Its name.
        route: How its traffic splits.
        versions: Its published versions by name, in order.
        queues: Its queues by name: one for each version, and the unversioned one.
    """

    name: str
    route: Route
    versions: Mapping[str, PublishedVersion]
    queues: Mapping[str, QueueStatus]

    @property
    def depth(self) -> int:
        """Jobs that wait, over all queues."""
        return sum(queue.depth for queue in self.queues.values())


@dataclass(frozen=True, slots=True)
class Status:
    """The models that were asked for, and the pools and workers that are alive."""

    models: tuple[ModelStatus, ...]
    presence: Presence


def read_suspended(redis: Redis) -> str:
    """Returns what is wrong while ``rq suspend`` is in force, with the way back; empty otherwise.

    Raises:
        Unavailable: Redis does not answer.
    """
    with redis_reachable():
        return SUSPENDED if redis.exists(keys.SUSPENDED) else ""


def read_status(redis: Redis, only: str | None = None, *, with_waits: bool = False) -> Status:
    """Reads the status of every published model, or of one.

    Args:
        redis: Where the yard is.
        only: The name of the one.
        with_waits: Read the wait of the first job of each queue, too: one more round trip.

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
        queues = _read_queues(redis, names, with_waits=with_waits)
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


def read_models(redis: Redis) -> list[dict[str, Any]]:
    """Reads every published model in its JSON form, in order of the names.

    Raises:
        Unavailable: Redis does not answer.
    """
    status = read_status(redis)
    return [model_json(model, status.presence) for model in status.models]


def model_json(model: ModelStatus, presence: Presence) -> dict[str, Any]:
    """Returns a model as `modelyard models --json` and ``GET /v1/models`` show it."""
    return {
        "model": model.name,
        "route": model.route.to_dict() | {"cold": cold_versions(model.route, presence)},
        "queue_depth": model.depth,
        "versions": [version_json(model, entry, presence) for entry in model.versions.values()],
    }


def version_json(model: ModelStatus, entry: PublishedVersion, presence: Presence) -> dict[str, Any]:
    """Returns one version of a model, as in `model_json`; nothing in its manifest is relied on."""
    version, manifest = entry.ref.version, entry.manifest
    queue = keys.queue_name(entry.ref)
    return {
        "model": model.name,
        "version": version,
        "queue": queue,
        "queue_depth": model.queues[queue].depth,
        "active": model.route.active == version,
        "share": model.route.shares.get(version, 0.0),
        "state": entry.state,
        "aliases": sorted(
            alias for alias, named in model.route.keys["aliases"].items() if named == version
        ),
        "signature": entry.signature.model_dump(mode="json"),
        "signature_id": entry.signature.id,
        "digest": lenient.text(manifest.get("digest")),
        "size_bytes": _size_bytes(manifest.get("files")),
        "created_at": lenient.text(manifest.get("created_at")),
        "note": lenient.text(manifest.get("note")) or "",
        "loaded": [
            {
                "worker": worker.name,
                "host": lenient.text(worker.known.get("host")),
                "bytes": worker.versions[queue],
            }
            for worker in presence.holders(queue)
        ],
        "failed": [
            {
                "worker": worker.name,
                "host": lenient.text(worker.known.get("host")),
                "reason": failed.reason,
                "retry_at": failed.retry_at,
            }
            for worker, failed in presence.failures(queue)
        ],
    }


def _read_queues(redis: Redis, names: Sequence[str], *, with_waits: bool) -> dict[str, QueueStatus]:
    """Queues by name, in one or two round trips; keys of another type count as empty."""
    pipe = redis.pipeline(transaction=False)
    pipe.time()
    for name in names:
        pipe.llen(keys.key("queue", name))
        pipe.zcard(keys.key("wip", name))
        pipe.lindex(keys.key("queue", name), 0)
    (seconds, micros), *replies = pipe.execute(raise_on_error=False)
    heads = [reply if isinstance(reply, bytes) else b"" for reply in replies[2::3]]
    waits_s = [0.0] * len(names)
    if with_waits:
        waits_s = _waits_s(redis, names, heads, seconds + micros / 1e6)
    return {
        name: QueueStatus(
            lenient.count(replies[3 * place]),
            lenient.count(replies[3 * place + 1]),
            waits_s[place],
        )
        for place, name in enumerate(names)
    }


def _queues_of(model: str, versions: Iterable[str]) -> list[str]:
    return [*(keys.queue_name(ModelRef(model, version)) for version in versions), model]


def _waits_s(
    redis: Redis, names: Sequence[str], heads: Sequence[bytes], now_s: float
) -> list[float]:
    """Seconds that each queue's first job has waited; 0.0 where there is none."""
    since_s = read_waiting_since_s(redis, names)
    pipe = redis.pipeline(transaction=False)
    for job_id in heads:
        pipe.hmget(keys.key("job", lenient.decode(job_id)), "created_at", "my_queued_at", "my_rows")
    waits_s = []
    for name, head, reply in zip(names, heads, pipe.execute(raise_on_error=False), strict=True):
        if not head or not isinstance(reply, list):
            waits_s.append(0.0)
            continue
        created, queued, rows = reply
        waits_s.append(believed_wait_s(now_s, created, queued, rows is not None, since_s.get(name)))
    return waits_s


def _size_bytes(files: Any) -> int | None:
    sizes = [f.get("size_bytes") for f in lenient.items(files) if isinstance(f, dict)]
    return sum(size for size in sizes if isinstance(size, int)) if sizes else None
