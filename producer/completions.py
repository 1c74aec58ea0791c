"""Completion listener: one connection on which a gateway process learns that jobs have ended.

Every end of a job is published on one channel. One thread listens for all waiters of the process,
reads the awaited jobs in one round trip and passes all of them on at once; each waiter decodes its
job. Missed ends (a lost message, a job ended by a stock ``rq worker``) are found by reading all
awaited jobs every half second: the channel makes it fast, the second look makes it sure.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from redis import Redis
from redis.exceptions import RedisError

from producer.results import Raw, read_raw
from producer.submission import CHUNK
from yard.broker import Subscription, connections
from yard.contract import keys, lenient
from yard.platform import renew_in_children

#: Seconds between reads of all awaited jobs, in case a message was lost.
LOOK_S = 0.5

_log = logging.getLogger(__name__)

#: A waiter, opaque to the listener.
W = TypeVar("W")


class CompletionListener(Generic[W]):
    """Listens on a thread of its own from the first wait on; safe for threads.

    Args:
        url: The Redis to listen on.
        tell: Called on that thread with waiters whose jobs have ended, or are gone, and what Redis
            holds of them.
    """

    def __init__(self, url: str, tell: Callable[[Sequence[tuple[W, Raw]]], None]) -> None:
        self._url = url
        self._tell = tell
        self._begin()
        renew_in_children(self, CompletionListener._begin)

    def _begin(self) -> None:
        """Starts without waiters; in a forked child the parent's, and its thread, are gone."""
        self._lock = threading.Lock()
        self._waiters: dict[str, tuple[W, ...]] = {}
        self._seen: set[str] = set()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def expect(self, job_id: str, waiter: W) -> None:
        """Registers a waiter for a job; if it is submitted after this call, no end is missed."""
        with self._lock:
            self._waiters[job_id] = (*self._waiters.get(job_id, ()), waiter)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="mailbox", daemon=True)
                self._thread.start()

    def confirm(self, job_id: str) -> None:
        """Notes that an awaited job is in Redis: if it is not there later, it was removed."""
        with self._lock:
            if job_id in self._waiters:
                self._seen.add(job_id)

    def forget(self, job_id: str, waiter: W) -> None:
        """Ends a wait, whether its job has ended or not."""
        with self._lock:
            left = tuple(one for one in self._waiters.pop(job_id, ()) if one is not waiter)
            if left:
                self._waiters[job_id] = left
            else:
                self._seen.discard(job_id)

    @property
    def waiting(self) -> int:
        """Number of waiters."""
        return sum(map(len, list(self._waiters.values())))

    def close(self) -> None:
        """Stops listening."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=2 * LOOK_S)

    def _run(self) -> None:
        pause_s = 0.05
        while not self._closed.is_set():
            try:
                self._listen()
                pause_s = 0.05
                continue
            except (RedisError, OSError) as error:
                _log.warning("waiting for results: Redis is away: %s", error)
            except Exception:  # without this thread, every wait would run into its timeout
                _log.exception("waiting for results: the listener goes on")
            self._closed.wait(pause_s)
            pause_s = min(1.0, pause_s * 2)

    def _listen(self) -> None:
        """Delivers until Redis goes away."""
        with (
            connections.steady(self._url) as reader,
            Subscription(self._url, keys.ENDED, LOOK_S) as subscription,
        ):
            looked = 0.0
            while not self._closed.is_set():
                ended = lenient.decode(subscription.next()).split()
                now = time.monotonic()
                if now - looked >= LOOK_S:
                    ended, looked = list(self._waiters), now
                self._deliver(reader, ended)

    def _deliver(self, reader: Redis, job_ids: Iterable[str]) -> None:
        wanted = [job_id for job_id in job_ids if job_id in self._waiters]
        for begin in range(0, len(wanted), CHUNK):
            chunk = wanted[begin : begin + CHUNK]
            with self._lock:  # before the read: a job confirmed behind it may not have been there
                seen = self._seen.intersection(chunk)
            told = [
                (waiter, raw)
                for job_id, raw in zip(chunk, read_raw(reader, chunk), strict=True)
                if raw[0][0] in _ENDED or (raw[0][0] is None and job_id in seen)
                for waiter in self._waiters.get(job_id, ())
            ]
            if told:
                self._pass_on(told)

    def _pass_on(self, told: Sequence[tuple[W, Raw]]) -> None:
        """Passes ended jobs on; if that fails, each by itself, so that it costs no other waiter."""
        try:
            self._tell(told)
        except Exception:
            _log.exception("waiting for results: %d waiters could not be told at once", len(told))
            for one in told:
                try:
                    self._tell([one])
                except Exception:
                    _log.exception("waiting for results: a waiter could not be told")


_ENDED = frozenset({b"finished", b"failed", b"canceled", b"stopped"})
