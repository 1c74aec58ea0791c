"""Service time of each version in this worker: seconds a batch, and seconds a row.

Measured twice. From the end of one batch to the end of the next: the main thread adds batches, and
the heartbeat thread writes these paces to Redis, where pools read them to size themselves. And each
stack alone: these paces bound the next stack and the next claim, so that a batch takes a fraction
of the time that its jobs may take, and no answer waits long for those of other jobs.
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


#: Seconds that a batch should take at most, where its rows decide that.
_BATCH_S = 0.25

#: Part of the shortest timeout that a batch should take at most.
_TIMEOUT_PART = 0.25

#: Stands for any number of rows.
_ANY_ROWS = 2**31


def batch_budget_s(timeout_s: float) -> float:
    """Return the seconds after which a batch begins no further stack.

    Args:
        timeout_s: The shortest timeout of its jobs.
    """
    return min(_BATCH_S, timeout_s * _TIMEOUT_PART)


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


@dataclass(slots=True)
class _Stacks:
    """The stacks of one version: their pace, and the sizes that were seen."""

    fit: _Fit
    least: int
    most: int
    is_mixed: bool = False

    def rows_within(self, timeout_s: float) -> int:
        """Return the rows of the next stack; see `ServiceTimes.stack_rows`."""
        pace = self.fit.pace()
        # Where a predict costs much beside its rows, fewer of them would only cost more predicts.
        row_part_s = max(batch_budget_s(timeout_s), pace.batch_s)
        most_s = min(pace.batch_s + row_part_s, timeout_s * _TIMEOUT_PART)
        rows = (most_s - pace.batch_s) / max(pace.row_s, 1e-9)
        if self.is_mixed and self.least == self.most:
            # It is not known yet what the rows cost, and what the predict.
            doubled_s = 2 * (pace.batch_s + pace.row_s * self.most)
            if doubled_s <= timeout_s * _TIMEOUT_PART:
                rows = max(rows, 2 * self.most)
        return max(1, int(min(rows, _ANY_ROWS)))


class ServiceTimes:
    """The paces of one worker; a `worker.inference.BatchObserver`, safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fits: dict[str, _Fit] = {}
        self._stacks: dict[str, _Stacks] = {}
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

    def add_stack(self, queue: str, rows: int, seconds: float, is_mixed: bool = True) -> None:
        """Add one stack, or what a version was first tried on after its load.

        Args:
            queue: The version's queue.
            rows: Its rows.
            seconds: What its predicts took.
            is_mixed: False if stacks of this version have one job each.
        """
        with self._lock:
            known = self._stacks.get(queue)
            if known is None:
                known = self._stacks[queue] = _Stacks(_Fit(), rows, rows)
            elif known.fit.batches == 1:  # the fit forgets the first
                known.least = known.most = rows
            known.fit.add(1, rows, seconds)
            known.least, known.most = min(known.least, rows), max(known.most, rows)
            known.is_mixed = is_mixed

    def stack_rows(self, queue: str, timeout_s: float) -> int:
        """Return the most rows that a stack of a version should have; at least one.

        A version of which nothing is known begins with one row.

        Args:
            queue: The version's queue.
            timeout_s: The shortest timeout of the jobs.
        """
        with self._lock:
            known = self._stacks.get(queue)
            return known.rows_within(timeout_s) if known else 1

    def claim_rows(self, queue: str, timeout_s: float) -> int | None:
        """Return the most rows that a batch of a version should have; None where nothing is known.

        Args:
            queue: The version's queue.
            timeout_s: The usual timeout.
        """
        with self._lock:
            known = self._stacks.get(queue)
            return known.rows_within(timeout_s) if known else None

    def expected_s(self, queue: str, rows: int) -> float:
        """Return the seconds that a stack will take; 0.0 where nothing is known."""
        with self._lock:
            known = self._stacks.get(queue)
            if known is None:
                return 0.0
            pace = known.fit.pace()
            return pace.batch_s + pace.row_s * rows

    def forget_stacks(self, queue: str) -> None:
        """Forget the stacks of a version that is about to be loaded."""
        with self._lock:
            self._stacks.pop(queue, None)

    def unwritten(self) -> dict[str, Pace]:
        """Return the paces that have changed since `mark_written` was called with them."""
        with self._lock:
            return {queue: self._fits[queue].pace() for queue in self._fresh}

    def mark_written(self, paces: Mapping[str, Pace]) -> None:
        """Record that these paces are in Redis."""
        with self._lock:
            self._fresh -= paces.keys()
