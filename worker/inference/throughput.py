"""How fast this worker is with each version: what a batch costs, and what each row adds.

Measured where the time goes, from batch to batch, and told to Redis for whoever decides how many
workers there should be. Written by the worker's main thread, read by the one that says that it
lives.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from yard.cluster import Pace

#: The weight of what was measured before, each time that a batch is added: some 50 batches count.
_FADE = 0.98

#: Weight of the assumption that a batch costs nothing beside its rows: where all batches are of one
#: size, and what is whose cannot be told, it decides.
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
        if self.batches == 1:  # the first predict of all is slow, and stands for none but itself
            self.weight = self.rows = self.seconds = self.squares = self.products = self.jobs = 0.0
        self.batches += 1
        self.weight = self.weight * _FADE + 1
        self.rows = self.rows * _FADE + rows
        self.seconds = self.seconds * _FADE + seconds
        self.squares = self.squares * _FADE + rows * rows
        self.products = self.products * _FADE + rows * seconds
        self.jobs = self.jobs * _FADE + jobs

    def pace(self) -> Pace:
        """``seconds = batch_s + row_s * rows``, neither below zero, through the mean."""
        weight = self.weight + _PRIOR_WEIGHT
        slope = weight * self.products - self.rows * self.seconds
        slope /= weight * self.squares - self.rows * self.rows
        row_s = min(max(0.0, slope), self.seconds / self.rows)
        batch_s = max(0.0, self.seconds - row_s * self.rows) / self.weight
        return Pace(batch_s, row_s, self.load_s, self.rows / self.jobs)


class ServiceTimes:
    """The paces of one worker; safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fits: dict[str, _Fit] = {}
        self._fresh: set[str] = set()

    def add(self, queue: str, jobs: int, rows: int, seconds: float, load_s: float) -> None:
        """Note a batch: its jobs and rows, and what it kept the worker busy for.

        Args:
            queue: The version's queue.
            jobs: Jobs that were run.
            rows: Their rows.
            seconds: All of it but loading, from claim to end.
            load_s: What loading took; 0.0 if the version was there.
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

    def news(self) -> dict[str, Pace]:
        """The paces of versions that were served since `told` was last called with them."""
        with self._lock:
            return {queue: self._fits[queue].pace() for queue in self._fresh}

    def told(self, paces: Mapping[str, Pace]) -> None:
        """Note that these have been told."""
        with self._lock:
            self._fresh -= paces.keys()
