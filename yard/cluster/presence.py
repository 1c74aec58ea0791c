"""Presence: the pools that are alive, and the workers with the versions that each has loaded.

Pools and workers announce themselves every few seconds under keys that expire; the gateway and the
doctor read them. Announcements that cannot be read are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from redis import Redis
from redis.client import Pipeline

from yard.broker import Script
from yard.contract import keys, lenient, wire

#: Key family of the announcements of each kind.
_FAMILIES = {"pool": "pool", "worker": "loaded"}

_ANNOUNCE = Script("yard", "announce")

#: States of a worker, as pools report them.
WORKER_STATES = ("starting", "idle", "busy", "suspended")


@dataclass(frozen=True, slots=True)
class PoolInfo:
    """A pool as it last announced itself.

    Attributes:
        name: Its name.
        workers: Number of its workers in each state of `WORKER_STATES`.
        known: The whole announcement: ``host``, ``pid``, ``min``, ``max``, ...
        looked_s: Seconds since it completed a look at the queues; 0.0 if not announced.
    """

    name: str
    workers: Mapping[str, int]
    known: Mapping[str, Any] = field(default_factory=dict)
    looked_s: float = 0.0

    @property
    def is_stuck(self) -> bool:
        """True if it is alive and does not do its work."""
        return self.looked_s > keys.STUCK_S


@dataclass(frozen=True, slots=True)
class FailedLoad:
    """A version that a worker could not load.

    Attributes:
        reason: Why, in a sentence.
        retry_at: Time from which on its next job makes the worker retry, RFC 3339 by the worker's
            clock; None if only a new request does.
        wanted_ms: Time of the warm-up request that it was loaded for, see `yard.routing.warmup`;
            None if it was loaded for a job.
    """

    reason: str
    retry_at: str | None = None
    wanted_ms: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker as it last announced itself.

    Attributes:
        name: Its name.
        versions: Bytes of each version that it has loaded and proven, by ``model@version``.
        known: The whole announcement: ``pool``, ``host``, ``pid``, ...
        failed: Versions that it could not load, by ``model@version``.
    """

    name: str
    versions: Mapping[str, int]
    known: Mapping[str, Any] = field(default_factory=dict)
    failed: Mapping[str, FailedLoad] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Presence:
    """The pools and workers that are alive by Redis' clock, in order of their names."""

    pools: tuple[PoolInfo, ...] = ()
    workers: tuple[WorkerInfo, ...] = ()

    @property
    def looking(self) -> tuple[PoolInfo, ...]:
        """The pools that do their work: being alive is not enough."""
        return tuple(pool for pool in self.pools if not pool.is_stuck)

    def holders(self, ref: str) -> tuple[WorkerInfo, ...]:
        """Returns the workers that have a version loaded, ``ref`` being its ``model@version``."""
        return tuple(worker for worker in self.workers if ref in worker.versions)

    def failures(self, ref: str) -> tuple[tuple[WorkerInfo, FailedLoad], ...]:
        """Returns the workers that could not load a version, and why."""
        return tuple(
            (worker, worker.failed[ref]) for worker in self.workers if ref in worker.failed
        )

    def pools_of(self, model: str) -> tuple[PoolInfo, ...]:
        """Returns the working pools that serve a model, by the pattern that each announces."""
        return tuple(
            pool for pool in self.looking if fnmatchcase(model, str(pool.known.get("pattern", "*")))
        )

    def holds(self, pool: PoolInfo, ref: str) -> bool:
        """True if a worker of the pool has a version loaded."""
        return any(worker.known.get("pool") == pool.name for worker in self.holders(ref))

    def count(self, state: str) -> int:
        """Returns the number of workers of all pools in one of the `WORKER_STATES`."""
        return sum(pool.workers.get(state, 0) for pool in self.pools)


def announce_presence(redis: Redis, kind: str, name: str, what: Mapping[str, Any]) -> None:
    """Announces that a ``worker`` or a ``pool`` is alive, with what describes it."""
    key = keys.key(_FAMILIES[kind], name)
    _ANNOUNCE(redis, [kind, name, key, wire.dumps(what), keys.PRESENCE_TTL_S])


def withdraw_worker(pipe: Pipeline, worker: str) -> None:
    """Queues on ``pipe`` the commands that take a worker out of the presence."""
    pipe.delete(keys.key(_FAMILIES["worker"], worker))
    pipe.zrem(keys.PRESENCE, f"worker:{worker}")


def read_presence(redis: Redis) -> Presence:
    """Reads the pools and workers that are alive now, in two round trips."""
    pipe = redis.pipeline(transaction=False)
    pipe.time()
    pipe.zrange(keys.PRESENCE, 0, -1, withscores=True)
    (seconds, micros), members = pipe.execute()
    now_ms = seconds * 1000 + micros / 1000
    alive = sorted(
        (kind, name)
        for raw, expiry_ms in members
        for kind, colon, name in [lenient.decode(raw).partition(":")]
        if colon and kind in ("pool", "worker") and expiry_ms > now_ms
    )
    if not alive:
        return Presence()
    found = redis.mget([keys.key(_FAMILIES[kind], name) for kind, name in alive])
    pools, workers = [], []
    for (kind, name), raw in zip(alive, found, strict=True):
        known = lenient.json_object(raw)
        if known is not None and kind == "pool":
            workers_of = _counts(known.get("workers"), WORKER_STATES)
            pools.append(PoolInfo(name, workers_of, known, _ago_s(known.get("looked_ms"), now_ms)))
        elif known is not None:
            versions, failed = _counts(known.get("versions")), _failed(known.get("failed"))
            workers.append(WorkerInfo(name, versions, known, failed))
    return Presence(tuple(pools), tuple(workers))


def _failed(value: Any) -> dict[str, FailedLoad]:
    """The failures that can be read."""
    return {
        ref: FailedLoad(
            reason, lenient.text(said.get("retry_at")), lenient.integer(said.get("wanted_ms"))
        )
        for ref, said in lenient.mapping(value).items()
        if isinstance(said, dict) and isinstance(reason := said.get("reason"), str)
    }


def _ago_s(looked_ms: Any, now_ms: float) -> float:
    return max(0.0, now_ms - looked_ms) / 1000 if type(looked_ms) is int else 0.0


def why_no_pool_works(pools: Sequence[PoolInfo]) -> str:
    """Returns in one line why none of the pools does its work."""
    if not pools:
        return "no pool of workers is alive: start `modelyard pool`"
    said = (f"{p.name} has completed no look at the queues for {p.looked_s:.0f} s" for p in pools)
    return f"stuck: {'; '.join(said)}"


def _counts(value: Any, names: tuple[str, ...] = ()) -> dict[str, int]:
    """The whole numbers from 0 on in ``value``; the ``names`` that have none get 0."""
    counts = {name: n for name, n in lenient.mapping(value).items() if type(n) is int and n >= 0}
    return {name: counts.get(name, 0) for name in names} if names else counts
