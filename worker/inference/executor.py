"""A batch on its way through the model: load, check, predict, and what to write of it.

Between claim and finish, without Redis but for the front door: it turns a `Batch` into `EndedJob`s
and into measures, whatever the jobs hold and whatever the model does short of killing the process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

from models.runtimes import Loaded, ModelCache
from worker.inference.batching import Member, Outcome, check, read_call, run, stacks
from worker.inference.metrics import MetricsBuffer
from worker.queue import Batch, Claimed, EndedJob, Lease
from yard.contract import Call, Failure, ModelRef, parse_queue
from yard.errors import JobFailed
from yard.routing import routing_point
from yard.settings import Settings

_MOST_TTL_S = 604_800

#: A job that claims to have waited for longer was given a date by whoever pushed it, in seconds.
_MOST_WAIT_S = 604_800


@dataclass(slots=True)
class BatchResult:
    """What a batch amounts to.

    Attributes:
        endings: How each job ends; front-door jobs that were moved on have none.
        run: What is kept about the run, with each job.
        tally: The measures to count with them.
        load_s: What the model took to load, in seconds; 0.0 if it was there.
        predict_s: What its predicts took, in seconds.
        jobs: Jobs that were predicted.
        rows: Their rows.
    """

    endings: list[EndedJob] = field(default_factory=list)
    run: dict[str, float] = field(default_factory=dict)
    tally: MetricsBuffer = field(default_factory=MetricsBuffer)
    load_s: float = 0.0
    predict_s: float = 0.0
    jobs: int = 0
    rows: int = 0


class BatchExecutor:
    """Serves batches with the models of one cache.

    Args:
        cache: The loaded models.
        is_batchable: Whether rows of several jobs may be predicted together, of a loaded version.
        settings: Bounds and times to live.
    """

    def __init__(
        self, cache: ModelCache, is_batchable: Callable[[ModelRef], bool], settings: Settings
    ) -> None:
        self._cache = cache
        self._is_batchable = is_batchable
        self._settings = settings

    def serve(self, batch: Batch, lease: Lease) -> BatchResult:
        """What becomes of each job of the batch.

        Raises:
            RedisError: The batch is from a front door and Redis does not answer.
        """
        served_by = _ref_of(batch.queue)
        calls = {job.id: read_call(job, self._settings.body_bytes) for job in batch.jobs}
        if served_by is None:
            return self._forward(batch, batch.queue, calls, lease)
        return self._predict(batch, served_by, calls)

    def _forward(
        self, batch: Batch, model: str, calls: Mapping[str, Call | Failure], lease: Lease
    ) -> BatchResult:
        """Move front-door jobs on; only those that cannot be end here."""
        wanted = [
            (job_id, call.version or "", routing_point(model, call.routing_key), _row_count(call))
            for job_id, call in calls.items()
            if isinstance(call, Call)
        ]
        problems = lease.forward(batch, model, wanted) if wanted else {}
        failures: dict[str, Outcome] = {
            job_id: Failure(code, f"model {model!r}: {code.replace('_', ' ')}")
            for job_id, code in problems.items()
        }
        failures |= {job_id: call for job_id, call in calls.items() if isinstance(call, Failure)}
        served = BatchResult()
        served.endings = list(self._endings(batch.jobs, failures))
        return served

    def _predict(
        self, batch: Batch, ref: ModelRef, calls: Mapping[str, Call | Failure]
    ) -> BatchResult:
        served = BatchResult(tally=MetricsBuffer(ref))
        outcomes: dict[str, Outcome] = {
            job_id: call for job_id, call in calls.items() if isinstance(call, Failure)
        }
        asked = {job_id: call for job_id, call in calls.items() if isinstance(call, Call)}
        size = 0
        if asked:
            try:
                with self._cache.use(ref) as use:
                    served.load_s = use.load_s
                    size = self._run(served, outcomes, asked, ref, use.model)
            except JobFailed as error:  # it is gone, or does not load
                outcomes |= dict.fromkeys(asked, Failure(error.code, error.message))
        served.run = {
            "load": round(served.load_s * 1000, 3),
            "predict": round(served.predict_s * 1000, 3),
            "batch": size,
        }
        served.endings = list(self._endings(batch.jobs, outcomes))
        self._count(served, batch)
        return served

    def _run(
        self,
        served: BatchResult,
        outcomes: dict[str, Outcome],
        calls: Mapping[str, Call],
        ref: ModelRef,
        model: Loaded,
    ) -> int:
        """Fill in the outcomes of the jobs that can be read; how many were stacked together."""
        members: list[Member] = []
        for job_id, call in calls.items():
            member = check(job_id, call, model.signature, self._settings.rows)
            if isinstance(member, Failure):
                outcomes[job_id] = member
            else:
                members.append(member)
        size = 0
        for stack in stacks(members, self._settings.batch_rows, self._is_batchable(ref)):
            started = time.perf_counter()
            outcomes.update(run(stack, model.predict, model.signature))
            taken_s = time.perf_counter() - started
            served.predict_s += taken_s
            served.jobs += len(stack)
            served.rows += sum(len(member.rows) for member in stack)
            size = max(size, len(stack))
            served.tally.observe("model_inference_latency_seconds", taken_s)
            served.tally.observe("batch_size", len(stack))
        return size

    def _endings(
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

    def _count(self, served: BatchResult, batch: Batch) -> None:
        tally = served.tally
        if served.load_s:
            tally.observe("model_load_time_seconds", served.load_s)
        for ending in served.endings:
            if isinstance(ending.outcome, Failure):
                tally.count("model_prediction_requests_total", "status", "failed")
                tally.count("model_prediction_errors_total", "error_type", ending.outcome.code)
            else:
                tally.count("model_prediction_requests_total", "status", "finished")
        for job in batch.jobs:
            if job.attempt == 1 and (waited_s := _waited_s(job, batch.claimed_us)) is not None:
                tally.observe("queue_wait_seconds", waited_s)


@lru_cache(maxsize=4096)
def _ref_of(queue: str) -> ModelRef | None:
    """The version whose queue it is, one object each; None for a front door."""
    model, version = parse_queue(queue) or (queue, None)
    return None if version is None else ModelRef(model, version)


def _row_count(call: Call) -> int:
    """How many rows a call seems to have, before it is checked: only bounds the size of a batch."""
    if isinstance(call.instances, list):
        return len(call.instances)
    if isinstance(call.inputs, dict):
        return max((len(v) for v in call.inputs.values() if isinstance(v, list)), default=1)
    return 1


def _ttl_s(text: str, default_s: int) -> int:
    """A time to live that a job may carry, within bounds; else the default."""
    if not text.isascii() or not text.isdecimal() or len(text) > 7 or int(text) < 1:
        return default_s
    return min(int(text), _MOST_TTL_S)


def _waited_s(job: Claimed, claimed_us: int) -> float | None:
    """Seconds from creation to claim; None where the creation cannot be read or believed."""
    try:
        created_at = datetime.fromisoformat(job.created_at)
    except ValueError:
        return None
    if created_at.tzinfo is None:
        return None
    waited_s = claimed_us / 1e6 - created_at.timestamp()
    return max(0.0, waited_s) if waited_s < _MOST_WAIT_S else None
