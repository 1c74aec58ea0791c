"""The worker's part of warm-up: versions are loaded on request, before they get traffic.

The requests are in Redis, see `yard.routing.warmup`. The main thread reads them when it finds no
job, and between two batches, loads one version at a time into the cache, and announces the result
at once. A load that kills the worker leaves a trace, so that the request does not kill one worker
after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import structlog
from redis import Redis

from models.runtimes import ModelCache
from worker.inference.metrics import MetricsBuffer
from yard.contract import ModelRef, format_time, keys, parse_queue
from yard.errors import JobFailed
from yard.routing import read_wanted_versions, routed_versions
from yard.settings import Settings

_log = structlog.get_logger()

#: Time between two reads of the requests, unless a bell rings, in seconds.
_LOOK_S = 1.0
#: Most failures that are announced, and most characters of each reason.
_MOST, _REASON = 64, 500


class WarmupRequest(NamedTuple):
    """A version that is to be loaded.

    Attributes:
        queue: The version's queue.
        wanted_ms: Time of the request, which identifies it among those for the same version.
    """

    queue: str
    wanted_ms: int


class Warmer:
    """Loads versions that are wished for.

    Args:
        redis: Where the requests are.
        cache: Where models are loaded to.
        worker: This worker's name.
        settings: Deaths after which a request is refused, and whether routed versions are pinned.
        clock: Seconds, never going back.
    """

    def __init__(
        self,
        redis: Redis,
        cache: ModelCache,
        worker: str,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._cache = cache
        self._worker = worker
        self._settings = settings
        self._clock = clock
        self._due = clock()
        self._waiting: dict[
            str, int
        ] = {}  # queue to the moment of a request that was not tried yet
        self._answered: dict[str, int] = {}  # queue to the moment of the request that was tried
        self._refused: dict[str, str] = {}  # queue to why it was not loaded, or not found

    def hurry(self) -> None:
        """Let the next call read the requests, however recent the last read is."""
        self._due = self._clock()

    def next_request(self, queues: Collection[str]) -> WarmupRequest | None:
        """Return a request that was not tried yet, to be given to `load`; None if there is none.

        Args:
            queues: Those that the worker serves.

        Raises:
            RedisError: Redis does not answer.
        """
        return WarmupRequest(*self._waiting.popitem()) if self.has_request(queues) else None

    def load(self, request: WarmupRequest) -> None:
        """Try to load a version; the result is in the cache, or in `failures`.

        Raises:
            RedisError: Redis does not answer.
        """
        queue, wanted_ms = request
        model, version = parse_queue(queue) or (queue, None)
        self._refused.pop(queue, None)
        if version is not None:
            ref = ModelRef(model, version)
            deaths = self._leave_trace(queue, wanted_ms)
            if deaths >= self._settings.attempts:
                self._refused[queue] = f"{ref}: {deaths} workers died while they loaded it"
            else:
                self._try_load(queue, ref)
        self._answered[queue] = wanted_ms
        self._redis.hdel(keys.key("loading", queue), self._worker)

    def has_request(self, queues: Collection[str]) -> bool:
        """Return whether there is a version to load; reads Redis once a second.

        Raises:
            RedisError: Redis does not answer.
        """
        if self._clock() >= self._due:
            self._due = self._clock() + _LOOK_S
            self._pin(queues)
            self._waiting = {
                queue: wanted_ms
                for queue, wanted_ms in read_wanted_versions(self._redis).items()
                if queue in queues and self._answered.get(queue) != wanted_ms
            }
        return bool(self._waiting)

    def failures(self) -> dict[str, dict[str, Any]]:
        """Return what could not be loaded, as it is announced: why, and when it is tried again."""
        loaded = {keys.queue_name(ref) for ref in self._cache.loaded()}
        found: dict[str, dict[str, Any]] = {
            queue: {"reason": reason, "retry_at": None, "wanted_ms": self._answered.get(queue)}
            for queue, reason in list(self._refused.items())
            if queue not in loaded
        }
        for ref, failed in self._cache.failed().items():
            queue = keys.queue_name(ref)
            found[queue] = {
                "reason": failed.message[:_REASON],
                "retry_at": format_time(failed.retry_in_s),
                "wanted_ms": self._answered.get(queue),
            }
        return dict(list(found.items())[-_MOST:])

    def _pin(self, queues: Collection[str]) -> None:
        if self._settings.pin_routed:
            models = {queue.partition("@")[0] for queue in queues}
            self._cache.pin(routed_versions(self._redis, sorted(models)))

    def _try_load(self, queue: str, ref: ModelRef) -> None:
        self._cache.forgive(ref)  # it may have been mended
        try:
            with self._cache.use(ref) as use:
                load_s = use.load_s
        except JobFailed as error:
            self._refused[queue] = error.message[:_REASON]
            _log.warning("not warmed: %s", error.message, worker=self._worker, queue=queue)
            return
        if load_s:
            self._write_load_time(ref, load_s)
        _log.info("warm", worker=self._worker, queue=queue, load_s=round(load_s, 3))

    def _leave_trace(self, queue: str, wanted_ms: int) -> int:
        """Record the load that begins; return how many workers have died of this request."""
        key = keys.key("loading", queue)
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(key, self._worker, wanted_ms)
        pipe.expire(key, keys.WANTED_TTL_S)
        pipe.hgetall(key)
        pipe.zrange(keys.PRESENCE, 0, -1)
        *_, traces, present = pipe.execute()
        alive = {raw.partition(b":")[2] for raw in present if raw.startswith(b"worker:")}
        mine = self._worker.encode()
        return sum(
            worker not in alive and worker != mine
            for worker, raw in traces.items()
            if raw == str(wanted_ms).encode()
        )

    def _write_load_time(self, ref: ModelRef, load_s: float) -> None:
        metrics = MetricsBuffer(ref)
        metrics.observe("model_load_time_seconds", load_s)
        pipe = self._redis.pipeline(transaction=False)
        for field, number in metrics.items():
            pipe.hincrbyfloat(keys.METRICS, field, number)
        pipe.execute()
