"""The gain of a second worker, and its bound: the model, the queue or the cores.

Two workers do twice what one does only while there are cores for both and for Redis. Where the
model is all of the cost, that is nearly so; where the queue is a part of it, Redis takes what the
second worker could. So beside the ratio stand what a job costs whom, and what the cores allow.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.jobs import Drained
from bench.measure import Spread, ratio
from bench.report import Goal, Table
from yard.contract.values import ModelRef

#: Ratio that a second worker is to reach where the model is the cost. That is where the machine has
#: the cores for it, beside what Redis needs for two.
_RATIO = 1.7

_COLUMNS = (
    "model",
    "batch",
    "two workers",
    "two bare",
    "cores allow",
    "model's share",
    "one, jobs/s",
    "two, jobs/s",
    "worker, us a job",
    "Redis, us a job",
    "Redis, of a core",
)
_NOTE = f"""\
Two workers are shown as so many times one; everything about cost and cores is with one worker. Two
bare: as many processes that do nothing but predict such batches, as so many times one; a second
worker could add no more if the queue cost nothing. Cores allow: all cores by those that one worker
and Redis keep busy, at most 2. The model's share: the predict, as jobs tell it by the clock, of all
processor time of a job, the worker's and Redis'. Redis has one core at most: where its share nears
1, no worker adds anything. The goal counts forests for which the cores allow {_RATIO}."""


@dataclass(frozen=True, slots=True)
class Case:
    """A version, and how it is drained.

    Attributes:
        model: What tables call it.
        ref: The version.
        batch: Jobs that a worker takes at a time, at most.
        jobs: Of a turn; one worker needs two to five seconds for them.
    """

    model: str
    ref: ModelRef
    batch: int
    jobs: int

    def turn(self, workers: int) -> str:
        """The name of its turns with so many workers."""
        return f"{self.model} by {self.batch}, {workers}"

    def bare(self, processes: int) -> str:
        """The name of its turns without a queue."""
        return f"{self.model} by {self.batch}, {processes} bare"


@dataclass(frozen=True, slots=True)
class Measured:
    """A case's turns with one worker and with two, and with bare processes, round by round."""

    case: Case
    one: Sequence[Drained]
    two: Sequence[Drained]
    one_bare: Sequence[Drained] = ()
    two_bare: Sequence[Drained] = ()

    @property
    def second(self) -> Spread:
        """Rate of two workers, as a multiple of one's."""
        return ratio(_speed(self.two), _speed(self.one))

    @property
    def second_bare(self) -> Spread:
        """Rate of two bare processes, as a multiple of one's."""
        return ratio(_speed(self.two_bare), _speed(self.one_bare))

    @property
    def cores_allow(self) -> Spread:
        """The ratio at which all cores are busy, if jobs cost two workers what they cost one."""
        cores = os.cpu_count() or 1
        return Spread.of(min(2.0, cores / _busy(one.jobs_s, _cost_us(one))) for one in self.one)

    @property
    def model_share(self) -> Spread:
        """The part of a job's processor time that is its predict.

        The mean, for the rest is means, too. Its clock is processor time while the core is free.
        """
        return Spread.of(statistics.mean(one.predicts_us) / _cost_us(one) for one in self.one)

    @property
    def is_model_the_cost(self) -> bool:
        """True if the goal is about this case."""
        return self.cores_allow.median >= _RATIO

    def cells(self) -> list[str]:
        """Its row of the table."""
        return [
            self.case.model,
            str(self.case.batch),
            f"{self.second.show(2)} x",
            f"{self.second_bare.show(2)} x" if self.two_bare else "",
            f"{self.cores_allow.show(2)} x",
            Spread.of(100 * share for share in self.model_share.values).show() + "%",
            _speed(self.one).show(),
            _speed(self.two).show(),
            Spread.of(one.workers_us for one in self.one).show(),
            Spread.of(one.redis_us for one in self.one).show(),
            Spread.of(_busy(one.jobs_s, one.redis_us) for one in self.one).show(2),
        ]

    def told(self) -> str:
        """Its ratio in the goal's text."""
        return f"{self.second.median:.2f} x ({self.case.model} by {self.case.batch})"


def workers_table(measured: Sequence[Measured]) -> Table:
    """Every case."""
    return Table(_COLUMNS, [one.cells() for one in measured], _NOTE)


def workers_goal(measured: Sequence[Measured]) -> Goal:
    """The goal that a second worker pays wherever the model is the cost."""
    counted = [one for one in measured if one.is_model_the_cost]
    return Goal(
        "two workers, where the model is the cost",
        f"at least {_RATIO} x one",
        ", ".join(one.told() for one in counted) or "the cores allow it nowhere",
        bool(counted) and all(one.second.median >= _RATIO for one in counted),
    )


def _speed(turns: Sequence[Drained]) -> Spread:
    return Spread.of(turn.jobs_s for turn in turns)


def _cost_us(turn: Drained) -> float:
    """All processor time of a job."""
    return turn.workers_us + turn.redis_us


def _busy(jobs_s: float, cost_us: float) -> float:
    """Cores that so many jobs a second of that cost keep busy."""
    return jobs_s * cost_us / 1e6
