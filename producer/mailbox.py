"""Many waits, one connection: how a gateway process learns that jobs have ended.

Every end of a job is published on one channel. One thread listens for all waiters of the process
and reads, in one round trip, those jobs that somebody here waits for; each waiter's own thread
decodes its job. What was missed (a lost message, a job ended by a stock ``rq worker``) is found by
looking again every half second, so the channel makes it fast and the look makes it sure.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from redis.exceptions import RedisError

from producer import connect, keys
from producer.contract import Job
from producer.latch import Latch
from producer.results import Raw, decode_job, read_raw
from producer.subscription import Subscription

#: How often all waiting jobs are looked at, in case a message was lost.
LOOK_S = 0.5

_log = logging.getLogger(__name__)


class Waiter:
    """One thread's wait for one job; made by `Mailbox.expect`.

    Attributes:
        job_id: The job.
        latch: What the thread waits on, also for what comes before the job's end.
    """

    __slots__ = ("_raw", "job_id", "latch")

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.latch = Latch()
        self._raw: Raw | None = None

    def wait(self, timeout_s: float) -> Job | None:
        """The ended job; None if it does not end in ``timeout_s`` seconds, or the latch was set."""
        if self._raw is None:
            self.latch.wait(timeout_s)
        return None if self._raw is None else decode_job(self.job_id, self._raw)

    def deliver(self, raw: Raw) -> None:
        """Wake the waiting thread."""
        self._raw = raw
        self.latch.set()


class Mailbox:
    """Listens on a thread of its own from the first wait on; safe for threads.

    Args:
        url: The Redis to listen on.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._waiters: dict[str, list[Waiter]] = {}
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    @contextmanager
    def expect(self, job_id: str) -> Iterator[Waiter]:
        """A waiter for ``job_id``, which may be submitted after this call: nothing is missed."""
        waiter = Waiter(job_id)
        with self._lock:
            self._waiters.setdefault(job_id, []).append(waiter)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="mailbox", daemon=True)
                self._thread.start()
        try:
            yield waiter
        finally:
            self._forget(waiter)

    @property
    def waiting(self) -> int:
        """How many threads wait."""
        return sum(map(len, list(self._waiters.values())))

    def close(self) -> None:
        """Stop listening."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=2 * LOOK_S)

    def _forget(self, waiter: Waiter) -> None:
        with self._lock:
            left = [other for other in self._waiters.get(waiter.job_id, []) if other is not waiter]
            if left:
                self._waiters[waiter.job_id] = left
            else:
                self._waiters.pop(waiter.job_id, None)

    def _run(self) -> None:
        pause_s = 0.05
        while not self._closed.is_set():
            try:
                self._listen()
                pause_s = 0.05
            except (RedisError, OSError) as error:
                _log.warning("waiting for results: Redis is away: %s", error)
                self._closed.wait(pause_s)
                pause_s = min(1.0, pause_s * 2)

    def _listen(self) -> None:
        """Deliver until Redis goes away."""
        with (
            connect.steady(self._url) as reader,
            Subscription(self._url, keys.ENDED, LOOK_S) as subscription,
        ):
            looked = 0.0
            while not self._closed.is_set():
                ended = (subscription.next() or b"").decode("utf-8", "replace").split()
                now = time.monotonic()
                if now - looked >= LOOK_S:
                    ended, looked = list(self._waiters), now
                self._deliver(reader, ended)

    def _deliver(self, reader: Redis, job_ids: list[str]) -> None:
        wanted = [job_id for job_id in job_ids if job_id in self._waiters]
        if not wanted:
            return
        for job_id, raw in zip(wanted, read_raw(reader, wanted), strict=True):
            if raw[0][0] in _ENDED:
                with self._lock:
                    waiters = list(self._waiters.get(job_id, ()))
                for waiter in waiters:
                    waiter.deliver(raw)


_ENDED = frozenset({b"finished", b"failed", b"canceled", b"stopped"})
