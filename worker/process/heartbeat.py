"""The heartbeat thread: renews the lease of the present batch, and announces that the worker lives.

The main thread is in a model most of the time, or waits. So a second thread renews the lease,
announces loaded versions, writes the worker's service times, and checks the size of the process. It
has a client of its own, so that it never waits for the main thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog
from redis import Redis

from models.runtimes import ModelCache
from worker.inference import ServiceTimes, Warmer, used_bytes, worker_limit_bytes
from worker.process.registration import Registration
from worker.queue import OUTAGE, UNREACHABLE, Lease, QueueScheduler
from yard.broker import connections
from yard.cluster import write_paces
from yard.settings import Settings

_log = structlog.get_logger()

#: Time between two announcements, in seconds.
_BEAT_S = 2.0


class Heartbeat:
    """The lease and presence of one worker.

    Args:
        url: The Redis to work on.
        settings: How long a lease is, and how large the process may grow.
        lease: The main thread's; the lease of what it has in hand (``held``) is renewed.
        registration: The worker's entries.
        scheduler: Knows the queues that the worker looks at.
        cache: Knows which versions are loaded.
        warmer: Knows which versions could not be loaded.
        service_times: How fast the worker is with each version.

    Attributes:
        is_overgrown: True if the process has grown too large, and is to be replaced.
    """

    def __init__(
        self,
        url: str,
        settings: Settings,
        lease: Lease,
        registration: Registration,
        scheduler: QueueScheduler,
        cache: ModelCache,
        warmer: Warmer,
        service_times: ServiceTimes,
    ) -> None:
        self._url = url
        self._worker = lease.worker
        self._settings = settings
        self._lease = lease
        self._registration = registration
        self._scheduler = scheduler
        self._cache = cache
        self._warmer = warmer
        self._service_times = service_times
        self._announcing = threading.Lock()
        self._announced_at, self._announced = 0.0, set[str]()
        self._refusal = ""
        self.is_overgrown = False

    def thread(self, stopped: threading.Event) -> threading.Thread:
        """Return a thread that keeps the lease until ``stopped`` is set."""
        return threading.Thread(target=self._run, args=(stopped,), name="lease", daemon=True)

    def announce(self) -> None:
        """Announce now, from the main thread, what the worker has loaded.

        Raises:
            RedisError: Redis does not answer.
        """
        self._announce(self._registration)

    def _announce(self, registration: Registration) -> None:
        with self._announcing:  # or an older look at the cache could be written last
            registration.beat(self._scheduler.known, self._loaded(), self._warmer.failures())

    def _loaded(self) -> dict[str, int]:
        return {str(ref): size for ref, size in self._cache.loaded().items()}

    def _run(self, stopped: threading.Event) -> None:
        redis = connections.steady(self._url, self._worker)
        lease = self._lease.on(redis)
        registration = self._registration.on(redis)
        while not stopped.wait(self._settings.lease_s / 4):
            self._do(
                lambda: self._renew(lease),
                lambda: self._write_paces(redis),
                lambda: self._announce_at_times(registration),
            )

    def _do(self, *steps: Callable[[], None]) -> None:
        """Take the steps. One that fails costs the others nothing, unless Redis is away."""
        for step in steps:
            try:
                step()
            except UNREACHABLE as error:
                _log.debug("Redis is away: %s", error)
                return
            except OUTAGE as error:
                if str(error) != self._refusal:  # each said once, not four times a lease
                    _log.warning("Redis refuses a beat: %s", error, worker=self._worker)
                self._refusal = str(error)
            except Exception:  # without this thread, the worker would be taken for dead
                _log.exception("the lease is kept all the same", worker=self._worker)

    def _announce_at_times(self, registration: Registration) -> None:
        """Announce the worker every two seconds, and at once what it has newly loaded."""
        loaded = set(self._loaded())
        if time.monotonic() - self._announced_at >= _BEAT_S or loaded != self._announced:
            self._announce(registration)
            self._announced_at, self._announced = time.monotonic(), loaded
            self._check_memory()

    def _renew(self, lease: Lease) -> None:
        held = self._lease.held
        if held is not None and not lease.renew(held.token) and self._lease.held is held:
            _log.warning(
                "the lease was lost; what the batch yields will not be written",
                worker=self._worker,
                queue=held.queue,
            )

    def _write_paces(self, redis: Redis) -> None:
        paces = self._service_times.unwritten()
        if paces:
            write_paces(redis, paces)
            self._service_times.mark_written(paces)

    def _check_memory(self) -> None:
        """Ask for the process to be replaced, after its batch, if it has grown too large."""
        used, limit = used_bytes(), worker_limit_bytes(self._settings)
        if used > limit and not self.is_overgrown:
            self.is_overgrown = True
            _log.warning(
                "the worker uses %d bytes, its bound is %d: it leaves",
                used,
                limit,
                worker=self._worker,
            )
