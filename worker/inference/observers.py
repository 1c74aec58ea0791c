"""The seam around a batch: what observes each batch that a worker runs hooks in here.

The worker calls its observers in its main thread, once a batch and never once a job: before the
executor runs it, and after that, before the end is sent. What an observer adds to
`BatchResult.metrics` is written by the script that ends the batch.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from worker.inference.results import BatchResult
from worker.queue import Batch, Claimed
from yard.contract import Failure

#: Longer waits are not believed, in seconds: the job was pushed with a wrong date.
_MOST_WAIT_S = 604_800


class BatchObserver(Protocol):
    """Observes the batches of one worker.

    What it raises counts as a crash of the batch's jobs, as any fault of the worker's own does.
    """

    def started(self, batch: Batch) -> None:
        """A batch was claimed, and is about to be run."""

    def ended(self, batch: Batch, result: BatchResult) -> None:
        """A batch was run; not called where running it raised."""


class MetricsObserver:
    """Counts jobs, and observes latencies, batch sizes and waits; see `BatchObserver`."""

    def started(self, batch: Batch) -> None:
        """See `BatchObserver`."""

    def ended(self, batch: Batch, result: BatchResult) -> None:
        """See `BatchObserver`."""
        if result.ref is None:
            return
        metrics = result.metrics
        for stack in result.stacks:
            metrics.observe("model_inference_latency_seconds", stack.predict_s)
            metrics.observe("batch_size", stack.jobs)
        if result.load_s:
            metrics.observe("model_load_time_seconds", result.load_s)
        for job in result.ended_jobs:
            if isinstance(job.outcome, Failure):
                metrics.count("model_prediction_requests_total", "status", "failed")
                metrics.count("model_prediction_errors_total", "error_type", job.outcome.code)
            else:
                metrics.count("model_prediction_requests_total", "status", "finished")
        released = set(result.released)  # they wait on
        for claimed in batch.jobs:
            if claimed.attempt == 1 and claimed.id not in released:
                waited_s = _waited_s(claimed, batch.claimed_us)
                if waited_s is not None:
                    metrics.observe("queue_wait_seconds", waited_s)


def _waited_s(job: Claimed, claimed_us: int) -> float | None:
    """Return seconds from creation to claim; None where the creation cannot be believed."""
    try:
        created_at = datetime.fromisoformat(job.created_at)
    except ValueError:
        return None
    if created_at.tzinfo is None:
        return None
    waited_s = claimed_us / 1e6 - created_at.timestamp()
    return max(0.0, waited_s) if waited_s < _MOST_WAIT_S else None
