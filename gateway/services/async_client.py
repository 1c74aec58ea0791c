"""The client for the event loop: submits jobs, reads them and waits for them.

A call that waits is a future and costs no thread. Calls to Redis go in groups
(`gateway.services.redis_batcher`), and the listener's thread reports which jobs have ended. The
number of waits is bounded, each has a timeout, and all of them end on SIGTERM.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from gateway.http import Threads
from gateway.services.redis_batcher import FutureSettler, RedisBatcher
from producer import Client, Handle
from producer.completions import CompletionListener
from producer.results import Raw, found_job, read_jobs
from producer.submission import CHUNK, PreparedJob, first_chunk_size
from yard.contract import Job, Request
from yard.errors import ModelyardError, Unavailable

#: A wait's future: the ended job as Redis has it; None if the wait ended without the job.
_Ended = asyncio.Future[Raw | None]


class AsyncClient:
    """Submits jobs, reads them and waits for them, on one event loop.

    Args:
        client: Submits and reads jobs.
        loop: The event loop.
        threads: Decode large results.
        max_waits: Calls that may wait at once.
    """

    def __init__(
        self, client: Client, loop: asyncio.AbstractEventLoop, threads: Threads, max_waits: int
    ) -> None:
        self._submitter = client.submitter
        self._loop = loop
        self._threads = threads
        settler = FutureSettler(loop)
        self._preparing = RedisBatcher("preparing", settler, self._prepare)
        self._commits = RedisBatcher("commits", settler, self._submitter.submit, first_chunk_size)
        self._reads = RedisBatcher(
            "reads", settler, partial(read_jobs, client.redis), lambda ids: min(len(ids), CHUNK)
        )
        self.completions: CompletionListener[_Ended] = CompletionListener(
            client.url, settler.settle
        )
        self._free_slots = self._max_waits = max_waits
        self._waiting: set[_Ended] = set()
        self._deadline = float("inf")

    @property
    def waits(self) -> int:
        """Number of calls that hold a slot."""
        return self._max_waits - self._free_slots

    def close(self) -> None:
        """Ends all threads; no call may wait any more."""
        self.completions.close()
        for batcher in (self._preparing, self._commits, self._reads):
            batcher.close()

    @contextmanager
    def slot(self) -> Iterator[bool]:
        """Yields whether the call may wait; if so, it holds a slot within the context."""
        is_granted = self._free_slots > 0
        self._free_slots -= is_granted
        try:
            yield is_granted
        finally:
            self._free_slots += is_granted

    def end_within(self, seconds: float) -> None:
        """Makes all waits, later ones included, end within ``seconds``; safe for threads."""
        self._loop.call_soon_threadsafe(self._end_within, seconds)

    async def prepare(self, request: Request, job_id: str) -> PreparedJob:
        """Returns the request as a job, checked.

        Raises:
            ModelyardError: As `Submitter.prepare`; no job was made.
        """
        prepared = self._submitter.prepare_cached(request, job_id)
        return prepared or await self._preparing.enqueue((request, job_id))

    async def submit(self, job_id: str, commit: Callable[[], asyncio.Future[Handle]]) -> Handle:
        """Queues a job; the arguments are those of `predict`.

        Raises:
            ModelyardError: As `Client.submit_request`.
        """
        return await _handle(job_id, commit())

    def commit(self, prepared: PreparedJob) -> asyncio.Future[Handle]:
        """Queues a job with others; returns the future of its handle."""
        return self._commits.enqueue(prepared)

    async def predict(
        self, job_id: str, commit: Callable[[], asyncio.Future[Handle]], timeout_s: float
    ) -> Job | Handle:
        """Queues a job and waits for it: returns the ended job, or the handle of one that lives on.

        The wait is set up before the job exists, so that its end cannot be missed.

        Args:
            job_id: The id that the job will have.
            commit: Queues the job; let go of, with what it holds, before the wait.
            timeout_s: The longest wait, in seconds.

        Raises:
            ModelyardError: As `Client.submit_request`.
        """
        ended: _Ended = self._loop.create_future()
        self.completions.expect(job_id, ended)
        try:
            committed = commit()
            del commit  # its rows are in Redis soon: a wait must not hold their memory
            committed.add_done_callback(partial(self._settled, job_id, ended))
            try:
                raw = await self._ended(ended, timeout_s)
            except asyncio.CancelledError:
                committed.cancel()  # a large body that nobody has read yet need not be read
                raise
        finally:
            self.completions.forget(job_id, ended)
        if raw is not None:
            return await self._found(job_id, raw)
        handle = await _handle(job_id, committed)
        if handle.is_repeat:
            job = await self.wait(handle.id, timeout_s)
            return job if job.status.is_terminal else handle
        return await self._ended_unheard(handle.id) or handle

    async def get(self, job_id: str) -> Job:
        """Returns a job as it stands.

        Raises:
            UnknownJob: There is none, or its result has expired.
            Unavailable: Redis does not answer.
        """
        return await self._found(job_id, await self._reads.enqueue(job_id))

    async def wait(self, job_id: str, timeout_s: float) -> Job:
        """Returns a job as it stands when it ends, or after ``timeout_s``.

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
            self.completions.confirm(job_id)
            raw = await self._ended(ended, timeout_s)
        finally:
            self.completions.forget(job_id, ended)
        return await (self.get(job_id) if raw is None else self._found(job_id, raw))

    def _settled(self, job_id: str, ended: _Ended, committed: asyncio.Future[Handle]) -> None:
        """Ends a wait whose job was refused, or is an earlier request's."""
        is_refused = committed.cancelled() or committed.exception() is not None
        if is_refused or committed.result().is_repeat:
            _end(ended)
        else:
            self.completions.confirm(job_id)

    async def _found(self, job_id: str, raw: Raw) -> Job:
        size_bytes = sum(map(len, raw[1].values()))
        return await self._threads.run(size_bytes, found_job, job_id, raw)

    async def _ended(self, ended: _Ended, timeout_s: float) -> Raw | None:
        """Returns the job as Redis has it, if it ends in time."""
        until = min(self._loop.time() + timeout_s, self._deadline)
        timer = self._loop.call_at(until, _end, ended)
        self._waiting.add(ended)
        try:
            return await ended
        finally:
            timer.cancel()
            self._waiting.discard(ended)

    async def _ended_unheard(self, job_id: str) -> Job | None:
        """Returns the job if it has ended unannounced; errors may not hide that it is accepted."""
        try:
            job = await self.get(job_id)
        except ModelyardError:
            return None
        return job if job.status.is_terminal else None

    def _prepare(self, items: Sequence[tuple[Request, str]]) -> list[PreparedJob | ModelyardError]:
        """Returns each request's job, prepared, or error; runs on a thread that may wait for Redis.

        Raises:
            Unavailable: Redis does not answer.
        """
        return [self._prepared(request, job_id) for request, job_id in items]

    def _prepared(self, request: Request, job_id: str) -> PreparedJob | ModelyardError:
        try:
            return self._submitter.prepare(request, job_id)
        except Unavailable:
            raise
        except ModelyardError as error:
            return error

    def _end_within(self, seconds: float) -> None:
        self._deadline = min(self._deadline, self._loop.time() + seconds)
        self._loop.call_at(self._deadline, self._end_all)

    def _end_all(self) -> None:
        for ended in list(self._waiting):
            _end(ended)


async def _handle(job_id: str, committed: asyncio.Future[Handle]) -> Handle:
    """Returns the handle of a job; if Redis did not answer, the error names only that job.

    Raises:
        ModelyardError: As `Client.submit_request`.
    """
    try:
        return await committed
    except Unavailable as error:  # of all jobs that were sent together
        raise Unavailable(error.message, {job_id} & {*error.job_ids}) from error


def _end(ended: _Ended) -> None:
    """Ends a wait without its job."""
    if not ended.done():
        ended.set_result(None)
