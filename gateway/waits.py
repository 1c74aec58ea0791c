"""Waiting for jobs: so many requests at once, each for so long, and all of them end on SIGTERM."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from producer.client import Client, Handle, Pending
from producer.contract import Job, Request
from producer.errors import ModelyardError
from producer.mailbox import Mailbox, Waiter

#: How often a waiting thread looks whether the process is to stop.
_SLICE_S = 0.5


class Waits:
    """Waits for jobs; safe for threads.

    Args:
        client: Submits and reads jobs.
        mailbox: Tells that jobs have ended.
        most: Requests that may wait at once.
    """

    def __init__(self, client: Client, mailbox: Mailbox, most: int) -> None:
        self._client = client
        self._mailbox = mailbox
        self._slots = threading.BoundedSemaphore(most)
        self._ends = float("inf")

    @contextmanager
    def slot(self) -> Iterator[bool]:
        """Whether the request may wait; it holds the slot while inside."""
        is_granted = self._slots.acquire(blocking=False)
        try:
            yield is_granted
        finally:
            if is_granted:
                self._slots.release()

    def end_within(self, seconds: float) -> None:
        """Let every wait, also those that are yet to come, end in so many seconds."""
        self._ends = min(self._ends, time.monotonic() + seconds)

    def submit(self, request: Request, job_id: str, timeout_s: float) -> Job | Handle:
        """Queue a job and wait for it: the ended job, or the handle of one that lives on.

        The wait is set up before the job exists, so that its end cannot be missed, and the thread
        sleeps once for both: a submission that goes well does not wake it.

        Raises:
            ModelyardError: As `Client.submit_request`; no job was made.
        """
        with self._mailbox.expect(job_id) as waiter:
            pending = self._client.begin(request, job_id, waiter.latch)
            job = self._wait(waiter, timeout_s, pending)
            if job is not None:
                return job
            handle = pending.handle()
        if handle.is_repeat:
            job = self.read(handle.id, timeout_s)
            return job if job.status.is_terminal else handle
        return self._last_look(handle.id) or handle

    def read(self, job_id: str, timeout_s: float) -> Job:
        """A job as it stands when it ends, or at the end of the wait.

        Raises:
            UnknownJob: There is none, or its result has expired.
            Unavailable: Redis does not answer.
        """
        with self._mailbox.expect(job_id) as waiter:
            job = self._client.get(job_id)
            if job.status.is_terminal:
                return job
            return self._wait(waiter, timeout_s) or self._client.get(job_id)

    def _wait(self, waiter: Waiter, timeout_s: float, pending: Pending | None = None) -> Job | None:
        """The job, if it ends in time; None, too, where it was refused or is a repeat."""
        until = time.monotonic() + timeout_s
        while (left_s := min(until, self._ends) - time.monotonic()) > 0:
            job = waiter.wait(min(left_s, _SLICE_S))
            if job is not None:
                return job
            if pending is not None:
                pending.advance()
                if pending.is_settled:
                    return None
        return None

    def _last_look(self, job_id: str) -> Job | None:
        """The job, if it has ended although nobody said so; the caller knows it is accepted."""
        try:
            job = self._client.get(job_id)
        except ModelyardError:
            return None
        return job if job.status.is_terminal else None
