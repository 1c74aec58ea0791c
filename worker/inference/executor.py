"""Executes a batch: load, check, predict, and decide how each job ends.

Between claim and finish, without Redis but for unversioned queues: a `Batch` comes in, a
`BatchResult` goes out, whatever the jobs hold and whatever the model does short of killing the
process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

from models.runtimes import Loaded, ModelCache
from worker.inference.batching import (
    Member,
    Outcome,
    check,
    due_of,
    next_stack,
    predict_members,
    read_call,
)
from worker.inference.loader import Loader
from worker.inference.metrics import MetricsBuffer
from worker.inference.results import BatchResult, StackRun
from worker.inference.throughput import ServiceTimes, batch_budget_s
from worker.queue import Batch, Claimed, EndedJob, Lease
from yard.contract import Call, Failure, ModelRef, keys, parse_queue
from yard.errors import JobFailed
from yard.routing import routing_point
from yard.settings import Settings


class BatchExecutor:
    """Executes batches with the models of one cache.

    Args:
        cache: The loaded models.
        loader: Knows of loaded versions whether rows of several jobs may be predicted together,
            and whether a claim means others.
        settings: Bounds and times to live.
        service_times: Paces, which bound the stacks, and to which each stack is added.
        clock: Seconds, never going back.
    """

    def __init__(
        self,
        cache: ModelCache,
        loader: Loader,
        settings: Settings,
        service_times: ServiceTimes,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._cache = cache
        self._loader = loader
        self._settings = settings
        self._service_times = service_times
        self._clock = clock

    def run(self, batch: Batch, lease: Lease) -> BatchResult:
        """Predict the jobs of the batch, or forward those of an unversioned queue.

        Jobs that would have to wait too long behind the first ones are not predicted; see
        `BatchResult.released`.

        Raises:
            RedisError: The batch is from an unversioned queue and Redis does not answer.
        """
        ref = _ref_of(batch.queue)
        calls = {
            job.id: read_call(job, self._settings.body_bytes, batch.queue, batch.claimed_us)
            for job in batch.jobs
        }
        if ref is None:
            return self._forward(batch, batch.queue, calls, lease)
        return self._predict(batch, ref, calls)

    def _forward(
        self, batch: Batch, model: str, calls: Mapping[str, Call | Failure], lease: Lease
    ) -> BatchResult:
        """Forward jobs to their versions' queues; only those that cannot be forwarded end here."""
        wanted = [
            (
                job.id,
                call.version or "",
                routing_point(model, call.routing_key),
                _row_count(call),
                str(due_of(job, call, batch.claimed_us) or ""),
            )
            for job in batch.jobs
            if isinstance(call := calls[job.id], Call)
        ]
        problems = lease.forward(batch, model, wanted) if wanted else {}
        failures: dict[str, Outcome] = {
            job_id: Failure(code, f"model {model!r}: {code.replace('_', ' ')}")
            for job_id, code in problems.items()
        }
        failures |= {job_id: call for job_id, call in calls.items() if isinstance(call, Failure)}
        ended_jobs = list(self._ended_jobs(batch.jobs, failures))
        return BatchResult(None, MetricsBuffer(), ended_jobs)

    def _predict(
        self, batch: Batch, ref: ModelRef, calls: Mapping[str, Call | Failure]
    ) -> BatchResult:
        result = BatchResult(ref, MetricsBuffer(ref))
        outcomes: dict[str, Outcome] = {
            job_id: call for job_id, call in calls.items() if isinstance(call, Failure)
        }
        readable = {job_id: call for job_id, call in calls.items() if isinstance(call, Call)}
        if readable:
            if not self._loader.is_current(ref, batch.state):
                self._cache.evict(ref)  # the name was deleted, and perhaps published again
            try:
                with self._cache.use(ref) as use:
                    result.load_s = use.load_s
                    result.stacks = self._run_stacks(outcomes, readable, ref, batch, use.model)
            except JobFailed as error:  # the version is gone, or does not load
                outcomes |= dict.fromkeys(readable, Failure(error.code, error.message))
        result.run_info = {
            "load": round(result.load_s * 1000, 3),
            "predict": round(sum(stack.predict_s for stack in result.stacks) * 1000, 3),
            "batch": max((stack.jobs for stack in result.stacks), default=0),
        }
        result.ended_jobs = list(self._ended_jobs(batch.jobs, outcomes))
        result.released = [job.id for job in batch.jobs if job.id not in outcomes]
        return result

    def _run_stacks(
        self,
        outcomes: dict[str, Outcome],
        calls: Mapping[str, Call],
        ref: ModelRef,
        batch: Batch,
        model: Loaded,
    ) -> list[StackRun]:
        """Add the outcomes of the jobs that can be read to ``outcomes``, until the time is up."""
        members: list[Member] = []
        for job_id, call in calls.items():
            member = check(job_id, call, model.signature, self._settings.rows)
            if isinstance(member, Failure):
                outcomes[job_id] = member
            else:
                members.append(member)
        runs: list[StackRun] = []
        is_batchable, queue = self._loader.is_batchable(ref), batch.queue
        began = started = self._clock()
        until = began + batch_budget_s(batch.timeout_s)
        while members:
            most_rows = self._service_times.stack_rows(queue, batch.timeout_s)
            stack = next_stack(members, min(self._settings.batch_rows, most_rows), is_batchable)
            rows = sum(len(member.rows) for member in stack)
            if runs and started + self._service_times.expected_s(queue, rows) > until:
                break
            found = predict_members(
                stack,
                model.predict,
                model.signature,
                is_over=lambda: self._clock() > until,
            )
            outcomes.update(found)
            ended = self._clock()
            runs.append(StackRun(len(stack), rows, ended - started))
            self._service_times.add_stack(queue, rows, ended - started, is_batchable)
            if len(found) < len(stack):
                break
            members, started = members[len(stack) :], ended
        return runs

    def _ended_jobs(
        self, jobs: Sequence[Claimed], outcomes: Mapping[str, Outcome]
    ) -> Iterator[EndedJob]:
        for job in jobs:
            outcome = outcomes.get(job.id)
            if outcome is None:
                continue
            if isinstance(outcome, Failure):
                ttl_s = _ttl_s(job.failure_ttl, self._settings.failure_ttl_s)
            else:
                ttl_s = _ttl_s(job.result_ttl, self._settings.result_ttl_s)
            yield EndedJob(job.id, outcome, ttl_s)


@lru_cache(maxsize=4096)
def _ref_of(queue: str) -> ModelRef | None:
    """Return the version whose queue it is, one object each; None for an unversioned queue."""
    model, version = parse_queue(queue) or (queue, None)
    return None if version is None else ModelRef(model, version)


def _row_count(call: Call) -> int:
    """Estimate the rows of a call that is not checked yet: only bounds the size of a batch."""
    if isinstance(call.instances, list):
        return len(call.instances)
    if isinstance(call.inputs, dict):
        return max((len(v) for v in call.inputs.values() if isinstance(v, list)), default=1)
    return 1


def _ttl_s(text: str, default_s: int) -> int:
    """Return a time to live that a job carries, within bounds; else the default.

    RQ's -1, for ever, is the longest, and its 0 the shortest.
    """
    if text == "-1":
        return keys.LONGEST_TTL_S
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        return default_s
    return max(keys.SHORTEST_TTL_S, min(int(text), keys.LONGEST_TTL_S))
