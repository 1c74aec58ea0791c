"""Warm-up: the pools load a version before a flip gives it traffic.

A flip writes a warm-up request into Redis (``want.lua``) and watches the workers' announcements
until each living pool that serves the model has a worker with the version loaded and proven, or
until one reports why it does not load. Workers read the requests while idle and between batches
(`worker.inference.warmup`); a pool without workers starts one for a request as it does for a job
(`unmet_warmups`). Only then does `yard.routing.routes` change the keys, at one instant as always. A
key that is set by hand bypasses all this and is obeyed at once; `cold_versions` reports it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from yard.broker import Script
from yard.cluster import PoolInfo, Presence, read_presence
from yard.contract import ModelRef, Route, keys, lenient
from yard.errors import ModelUnavailable
from yard.routing import routes

#: Seconds between two looks at the announcements.
_LOOK_S = 0.05
#: Seconds that a request outlives its flip's wait: other workers of the pools load it, too.
_LONGER_S = 5.0

_WANT = Script("yard", "want")


@dataclass(frozen=True, slots=True)
class WarmupResult:
    """Outcome of the warm-up before a flip.

    Attributes:
        state: ``warm``: every pool has the versions; ``no_pool``: no living pool serves the model;
            ``skipped``: the flip did not wait, or gives no version traffic.
        versions: Versions that were to be loaded.
        waited_s: Seconds that the flip waited.
    """

    state: str
    versions: tuple[str, ...] = ()
    waited_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns the outcome as clients see it."""
        return {
            "state": self.state,
            "versions": list(self.versions),
            "waited_ms": round(self.waited_s * 1000, 1),
        }


def flip_route(
    redis: Redis,
    change: routes.RouteChange,
    warm_s: float,
    wait: Callable[[float], object] = time.sleep,
) -> tuple[Route, WarmupResult]:
    """Warms up the versions that a change gives traffic to, then makes the change.

    Args:
        redis: Where the keys are.
        change: The change.
        warm_s: Seconds to wait at most; 0 changes the route at once.
        wait: Sleeps for the seconds that it is given.

    Raises:
        InvalidRoute: The values could not be obeyed; nothing was changed or loaded.
        RevisionMismatch: The route is at another revision.
        UnknownModel: No version of the model is published.
        ModelUnavailable: A version does not load, or not in time; nothing was changed.
    """
    present = routes.check_change(redis, change)
    routed = change.routed or [v for v in (present.active,) if v]  # weights are cleared
    warmth = WarmupResult("skipped")
    if warm_s > 0 and routed:
        warmth = warm(redis, [ModelRef(change.model, version) for version in routed], warm_s, wait)
    return routes.apply_change(redis, change), warmth


def warm(
    redis: Redis,
    refs: Sequence[ModelRef],
    timeout_s: float,
    wait: Callable[[float], object] = time.sleep,
) -> WarmupResult:
    """Has versions of one model loaded by at least one worker of every pool that serves it.

    Raises:
        ModelUnavailable: A worker reports that one does not load, or a pool has not loaded all in
            time.
    """
    names = [keys.queue_name(ref) for ref in refs]
    versions = tuple(ref.version for ref in refs)
    started = time.monotonic()
    presence = read_presence(redis)
    if not _lacking(presence, refs[0].model, names):
        state = "warm" if _waited_for(presence, refs[0].model) else "no_pool"
        return WarmupResult(state, versions, time.monotonic() - started)
    asked_ms = int(_WANT(redis, [round((timeout_s + _LONGER_S) * 1000), *names]))
    while True:
        presence = read_presence(redis)
        _raise_if_failed(presence, names, asked_ms)
        lacking = _lacking(presence, refs[0].model, names)
        waited_s = time.monotonic() - started
        if not lacking:
            return WarmupResult("warm", versions, waited_s)
        if waited_s >= timeout_s:
            raise _too_late(lacking, timeout_s)
        wait(_LOOK_S)


def read_wanted_versions(redis: Redis) -> dict[str, int]:
    """Reads the warm-up requests that stand: queue of the version to time of the request, in ms."""
    pipe = redis.pipeline(transaction=False)
    pipe.time()
    pipe.hgetall(keys.WANTED)
    (seconds, micros), raw = pipe.execute(raise_on_error=False)
    now_ms = seconds * 1000 + micros / 1000
    requests = {lenient.decode(queue): _times_ms(r) for queue, r in lenient.mapping(raw).items()}
    return {queue: at[0] for queue, at in requests.items() if at is not None and at[1] > now_ms}


def unmet_warmups(redis: Redis, pool: str, serves: Callable[[str], bool]) -> list[str]:
    """Reads the queues of warm-up requests that a pool's workers have neither met nor failed.

    Args:
        redis: Where the requests are.
        pool: The pool's name.
        serves: Returns true for a queue that the pool serves.
    """
    wanted = {queue: ms for queue, ms in read_wanted_versions(redis).items() if serves(queue)}
    if not wanted:
        return []
    own = [w for w in read_presence(redis).workers if w.known.get("pool") == pool]
    return [
        queue
        for queue, ms in wanted.items()
        if not any(queue in w.versions or _failed_since(w.failed.get(queue), ms) for w in own)
    ]


def cold_versions(route: Route, presence: Presence) -> list[str]:
    """Returns the versions that get traffic and that not every living pool has loaded.

    All of them if no living pool serves the model. Their next job may wait for a load. A version is
    cold because a key was set by hand, or because the workers that had it have left.
    """
    pools = presence.pools_of(route.model)
    names = {v: keys.queue_name(ModelRef(route.model, v)) for v, s in route.shares.items() if s}
    return [
        version
        for version, name in names.items()
        if not pools or not all(presence.holds(pool, name) for pool in pools)
    ]


def _waited_for(presence: Presence, model: str) -> list[PoolInfo]:
    """Pools that serve the model and meet requests: not draining ones, nor old releases'."""
    return [pool for pool in presence.pools_of(model) if pool.known.get("warms") is True]


def _lacking(presence: Presence, model: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of a pool and a version's queue that none of its workers has loaded."""
    return [
        (pool.name, name)
        for pool in _waited_for(presence, model)
        for name in names
        if not presence.holds(pool, name)
    ]


def _raise_if_failed(presence: Presence, names: Sequence[str], asked_ms: int) -> None:
    for name in names:
        for worker, failed in presence.failures(name):
            if _failed_since(failed, asked_ms):
                raise ModelUnavailable(
                    f"{failed.reason} (worker {worker.name}); the route stands as it was"
                )


def _failed_since(failed: Any, wanted_ms: int) -> bool:
    return failed is not None and failed.wanted_ms is not None and failed.wanted_ms >= wanted_ms


def _too_late(lacking: Sequence[tuple[str, str]], timeout_s: float) -> ModelUnavailable:
    pool, name = lacking[0]
    more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
    return ModelUnavailable(
        f"{name}: pool {pool} has not loaded it within {timeout_s:g} s{more}; the route stands as "
        "it was"
    )


def _times_ms(raw: bytes) -> tuple[int, int] | None:
    """Time and end of a warm-up request, in ms."""
    words = raw.split()
    if len(words) != 2:
        return None
    began, ends = (lenient.digits(word, most=15) for word in words)
    return None if began is None or ends is None else (began, ends)
