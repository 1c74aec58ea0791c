"""The result of one batch: how its jobs end, and measurements of the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from worker.inference.metrics import MetricsBuffer
from worker.queue import EndedJob
from yard.contract import ModelRef


class StackRun(NamedTuple):
    """One stack of rows that was predicted together, halves that were tried again included.

    Attributes:
        jobs: Jobs in it.
        rows: Their rows.
        predict_s: What its predicts took, in seconds.
    """

    jobs: int
    rows: int
    predict_s: float


@dataclass(slots=True)
class BatchResult:
    """The result of one batch.

    Attributes:
        ref: The version that predicted; None for a batch of an unversioned queue.
        metrics: What to add to the metrics when the batch is written.
        ended_jobs: How each job ends; jobs that were forwarded to another queue have no entry.
        released: Jobs that were not predicted because the first ones took long, in their order, to
            go back to the head of the queue as if they had not been claimed.
        run_info: What is kept of the run with each job: load and predict in ms, jobs stacked
            together at most.
        stacks: The stacks that were predicted.
        load_s: What loading the model took, in seconds; 0.0 if it was loaded.
        busy_s: What the batch kept the worker busy for, in seconds: since the end of the one before
            it, calls of Redis included.
    """

    ref: ModelRef | None
    metrics: MetricsBuffer
    ended_jobs: list[EndedJob] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    run_info: dict[str, float] = field(default_factory=dict)
    stacks: list[StackRun] = field(default_factory=list)
    load_s: float = 0.0
    busy_s: float = 0.0
