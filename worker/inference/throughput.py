"""Service time of each version in this worker: seconds a batch, and seconds a row.

Measured from the end of one batch to the end of the next. The main thread adds batches; the
heartbeat thread writes the paces to Redis, where pools read them to size themselves.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from worker.inference.results import BatchResult
from worker.queue import Batch
from yard.cluster import Pace

#: Weight of past batches, each time that one is added: some 50 batches count.
_FADE = 0.98

#: Weight of the assumption that a batch costs nothing beside its rows. It decides where all batches
#: are of one size, so that the two costs cannot be separated.
_PRIOR_WEIGHT = 0.1

#: The weight of a new load time.
_LOAD_WEIGHT = 0.5


@dataclass(slots=True)
class _Fit:
    """Weighted sums for a line through (rows, seconds) of batches, by least squares."""

    weight: float = 0.0
    rows: float = 0.0
    seconds: float = 0.0
    squares: float = 0.0
    products: float = 0.0
    jobs: float = 0.0
    load_s: float = 0.0
    batches: int = 0

    def add(self, jobs: int, rows: int, seconds: float) -> None:
        if self.batches == 1:  # the first predict of all is slow, and no measure for the others
            self.weight = self.rows = self.seconds = self.squares = self.products = self.jobs = 0.0
        self.batches += 1
        self.weight = self.weight * _FADE + 1
        self.rows = self.rows * _FADE + rows
        self.seconds = self.seconds * _FADE + seconds
        self.squares = self.squares * _FADE + rows * rows
        self.products = self.products * _FADE + rows * seconds
        self.jobs = self.jobs * _FADE + jobs

    def pace(self) -> Pace:
        """Fit ``seconds = batch_s + row_s * rows``, neither below zero, through the mean."""
        weight = self.weight + _PRIOR_WEIGHT
        slope = weight * self.products - self.rows * self.seconds
        slope /= weight * self.squares - self.rows * self.rows
        row_s = min(max(0.0, slope), self.seconds / self.rows)
        batch_s = max(0.0, self.seconds - row_s * self.rows) / self.weight
        return Pace(batch_s, row_s, self.load_s, self.rows / self.jobs)


class ServiceTimes:
    """The paces of one worker; a `worker.inference.BatchObserver`, safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fits: dict[str, _Fit] = {}
        self._fresh: set[str] = set()

    def started(self, batch: Batch) -> None:
        """See `worker.inference.BatchObserver`."""

    def ended(self, batch: Batch, result: BatchResult) -> None:
        """See `worker.inference.BatchObserver`."""
        jobs = sum(stack.jobs for stack in result.stacks)
        rows = sum(stack.rows for stack in result.stacks)
        self.add(batch.queue, jobs, rows, result.busy_s - result.load_s, result.load_s)

    def add(self, queue: str, jobs: int, rows: int, seconds: float, load_s: float) -> None:
        """Add a batch; one without jobs is passed over.

        Args:
            queue: The version's queue.
            jobs: Jobs that were run.
            rows: Their rows.
            seconds: What it kept the worker busy for, loading excluded.
            load_s: What loading took, in seconds; 0.0 if the version was loaded.
        """
        if jobs < 1 or rows < 1:
            return
        with self._lock:
            fit = self._fits.setdefault(queue, _Fit())
            fit.add(jobs, rows, max(0.0, seconds))
            if load_s:
                rest_s = fit.load_s * (1 - _LOAD_WEIGHT)
                fit.load_s = rest_s + load_s * _LOAD_WEIGHT if fit.load_s else load_s
            self._fresh.add(queue)

    def unwritten(self) -> dict[str, Pace]:
        """Return the paces that have changed since `mark_written` was called with them."""
        with self._lock:
            return {queue: self._fits[queue].pace() for queue in self._fresh}

    def mark_written(self, paces: Mapping[str, Pace]) -> None:
        """Record that these paces are in Redis."""
        with self._lock:
            self._fresh -= paces.keys()
