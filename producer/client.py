"""The client: submits jobs, waits for them, reads and cancels them.

A request becomes a job in one round trip (`producer.submission`), which threads that submit at the
same time share (`producer.group_commit`). The end of a job is read from RQ's result stream.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from producer.bulk import Progress, as_completed, map_rows
from producer.group_commit import GroupCommit
from producer.handle import Handle
from producer.plain import deeply_plain_request, plain_request
from producer.results import Raw, found_job, read_jobs, read_when_ended
from producer.submission import CHUNK, Outcome, PreparedJob, Submitter, chunked, first_chunk_size
from yard import local
from yard.broker import connections, redis_reachable
from yard.cancellation import cancel_job
from yard.contract import Job, ModelRef, Request, check_job_id
from yard.errors import InvalidRequest, JobEnded, ModelyardError, Timeout, Unavailable, UnknownJob
from yard.registry import Catalog
from yard.routing import resolve
from yard.settings import Settings

#: Longest blocking read, in seconds; after it the job itself is looked at.
_SLICE_S = 1.0

#: Seconds between a connection that was lost and the next read, and most such last reads of a wait.
_AGAIN_S, _LAST_READS = 0.01, 20


class Client:
    """Submits jobs to one Redis; safe for threads.

    Args:
        url: The Redis; by default that of ``settings``, else of the running yard.
        settings: Bounds and times to live; by default from the environment.

    Attributes:
        settings: As given.
        url: As given, or found.
        redis: Connections that answer quickly or not at all.
        submitter: Prepares and queues jobs; the gateway calls it from its event loop.

    Raises:
        ConfigurationError: There is no Redis to be found, or the URL is none.
    """

    def __init__(self, url: str | None = None, *, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.load()
        self.url = url or local.redis_url(self.settings)
        self.redis: Redis = connections.fast(self.url)
        self.catalog = Catalog(self.redis)
        self.submitter = Submitter(self.redis, self.catalog, self.settings, self)
        self._blocking: Redis = connections.blocking(self.url, _SLICE_S)
        self._commits = GroupCommit(self.submitter.submit, first_chunk_size)
        self._reads = GroupCommit(self._read, lambda ids: min(len(ids), CHUNK))

    def close(self) -> None:
        """Closes the connections."""
        self.redis.close()
        self._blocking.close()

    def submit(
        self,
        model: str,
        *,
        instances: Any = None,
        inputs: Any = None,
        version: str | None = None,
        routing_key: str | None = None,
        outputs: Sequence[str] | None = None,
        deadline_ms: int | None = None,
        idempotency_key: str | None = None,
    ) -> Handle:
        """Queues one job; `yard.contract.values.Request` documents the arguments.

        Arrays of NumPy and frames of pandas, or whatever looks like them, stand for lists: a frame
        for the columns that it has.

        Raises:
            InvalidInput: The rows do not fit the version's signature; the error names the places.
            TooLarge: Too many rows, or too many bytes.
            UnknownModel: No version of the model is published.
            UnknownVersion: The version, or alias, is not.
            NoActiveVersion: The model's keys route to nothing.
            IdempotencyMismatch: The idempotency key was used with another body.
            QueueFull: The version's queue is at its bound.
            Unavailable: Redis does not answer. The job may have been queued: look for it by the
                error's ``job_ids``, or repeat with an idempotency key to be sure that it is queued
                once.
        """
        request = Request(
            model, instances, inputs, version, routing_key, outputs, deadline_ms, idempotency_key
        )
        return self.submit_request(request)

    def submit_request(self, request: Request, job_id: str | None = None) -> Handle:
        """Queues one job as `submit` does, from a `Request`.

        With ``job_id`` a caller can wait before it submits, and repeating the call queues one job.
        """
        prepared = self._prepare(request, job_id)
        try:
            outcome = self._commits.ask(prepared)
        except Unavailable as error:  # it names every job of the group
            raise Unavailable(error.message, [prepared.id]) from error
        if isinstance(outcome, ModelyardError):
            raise outcome
        return outcome

    def submit_many(self, requests: Iterable[Request]) -> list[Outcome]:
        """Queues many jobs in few round trips; returns for each its handle, or why it was refused.

        Raises:
            Unavailable: Redis does not answer. The error's ``job_ids`` are those that were queued,
                and may have been.
        """
        outcomes: list[Outcome] = []
        prepared: list[PreparedJob | ModelyardError] = []
        try:
            for request in requests:
                prepared.append(self._prepared(request))
                if len(prepared) == CHUNK:
                    self._submit_all(prepared, outcomes)
                    prepared = []
            self._submit_all(prepared, outcomes)
        except Unavailable as error:
            queued = [one.id for one in outcomes if isinstance(one, Handle)]
            raise Unavailable(error.message, [*queued, *error.job_ids]) from error
        return outcomes

    def get(self, job_id: str) -> Job:
        """Reads a job as it stands.

        Raises:
            InvalidName: The id is outside the alphabet.
            UnknownJob: There is none, or its result has expired.
            Unavailable: Redis does not answer.
        """
        return found_job(job_id, self._reads.ask(check_job_id(job_id)))

    def wait(self, job_id: str, timeout_s: float = 30.0) -> Job:
        """Waits for a job to end and returns it.

        Raises:
            Timeout: It did not end within ``timeout_s`` seconds; it lives on.
            UnknownJob: There is none, or its result has expired.
            Unavailable: Redis does not answer.
        """
        check_job_id(job_id)
        ends = time.monotonic() + timeout_s
        newest, left_s = "0", timeout_s
        while left_s > 0:
            slice_s = min(left_s, _SLICE_S)
            try:
                with redis_reachable():
                    newest, raw = read_when_ended(self._blocking, job_id, newest, slice_s)
            except Unavailable as error:
                self._check_up(error)
            else:
                job = found_job(job_id, raw)
                if job.status.is_terminal:
                    return job
            left_s = ends - time.monotonic()
        job = self._get_at_last(job_id)
        if job.status.is_terminal:
            return job
        raise Timeout(f"job {job_id} did not end within {timeout_s:g} s", job_id)

    def as_completed(
        self,
        handles: Iterable[Handle | str],
        timeout_s: float | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Job]:
        """Yields each job once, as soon as it has ended, however it ended.

        Args:
            handles: The jobs, or their ids.
            timeout_s: Seconds from this call for all of them; None waits without end.
            progress: Called with the number of jobs that have ended, and of all.

        Raises:
            Timeout: Some did not end in time; they live on.
            UnknownJob: One is not there, or its result has expired.
            Unavailable: Redis does not answer.
        """
        return as_completed(self, self._blocking, handles, timeout_s, progress)

    def map(
        self,
        model: str,
        rows: Iterable[Any],
        *,
        rows_per_job: int = 1,
        in_flight: int = 256,
        timeout_s: float = 30.0,
        return_errors: bool = False,
        progress: Progress | None = None,
        version: str | None = None,
        routing_key: str | None = None,
        outputs: Sequence[str] | None = None,
        deadline_ms: int | None = None,
    ) -> Iterator[Any]:
        """Yields the answer to each row, in order, with a bounded number of jobs in flight.

        An answer is a dict of outputs: ``{"predictions": "setosa", "probabilities": [...]}``. While
        the queue is full, submitting waits. If the iterator is left early, the jobs in flight live
        on.

        Args:
            model: The model.
            rows: Rows as ``instances`` takes them, read as they are needed; also an array or a
                frame.
            rows_per_job: Rows that are one job, and fail together.
            in_flight: Jobs at most that are queued and not yet returned.
            timeout_s: Seconds to wait for the next answer.
            return_errors: True yields the error of a row whose job failed or was refused, in its
                place.
            progress: Called with the number of rows that are answered, and of all or None.
            version: As in `submit`.
            routing_key: As in `submit`.
            outputs: As in `submit`.
            deadline_ms: As in `submit`.

        Raises:
            ModelyardError: A job was refused or failed, and ``return_errors`` is false.
            Timeout: The next answer did not come in time.
            Unavailable: Redis does not answer.
        """
        return map_rows(
            self,
            model,
            rows,
            rows_per_job=rows_per_job,
            in_flight=in_flight,
            timeout_s=timeout_s,
            return_errors=return_errors,
            progress=progress,
            options={
                "version": version,
                "routing_key": routing_key,
                "outputs": outputs,
                "deadline_ms": deadline_ms,
            },
        )

    def cancel(self, job_id: str) -> Job:
        """Cancels a job that has not ended; a started job's output is dropped. Repeating is fine.

        Raises:
            JobEnded: It has finished or failed.
            UnknownJob: There is none, or its result has expired.
            Unavailable: Redis does not answer.
        """
        with redis_reachable():
            outcome = cancel_job(self.redis, job_id, self.settings.result_ttl_s)
        if outcome == b"unknown":
            raise UnknownJob(f"no job {job_id!r}: it never was, or its result has expired")
        job = self.get(job_id)
        if outcome == b"ended":
            raise JobEnded(f"job {job_id} has {job.status} already")
        return job

    def resolve(self, model: str, version: str | None = None, point: float = 0.0) -> ModelRef:
        """Returns the version that a request would get now, by its name, its alias or the route.

        Raises:
            UnknownModel: No version of the model is published.
            UnknownVersion: The version, or alias, is not.
            NoActiveVersion: The model's keys route to nothing.
            Unavailable: Redis does not answer.
        """
        with redis_reachable():
            return resolve(self.redis, model, version, point)

    def _prepare(self, request: Request, job_id: str | None = None) -> PreparedJob:
        """Prepares a request that may hold arrays or frames; see `Submitter.prepare`."""
        request = plain_request(request)
        try:
            return self.submitter.prepare(request, job_id)
        except InvalidRequest:
            plain = deeply_plain_request(request)  # arrays and scalars inside of lists
            if plain is None:
                raise
            return self.submitter.prepare(plain, job_id)

    def _get_at_last(self, job_id: str) -> Job:
        """Reads a job as `get` does, again where only the connection was lost."""
        for _ in range(_LAST_READS):
            try:
                return self.get(job_id)
            except Unavailable as error:
                self._check_up(error)
        return self.get(job_id)

    def _check_up(self, error: Unavailable) -> None:
        """Returns, after a pause, if a read may be repeated: Redis has but closed the connection.

        Raises:
            Unavailable: The same error; Redis is away.
        """
        is_lost = isinstance(error.__cause__, RedisConnectionError)
        if not is_lost or not connections.is_up(self._blocking):
            raise error
        time.sleep(_AGAIN_S)

    def _read(self, job_ids: Sequence[str]) -> list[Raw]:
        return read_jobs(self.redis, job_ids)

    def _prepared(self, request: Request) -> PreparedJob | ModelyardError:
        """Prepares a request; returns the error of one that cannot become a job.

        Raises:
            Unavailable: Redis does not answer.
        """
        try:
            return self._prepare(request)
        except Unavailable:
            raise
        except ModelyardError as error:
            return error

    def _submit_all(
        self, prepared: Sequence[PreparedJob | ModelyardError], outcomes: list[Outcome]
    ) -> None:
        """Submits prepared jobs; appends to ``outcomes`` theirs and the errors between, in order.

        Raises:
            Unavailable: Redis does not answer; it names the jobs that may have been queued.
        """
        good = [one for one in prepared if isinstance(one, PreparedJob)]
        found: list[Outcome] = []
        for chunk in chunked(good):
            try:
                found += self.submitter.submit(chunk)
            except Unavailable as error:
                sent = [one.id for one in good[: len(found)]]
                raise Unavailable(error.message, [*sent, *error.job_ids]) from error
        replies = iter(found)
        outcomes += [one if isinstance(one, ModelyardError) else next(replies) for one in prepared]
