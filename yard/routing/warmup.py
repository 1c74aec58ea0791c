"""Warm before traffic: a version is loaded in the pools first, and then the flip happens.

Who flips writes a wish into Redis (``want.lua``) and looks at what workers announce until each
living pool that serves the model has a worker with the version loaded and proven, or until one says
why it does not load. Workers read the wishes while idle and between batches
(`worker.inference.warmup`); a pool without workers starts one for a wish as it does for a job
(`unmet_warmups`). Only then does `yard.routing.routes` change the keys, at one instant as always. A
key that is set by hand goes past all this and is obeyed at once; `cold_versions` tells of it.
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

#: How often who waits looks at what workers announce, in seconds.
_LOOK_S = 0.05
#: A wish stands this much longer than who made it waits: other workers of the pools load it, too.
_LONGER_S = 5.0

_WANT = Script("yard", "want")


@dataclass(frozen=True, slots=True)
class WarmupResult:
    """What became of loading versions before a flip.

    Attributes:
        state: ``warm``: every pool has them; ``no_pool``: no living pool serves the model;
            ``skipped``: nobody waited for it, or none was to get traffic.
        versions: Which were to be loaded.
        waited_s: Seconds that the flip waited for it.
    """

    state: str
    versions: tuple[str, ...] = ()
    waited_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As clients see it."""
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
    """Load what the change gives traffic to, then make the change.

    Args:
        redis: Where the keys are.
        change: What to write.
        warm_s: Seconds to wait at most; 0 changes the route at once.
        wait: How to pass so many seconds.

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
    return routes.apply(redis, change), warmth


def warm(
    redis: Redis,
    refs: Sequence[ModelRef],
    timeout_s: float,
    wait: Callable[[float], object] = time.sleep,
) -> WarmupResult:
    """Have versions of one model loaded by at least one worker of every pool that serves it.

    Raises:
        ModelUnavailable: A worker says that one does not load, or a pool has not loaded all in
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
    """The wishes that stand: queue of the version to the moment of the wish, in ms."""
    pipe = redis.pipeline(transaction=False)
    pipe.time()
    pipe.hgetall(keys.WANTED)
    (seconds, micros), wishes = pipe.execute(raise_on_error=False)
    now_ms = seconds * 1000 + micros / 1000
    read = ((lenient.decode(queue), _wish(raw)) for queue, raw in lenient.mapping(wishes).items())
    return {queue: wish[0] for queue, wish in read if wish is not None and wish[1] > now_ms}


def unmet_warmups(redis: Redis, pool: str, serves: Callable[[str], bool]) -> list[str]:
    """The wishes that a pool's workers have neither fulfilled nor found that they cannot.

    Args:
        redis: Where the wishes are.
        pool: The pool's name.
        serves: Whether the pool serves a queue.
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
    """The versions that get traffic and that some living pool, or no pool at all, has loaded.

    Their next job waits for a load. A version may be cold because a key was set by hand, or because
    the workers that had it have left.
    """
    pools = presence.pools_of(route.model)
    names = {v: keys.queue_name(ModelRef(route.model, v)) for v, s in route.shares.items() if s}
    return [
        version
        for version, name in names.items()
        if not pools or not all(presence.holds(pool, name) for pool in pools)
    ]


def _waited_for(presence: Presence, model: str) -> list[PoolInfo]:
    """The pools that serve the model and heed wishes: one that drains does not, nor one of old."""
    return [pool for pool in presence.pools_of(model) if pool.known.get("warms") is True]


def _lacking(presence: Presence, model: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """Each pool, and a version that none of its workers has loaded."""
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


def _wish(raw: bytes) -> tuple[int, int] | None:
    """The moment and the end of a wish, in ms."""
    words = raw.split()
    if len(words) != 2:
        return None
    began, ends = (lenient.digits(word, most=15) for word in words)
    return None if began is None or ends is None else (began, ends)
