"""The client: submit a job, wait for it, cancel it.

A request becomes a job in one round trip (`producer.submission`), which threads that submit at the
same time share (`producer.group_commit`); its end is read from RQ's result stream.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from redis import Redis

from producer.group_commit import GroupCommit
from producer.results import Raw, found_job, read_raw, read_when_ended
from producer.submission import (
    CHUNK,
    Accepted,
    Draft,
    Outcome,
    Submission,
    chunked,
    first_chunk,
)
from yard import local
from yard.broker import connections, redis_reachable
from yard.cancellation import cancel_job
from yard.contract import Job, ModelRef, Request, check_job_id
from yard.errors import JobEnded, ModelyardError, Timeout, Unavailable, UnknownJob
from yard.registry import Catalog
from yard.routing import resolve
from yard.settings import Settings

#: How long one blocking read waits before the job itself is looked at.
_SLICE_S = 1.0


@dataclass(frozen=True, slots=True)
class Handle(Accepted):
    """An accepted job, to wait for, to look at and to cancel.

    Attributes:
        client: Where it was submitted.
    """

    client: Client

    def get(self) -> Job:
        """The job as it stands.

        Raises:
            UnknownJob: Its result has expired.
            Unavailable: Redis does not answer.
        """
        return self.client.get(self.id)

    def wait(self, timeout_s: float = 30.0) -> Job:
        """The ended job.

        Raises:
            Timeout: It did not end in time; it lives on.
            Unavailable: Redis does not answer.
        """
        return self.client.wait(self.id, timeout_s)

    def cancel(self) -> Job:
        """Cancel it, see `Client.cancel`."""
        return self.client.cancel(self.id)


class Client:
    """Submits jobs to one Redis; safe for threads.

    Args:
        url: The Redis; by default that of ``settings``, else of the running yard.
        settings: Bounds and times to live; by default from the environment.

    Raises:
        ConfigurationError: There is no Redis to be found, or the URL is none.
    """

    def __init__(self, url: str | None = None, *, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.load()
        self.url = url or local.redis_url(self.settings)
        self.redis: Redis = connections.fast(self.url)
        self.catalog = Catalog(self.redis)
        self._blocking: Redis = connections.blocking(self.url, _SLICE_S)
        self._submission = Submission(self.redis, self.catalog, self.settings)
        self._commits = GroupCommit(self._submission.submit, first_chunk)
        self._reads = GroupCommit(self.read, lambda ids: min(len(ids), CHUNK))

    def close(self) -> None:
        """Give the connections back."""
        self.redis.close()
        self._blocking.close()

    def submit(
        self,
        model: str,
        *,
        instances: Sequence[Any] | None = None,
        inputs: Mapping[str, Sequence[Any]] | None = None,
        version: str | None = None,
        routing_key: str | None = None,
        outputs: Sequence[str] | None = None,
        deadline_ms: int | None = None,
        idempotency_key: str | None = None,
    ) -> Handle:
        """Queue one job; `yard.contract.values.Request` tells what the arguments mean.

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
        """As `submit`, from a `Request`; ``job_id`` lets a caller wait before it submits.

        Repeating it with the same ``job_id`` queues one job.
        """
        draft = self._submission.draft(request, job_id)
        with _naming(draft):
            outcome = self._commits.ask(draft)
        return self._accepted(outcome)

    def draft(self, request: Request, job_id: str | None = None) -> Draft:
        """The request, checked: what `submit_drafts` takes.

        Raises:
            ModelyardError: As `submit`; nothing was queued.
        """
        return self._submission.draft(request, job_id)

    def draft_at_once(self, request: Request, job_id: str) -> Draft | None:
        """As `draft`, but None where Redis would have to be asked, as it is to refuse rows.

        Raises:
            ModelyardError: The request cannot become a job, whatever Redis says.
        """
        return self._submission.draft_at_once(request, job_id)

    def submit_drafts(self, drafts: Sequence[Draft]) -> list[Handle | ModelyardError]:
        """Queue as many drafts as `first_chunk` says, at most; for each its handle, or a refusal.

        Raises:
            Unavailable: Redis does not answer. Jobs may have been queued; repeating is safe.
        """
        with _naming(*drafts):
            return [self._handle(outcome) for outcome in self._submission.submit(drafts)]

    def submit_many(self, requests: Iterable[Request]) -> list[Handle | ModelyardError]:
        """Queue many jobs in few round trips; for each its handle, or why it was refused.

        Raises:
            Unavailable: Redis does not answer. The error's ``job_ids`` are those that were queued,
                and may have been.
        """
        outcomes: list[Handle | ModelyardError] = []
        drafts: list[Draft | ModelyardError] = []
        try:
            for request in requests:
                drafts.append(self._drafted(request))
                if len(drafts) == CHUNK:
                    outcomes += self._submit_all(drafts)
                    drafts = []
            return outcomes + self._submit_all(drafts)
        except Unavailable as error:
            queued = [one.id for one in outcomes if isinstance(one, Handle)]
            raise Unavailable(error.message, [*queued, *error.job_ids]) from error

    def get(self, job_id: str) -> Job:
        """A job as it stands.

        Raises:
            InvalidName: The id is outside the alphabet.
            UnknownJob: There is none, or its result has expired.
            Unavailable: Redis does not answer.
        """
        return found_job(job_id, self._reads.ask(check_job_id(job_id)))

    def read(self, job_ids: Sequence[str]) -> list[Raw]:
        """Several jobs as they stand, at most `CHUNK`, for `producer.results.found_job`.

        Raises:
            Unavailable: Redis does not answer.
        """
        with redis_reachable():
            return read_raw(self.redis, job_ids)

    def wait(self, job_id: str, timeout_s: float = 30.0) -> Job:
        """The ended job, as soon as it ends.

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
            with redis_reachable():
                newest, raw = read_when_ended(self._blocking, job_id, newest, slice_s)
            job = found_job(job_id, raw)
            if job.status.is_terminal:
                return job
            left_s = ends - time.monotonic()
        job = self.get(job_id)
        if job.status.is_terminal:
            return job
        raise Timeout(f"job {job_id} did not end within {timeout_s:g} s", job_id)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job that has not ended; a started one's output is dropped. Repeating is fine.

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
        """The version that a request would get now, by its name, its alias or the route.

        Raises:
            UnknownModel: No version of the model is published.
            UnknownVersion: The version, or alias, is not.
            NoActiveVersion: The model's keys route to nothing.
            Unavailable: Redis does not answer.
        """
        with redis_reachable():
            return resolve(self.redis, model, version, point)

    def _drafted(self, request: Request) -> Draft | ModelyardError:
        """The request as a draft, or why it can be none.

        Raises:
            Unavailable: Redis does not answer.
        """
        try:
            return self._submission.draft(request)
        except Unavailable:
            raise
        except ModelyardError as error:
            return error

    def _submit_all(
        self, drafts: Sequence[Draft | ModelyardError]
    ) -> list[Handle | ModelyardError]:
        """What becomes of each draft; of what is none already, itself."""
        good = [draft for draft in drafts if isinstance(draft, Draft)]
        found: list[Outcome] = []
        for chunk in chunked(good):
            with _naming(*good[: len(found) + len(chunk)]):
                found += self._submission.submit(chunk)
        outcomes = iter(found)
        return [
            self._handle(next(outcomes)) if isinstance(draft, Draft) else draft for draft in drafts
        ]

    def _accepted(self, outcome: Outcome) -> Handle:
        """The handle of an accepted job; raises why it was refused."""
        handle = self._handle(outcome)
        if isinstance(handle, ModelyardError):
            raise handle
        return handle

    def _handle(self, outcome: Outcome) -> Handle | ModelyardError:
        if isinstance(outcome, Accepted):
            return Handle(
                id=outcome.id,
                model=outcome.model,
                version=outcome.version,
                queue=outcome.queue,
                is_repeat=outcome.is_repeat,
                client=self,
            )
        return outcome


@contextmanager
def _naming(*drafts: Draft) -> Iterator[None]:
    """Lets Redis' absence tell which jobs may have been queued."""
    try:
        yield
    except Unavailable as error:
        raise Unavailable(error.message, [draft.id for draft in drafts]) from error
