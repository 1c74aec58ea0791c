"""Waiting for jobs: so many calls at once, each for so long, and all of them end on SIGTERM.

Everything here runs on the event loop: a call that waits is a future, and costs no thread. What is
asked of Redis goes there in groups (`gateway.services.redis_batcher`), and the mailbox's thread
tells which jobs have ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from gateway.http import Threads
from gateway.services.redis_batcher import FutureSettler, RedisBatcher
from producer.client import Client, Handle
from producer.completions import CompletionListener
from producer.results import Raw, found_job
from producer.submission import CHUNK, Draft, first_chunk
from yard.contract import Job, Request
from yard.errors import ModelyardError, Unavailable

#: A wait's future: what Redis holds of the ended job; None if there is nothing to wait for.
_Ended = asyncio.Future[Raw | None]


class AsyncClient:
    """Submits jobs, reads them and waits for them, on one event loop.

    Args:
        client: Submits and reads jobs.
        loop: The event loop.
        threads: Where large results are decoded.
        most: Calls that may wait at once.
    """

    def __init__(
        self, client: Client, loop: asyncio.AbstractEventLoop, threads: Threads, most: int
    ) -> None:
        self._client = client
        self._loop = loop
        self._threads = threads
        handover = FutureSettler(loop)
        self._drafts = RedisBatcher("drafts", handover, self._draft)
        self._commits = RedisBatcher("commits", handover, client.submit_drafts, first_chunk)
        self._reads = RedisBatcher("reads", handover, client.read, lambda ids: min(len(ids), CHUNK))
        self.completions: CompletionListener[_Ended] = CompletionListener(client.url, handover.tell)
        self._left = most
        self._waiting: set[_Ended] = set()
        self._ends = float("inf")

    def close(self) -> None:
        """End all threads; nobody waits any more."""
        self.completions.close()
        for errands in (self._drafts, self._commits, self._reads):
            errands.close()

    @contextmanager
    def slot(self) -> Iterator[bool]:
        """Whether the call may wait; it holds the slot while inside."""
        is_granted = self._left > 0
        self._left -= is_granted
        try:
            yield is_granted
        finally:
            self._left += is_granted

    def end_within(self, seconds: float) -> None:
        """Let all waits, also those that are yet to come, end by then; safe for threads."""
        self._loop.call_soon_threadsafe(self._end_within, seconds)

    async def draft(self, request: Request, job_id: str) -> Draft:
        """The request, checked.

        Raises:
            ModelyardError: As `Client.draft`; no job was made.
        """
        return self._client.draft_at_once(request, job_id) or await self._drafts.ask(
            (request, job_id)
        )

    async def submit(self, draft: Draft) -> Handle:
        """Queue a job.

        Raises:
            ModelyardError: As `Client.submit_request`.
        """
        return await _answer(draft, self._commits.ask(draft))

    async def predict(self, draft: Draft, timeout_s: float) -> Job | Handle:
        """Queue a job and wait for it: the ended job, or the handle of one that lives on.

        The wait is set up before the job exists, so that its end cannot be missed.

        Raises:
            ModelyardError: As `Client.submit_request`.
        """
        ended: _Ended = self._loop.create_future()
        self.completions.expect(draft.id, ended)
        try:
            committed = self._commits.ask(draft)
            committed.add_done_callback(partial(_end_if_settled, ended))
            raw = await self._ended(ended, timeout_s)
        finally:
            self.completions.forget(draft.id, ended)
        if raw is not None:
            return await self._found(draft.id, raw)
        handle = await _answer(draft, committed)
        if handle.is_repeat:
            job = await self.wait(handle.id, timeout_s)
            return job if job.status.is_terminal else handle
        return await self._last_look(handle.id) or handle

    async def get(self, job_id: str) -> Job:
        """A job as it stands.

        Raises:
            UnknownJob: There is none, or its result has expired.
            Unavailable: Redis does not answer.
        """
        return await self._found(job_id, await self._reads.ask(job_id))

    async def wait(self, job_id: str, timeout_s: float) -> Job:
        """A job as it stands when it ends, or at the end of the wait.

        Raises:
            UnknownJob: There is none, or its result has expired.
            Unavailable: Redis does not answer.
        """
        ended: _Ended = self._loop.create_future()
        self.completions.expect(job_id, ended)
        try:
            job = await self.get(job_id)
            if job.status.is_terminal:
                return job
            raw = await self._ended(ended, timeout_s)
        finally:
            self.completions.forget(job_id, ended)
        return await (self.get(job_id) if raw is None else self._found(job_id, raw))

    async def _found(self, job_id: str, raw: Raw) -> Job:
        size_bytes = sum(map(len, raw[1].values()))
        return await self._threads.aside(size_bytes, found_job, job_id, raw)

    async def _ended(self, ended: _Ended, timeout_s: float) -> Raw | None:
        """What Redis holds of the job, if it ends in time."""
        until = min(self._loop.time() + timeout_s, self._ends)
        timer = self._loop.call_at(until, _end, ended)
        self._waiting.add(ended)
        try:
            return await ended
        finally:
            timer.cancel()
            self._waiting.discard(ended)

    async def _last_look(self, job_id: str) -> Job | None:
        """The job, if it has ended although nobody said so; the caller knows it is accepted."""
        try:
            job = await self.get(job_id)
        except ModelyardError:
            return None
        return job if job.status.is_terminal else None

    def _draft(self, asked: Sequence[tuple[Request, str]]) -> list[Draft | ModelyardError]:
        """What becomes of each request, on a thread that may wait for Redis.

        Raises:
            Unavailable: Redis does not answer.
        """
        return [self._drafted(request, job_id) for request, job_id in asked]

    def _drafted(self, request: Request, job_id: str) -> Draft | ModelyardError:
        try:
            return self._client.draft(request, job_id)
        except Unavailable:
            raise
        except ModelyardError as error:
            return error

    def _end_within(self, seconds: float) -> None:
        self._ends = min(self._ends, self._loop.time() + seconds)
        self._loop.call_at(self._ends, self._end_all)

    def _end_all(self) -> None:
        for ended in list(self._waiting):
            _end(ended)


async def _answer(draft: Draft, committed: asyncio.Future[Handle]) -> Handle:
    """The job that a draft has become; where Redis did not answer, the error names that job only.

    Raises:
        ModelyardError: As `Client.submit_request`.
    """
    try:
        return await committed
    except Unavailable as error:  # told to all whose drafts were sent together
        raise Unavailable(error.message, {draft.id} & {*error.job_ids}) from error


def _end(ended: _Ended) -> None:
    """End a wait without its job."""
    if not ended.done():
        ended.set_result(None)


def _end_if_settled(ended: _Ended, committed: asyncio.Future[Handle]) -> None:
    """End a wait whose job was refused, or is an earlier request's."""
    if committed.cancelled() or committed.exception() is not None or committed.result().is_repeat:
        _end(ended)
