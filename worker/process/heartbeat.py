"""What a worker does beside its batches: keep the lease of the present one, and say that it lives.

The main thread is in a model most of the time, or waits; a thread of its own renews the lease,
announces what is loaded, tells how fast the worker is with each version, and sees whether the
process has grown too large. It has a client of its own, so that it waits for nothing that the main
thread does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog
from redis import Redis

from worker.inference import ServiceTimes, used_bytes, worker_limit_bytes
from worker.process.registration import Registration
from worker.queue import OUTAGE, Batch, Lease
from yard.broker import connections
from yard.cluster import write_paces
from yard.settings import Settings

_log = structlog.get_logger()

#: How often a worker says that it lives, in seconds.
_BEAT_S = 2.0


class Heartbeat:
    """The keeper of one worker.

    Args:
        url: The Redis to work on.
        worker: The worker's name.
        settings: How long a lease is, and how large the process may grow.
        service_times: How fast the worker is with each version.
        loaded: Bytes of each version that is loaded, by its ``model@version``.
        announce: Announces the worker, and what is loaded, through the registration that is given.

    Attributes:
        batch: What the main thread has in hand; None between two batches.
        is_overgrown: Whether the process has grown too large, and is to be replaced.
    """

    def __init__(
        self,
        url: str,
        worker: str,
        settings: Settings,
        service_times: ServiceTimes,
        loaded: Callable[[], dict[str, int]],
        announce: Callable[[Registration], None],
    ) -> None:
        self._url = url
        self._worker = worker
        self._settings = settings
        self._service_times = service_times
        self._loaded = loaded
        self._announce = announce
        self._telling = threading.Lock()
        self.batch: Batch | None = None
        self.is_overgrown = False

    def thread(self, registration: Registration, stopped: threading.Event) -> threading.Thread:
        """A thread that keeps the lease until ``stopped`` is set."""
        arguments = (registration, stopped)
        return threading.Thread(target=self._run, args=arguments, name="lease", daemon=True)

    def tell(self, registration: Registration) -> None:
        """Announce the worker now; from whichever thread.

        Raises:
            RedisError: Redis does not answer.
        """
        with self._telling:  # or an older look at the cache could be written last
            self._announce(registration)

    def _run(self, registration: Registration, stopped: threading.Event) -> None:
        redis = connections.steady(self._url, self._worker)
        lease = Lease(redis, self._worker, self._settings)
        registration = registration.on(redis)
        beaten, told = 0.0, set[str]()
        while not stopped.wait(self._settings.lease_s / 4):
            try:
                self._renew(lease)
                self._tell_paces(redis)
                loaded = self._loaded().keys()
                if time.monotonic() - beaten >= _BEAT_S or loaded != told:
                    self.tell(registration)
                    self._check_memory()
                    beaten, told = time.monotonic(), set(loaded)
            except OUTAGE as error:
                _log.debug("Redis is away: %s", error)
            except Exception:  # without this thread, the worker would be taken for dead
                _log.exception("the lease is kept all the same", worker=self._worker)

    def _renew(self, lease: Lease) -> None:
        batch = self.batch
        if batch is not None and not lease.renew(batch.token) and self.batch is batch:
            _log.warning(
                "the lease was lost; what the batch yields will not be written",
                worker=self._worker,
                queue=batch.queue,
            )

    def _tell_paces(self, redis: Redis) -> None:
        news = self._service_times.news()
        if news:
            write_paces(redis, news)
            self._service_times.told(news)

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
