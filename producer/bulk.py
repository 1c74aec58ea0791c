"""Many jobs at once: jobs in the order in which they end, and rows mapped to answers in order.

Both read Redis by blocking on result streams, so that an end is seen at once, and look at all jobs
that are awaited once a second, for those that end without a result, as canceled ones do.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from redis import Redis

from producer.handle import Handle
from producer.plain import rows_of
from producer.results import found_job, read_jobs
from producer.submission import CHUNK, Outcome
from yard.broker import redis_reachable
from yard.contract import Job, Request, check_job_id, keys
from yard.errors import ModelyardError, QueueFull, Timeout

#: Called with the number of those that are done, and of all, if that is known.
Progress = Callable[[int, int | None], object]


class BulkClient(Protocol):
    """Submits many jobs and waits for one, as `producer.client.Client` does."""

    @property
    def redis(self) -> Redis:
        """The connection by which jobs are read."""

    def submit_many(self, requests: Iterable[Request]) -> list[Outcome]:
        """Queues many jobs; returns for each its handle, or why it was refused."""

    def wait(self, job_id: str, timeout_s: float = 30.0) -> Job:
        """Waits for a job to end and returns it."""


#: Longest blocking read, in seconds; after it all awaited jobs are looked at.
_SLICE_S = 1.0

#: Result streams that one read waits for.
_STREAMS = 256


def as_completed(
    client: BulkClient,
    blocking: Redis,
    handles: Iterable[Handle | str],
    timeout_s: float | None,
    progress: Progress | None,
) -> Iterator[Job]:
    """Yields each job once it has ended; see `Client.as_completed`."""
    ids = [one if isinstance(one, str) else one.id for one in handles]
    pending = dict.fromkeys(map(check_job_id, ids))
    until = None if timeout_s is None else time.monotonic() + timeout_s
    return _completed(client, blocking, list(pending), until, timeout_s, progress)


def _completed(
    client: BulkClient,
    blocking: Redis,
    pending: list[str],
    until: float | None,
    timeout_s: float | None,
    progress: Progress | None,
) -> Iterator[Job]:
    total, done = len(pending), 0
    ask, newest = pending, dict.fromkeys(pending, "0")
    while pending:
        ended = {job.id: job for job in _read(client, ask) if job.status.is_terminal}
        pending = [job_id for job_id in pending if job_id not in ended]
        for job in ended.values():
            done += 1
            if progress is not None:
                progress(done, total)
            yield job
        if not pending:
            return
        left_s = _SLICE_S if until is None else until - time.monotonic()
        if left_s <= 0:
            raise Timeout(
                f"{len(pending)} of {total} jobs did not end within {timeout_s:g} s", pending[0]
            )
        ask = _wait_for_any(blocking, pending, newest, min(left_s, _SLICE_S)) or pending


def _read(client: BulkClient, job_ids: Sequence[str]) -> Iterator[Job]:
    for begin in range(0, len(job_ids), CHUNK):
        chunk = job_ids[begin : begin + CHUNK]
        for job_id, raw in zip(chunk, read_jobs(client.redis, chunk), strict=True):
            yield found_job(job_id, raw)


def _wait_for_any(
    blocking: Redis, job_ids: Sequence[str], newest: dict[str, str], timeout_s: float
) -> list[str]:
    """The jobs among the first that have a newer result; none at the end of the wait."""
    by_stream = {keys.key("results", job_id): job_id for job_id in job_ids[:_STREAMS]}
    streams: Any = {stream: newest[job_id] for stream, job_id in by_stream.items()}
    with redis_reachable():
        found: Any = blocking.xread(streams, block=max(1, int(timeout_s * 1000)))
    heard = []
    for stream, entries in found or ():
        job_id = by_stream[stream.decode()]
        newest[job_id] = entries[-1][0]
        heard.append(job_id)
    return heard


def map_rows(
    client: BulkClient,
    model: str,
    rows: Iterable[Any],
    *,
    rows_per_job: int,
    in_flight: int,
    timeout_s: float,
    return_errors: bool,
    progress: Progress | None,
    options: Mapping[str, Any],
) -> Iterator[Any]:
    """Yields one answer a row, in order; see `Client.map`."""
    if rows_per_job < 1 or in_flight < 1:
        raise ValueError("rows_per_job and in_flight must be at least 1")
    source = rows_of(rows)
    total = len(source) if hasattr(source, "__len__") else None
    jobs = _Window(client, model, iter(source), rows_per_job, in_flight, options)
    return _mapped(jobs, total, timeout_s, return_errors, progress)


def _mapped(
    jobs: _Window,
    total: int | None,
    timeout_s: float,
    return_errors: bool,
    progress: Progress | None,
) -> Iterator[Any]:
    done = 0
    while (found := jobs.next(timeout_s)) is not None:
        outcome, count = found
        try:
            answers = _answers(outcome, count)
        except ModelyardError as error:
            if not return_errors:
                raise
            answers = [error] * count
        for answer in answers:
            done += 1
            if progress is not None:
                progress(done, total)
            yield answer


def _answers(outcome: Job | ModelyardError, count: int) -> list[Any]:
    """One dict of outputs for each row.

    Raises:
        ModelyardError: The job was refused, or failed.
    """
    if isinstance(outcome, ModelyardError):
        raise outcome
    outcome.raise_if_failed()
    outputs = {
        name: values
        for name, values in (outcome.result or {}).items()
        if name != "classes" and isinstance(values, list) and len(values) == count
    }
    return [{name: values[place] for name, values in outputs.items()} for place in range(count)]


@dataclass(slots=True)
class _Slot:
    """Some rows, their request, and what became of it: nothing until it is submitted."""

    request: Request
    count: int
    outcome: Handle | ModelyardError | None = None


class _Window:
    """Jobs in flight, in the order of their rows: at most so many that have not been returned."""

    def __init__(
        self,
        client: BulkClient,
        model: str,
        rows: Iterator[Any],
        rows_per_job: int,
        in_flight: int,
        options: Mapping[str, Any],
    ) -> None:
        self._client = client
        self._model = model
        self._rows = rows
        self._rows_per_job = rows_per_job
        self._in_flight = in_flight
        self._options = options
        self._slots: deque[_Slot] = deque()
        self._ended: dict[str, Job] = {}

    def next(self, timeout_s: float) -> tuple[Job | ModelyardError, int] | None:
        """The next outcome and its number of rows; None after the last.

        Raises:
            Timeout: It did not end in time.
            QueueFull: The queue stayed full for so long.
        """
        until = time.monotonic() + timeout_s
        if len(self._slots) <= self._in_flight // 2:
            self._fill()
        if not self._slots:
            return None
        first = self._slots[0]
        while first.outcome is None:
            full = self._fill()
            if full is not None and first.outcome is None:
                if time.monotonic() + full.retry_after_s > until:
                    raise full
                time.sleep(full.retry_after_s)
        found: Job | ModelyardError
        if isinstance(first.outcome, ModelyardError):
            found = first.outcome
        else:
            handle = first.outcome
            found = self._ended.pop(handle.id, None) or self._wait(handle, timeout_s)
        self._slots.popleft()
        return found, first.count

    def _wait(self, first: Handle, timeout_s: float) -> Job:
        """Waits for one job, and reads at once which of the others have ended, too."""
        job = self._client.wait(first.id, timeout_s)
        handles = [slot.outcome for slot in self._slots if isinstance(slot.outcome, Handle)]
        for other in _read(self._client, [one.id for one in handles[1:CHUNK]]):
            if other.status.is_terminal:
                self._ended[other.id] = other
        return job

    def _fill(self) -> QueueFull | None:
        """Submits up to the bound, and what was refused; returns the refusal of a full queue."""
        while len(self._slots) < self._in_flight and (chunk := self._chunk()):
            request = Request(self._model, instances=chunk, **self._options)
            self._slots.append(_Slot(request, len(chunk)))
        waiting = [slot for slot in self._slots if slot.outcome is None]
        if not waiting:
            return None
        outcomes = self._client.submit_many(slot.request for slot in waiting)
        full: QueueFull | None = None
        for outcome, slot in zip(outcomes, waiting, strict=True):
            if isinstance(outcome, QueueFull):
                full = outcome
            else:
                slot.outcome = outcome
        return full

    def _chunk(self) -> list[Any]:
        return [row for _, row in zip(range(self._rows_per_job), self._rows, strict=False)]
