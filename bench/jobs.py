"""Modelyard's and RQ's side of a drain: queue jobs, let one worker run, see that all are right."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bench.measure import Work
from bench.yard import CLASS, ROW, Process, Yard, wait_until
from producer import Handle
from yard.contract import keys
from yard.contract.values import Job, Request
from yard.errors import ModelyardError

#: Jobs at the end of a drain among which the last to end is.
_LAST = 1024

#: Jobs whose results are read and compared.
_CHECKED = 200

#: No drain takes longer, in seconds.
_MOST_S = 600.0


@dataclass(frozen=True, slots=True)
class Drained:
    """One drain.

    Attributes:
        jobs_s: Jobs a second, from the thaw to the last end.
        redis_us: Processor time of Redis for each job, in microseconds.
        calls: Calls of Redis' commands.
        workers_us: Processor time of all workers for each job, in microseconds.
        predicts_us: For some jobs from all over the run, each one's part of its batch's predict, in
            microseconds on the clock, as they tell.
    """

    jobs_s: float
    redis_us: float
    calls: dict[str, int]
    workers_us: float = 0.0
    predicts_us: tuple[float, ...] = ()


def one_row(model: str = "iris", version: str | None = None) -> Request:
    """The request of every job here."""
    return Request(model, instances=[ROW], version=version)


def drain(
    yard: Yard,
    running: Sequence[AbstractContextManager[Process]],
    requests: Sequence[Request],
    expected: Sequence[Any] | None = (CLASS,),
) -> Drained:
    """Start workers that have loaded each version asked for, queue the requests, and drain them.

    Args:
        yard: Where.
        running: The workers, not yet started.
        requests: One for each job.
        expected: The predictions of each; None if any will do.
    """
    yard.clear()
    kinds = {(request.model, request.version): request for request in requests}
    processes: list[Process] = []
    with ExitStack() as stack:
        for each in running:
            processes.append(stack.enter_context(each))
            _warm(yard, list(kinds.values()), processes)
        for process in processes:
            process.freeze()
        handles = submitted(yard, requests)
        queues = {handle.queue for handle in handles}
        goal = len(handles) + _ended(yard, queues)
        before, workers_s = Work.of(yard.redis), _cpu_s(processes)
        started = min([process.thaw() for process in processes])
        wait_until(lambda: _ended(yard, queues) >= goal, _MOST_S, look_s=0.05)
        work, workers_s = Work.of(yard.redis).since(before), _cpu_s(processes) - workers_s
        taken_s = _last_end(yard, handles) - started
        jobs = _checked(yard, handles, expected)
    return Drained(
        len(handles) / taken_s,
        work.cpu_s / len(handles) * 1e6,
        dict(work.calls),
        workers_s / len(handles) * 1e6,
        _predicts_us(jobs),
    )


def submitted(yard: Yard, requests: Sequence[Request]) -> list[Handle]:
    """The jobs, queued.

    Raises:
        ModelyardError: One was refused.
    """
    handles = []
    for outcome in yard.client.submit_many(requests):
        if isinstance(outcome, ModelyardError):
            raise outcome
        handles.append(outcome)
    return handles


def _warm(yard: Yard, requests: Sequence[Request], processes: Sequence[Process]) -> None:
    """Let the worker that was started last load every version, the others being frozen."""
    *others, last = processes
    for process in others:
        process.freeze()
    handles = submitted(yard, requests)
    try:
        for handle in handles:
            handle.wait(60)
    except ModelyardError:
        last.check()
        raise
    for process in others:
        process.thaw()


def _cpu_s(processes: Sequence[Process]) -> float:
    return sum(process.cpu_s() for process in processes)


def _ended(yard: Yard, queues: set[str]) -> int:
    """Number of jobs of these queues that have ended."""
    pipe = yard.redis.pipeline(transaction=False)
    for queue in queues:
        pipe.zcard(keys.key("finished", queue))
        pipe.zcard(keys.key("failed", queue))
    return sum(pipe.execute())


def _last_end(yard: Yard, handles: Sequence[Handle]) -> float:
    """When the last job ended, in seconds since the epoch, by the clock of Redis."""
    pipe = yard.redis.pipeline(transaction=False)
    for handle in handles[-_LAST:]:
        pipe.hget(keys.key("job", handle.id), "ended_at")
    return max(datetime.fromisoformat(text.decode()).timestamp() for text in pipe.execute())


def _checked(yard: Yard, handles: Sequence[Handle], expected: Sequence[Any] | None) -> list[Job]:
    """Jobs from all over the run, with their results compared.

    Raises:
        RuntimeError: One is not what the model says.
    """
    step = max(1, len(handles) // _CHECKED)
    jobs = [yard.client.get(handle.id) for handle in handles[::step]]
    for job in jobs:
        result = job.result
        if result is None or (expected is not None and result["predictions"] != [*expected]):
            raise RuntimeError(f"job {job.id} ended with {result}")
    return jobs


def _predicts_us(jobs: Sequence[Job]) -> tuple[float, ...]:
    # A batch's time stands in each of its jobs.
    return tuple(job.timings.predict * 1000 / (job.batch_size or 1) for job in jobs if job.timings)


def round_trips(yard: Yard, count: int) -> list[float]:
    """Milliseconds from submission to result through `producer`, one job after the other."""
    taken = []
    for _ in range(count):
        started = time.perf_counter()
        result = yard.client.submit_request(one_row()).wait(30)
        taken.append((time.perf_counter() - started) * 1000)
        assert result["predictions"] == [CLASS]
    return taken
