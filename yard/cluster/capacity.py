"""Capacity: the work that waits, and the workers that it needs. The arithmetic of scaling.

Pools decide by it how many workers to run, and the gateway reports the same figures to scalers from
outside, so it lives where both may import it. Pure: no clock, no Redis; `yard.cluster.workload`
reads the input.

Everything is in seconds of work: the time for which a single worker would be busy. A batch of a
version takes ``batch_s + rows * row_s``, both measured by workers. Work that must be done within
the target wait, divided by the target wait, is workers; so is the work that arrives in a second. A
version needs the larger of the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor

#: Workers for arriving work, as multiples of those that it would keep busy all the time: the first
#: decides whether to grow, the second whether to shrink. Between them nothing changes.
GROW_HEADROOM, KEEP_HEADROOM = 1.1, 1.25

#: A version whose next batch takes this part of the target wait delays others, and gets workers of
#: its own.
_LONG_BATCH = 0.5

#: Less of a worker than this is rounding.
_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Pace:
    """Speed of workers with a version, as they have measured it.

    Attributes:
        batch_s: Fixed cost of a batch, in seconds.
        row_s: Cost of each row, in seconds.
        load_s: Time to load the version, in seconds.
        rows: Mean number of rows in a job.
    """

    batch_s: float
    row_s: float
    load_s: float
    rows: float


#: Assumed for a version without measurements; such a version gets one worker, and is measured.
PRIOR = Pace(batch_s=0.005, row_s=0.001, load_s=1.0, rows=1.0)


@dataclass(frozen=True, slots=True)
class Work:
    """One queue, as it stands.

    Attributes:
        queue: Its name: a version's ``model@version``, or a model's for its unversioned queue.
        depth: Jobs that wait.
        rows: Their rows, as far as known.
        running: Jobs that workers have claimed and not ended.
        arrivals_s: Jobs that arrive in a second.
        holders: Workers that have the version loaded.
        pace: Speed of workers with it; None if it was never measured.
        oldest_s: Wait of the first job, in seconds.
    """

    queue: str
    depth: int = 0
    rows: float = 0.0
    running: int = 0
    arrivals_s: float = 0.0
    holders: int = 0
    pace: Pace | None = None
    oldest_s: float = 0.0

    @property
    def is_active(self) -> bool:
        """True if anything waits, runs or arrives."""
        return self.depth > 0 or self.running > 0 or self.arrivals_s > 0

    @property
    def is_unversioned(self) -> bool:
        """True for a model's unversioned queue: nothing is predicted or loaded for it."""
        return "@" not in self.queue

    @property
    def is_cold(self) -> bool:
        """True if jobs wait and no worker has the version loaded."""
        return self.depth > 0 and self.holders == 0 and not self.is_unversioned


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds that the operator has set.

    Attributes:
        wait_s: Longest wait that a job should have, in seconds: the target.
        batch_jobs: Jobs in a batch, at most.
        batch_rows: Rows in a batch, at most.
        start_s: Time that a worker takes to start, in seconds.
    """

    wait_s: float = 1.0
    batch_jobs: int = 64
    batch_rows: int = 4096
    start_s: float = 0.0


def seconds_of_work(work: Work, bounds: Bounds) -> float:
    """Returns the work that waits and runs, and its load if any, in seconds of one worker."""
    pace = work.pace or PRIOR
    running = work.running * pace.rows * pace.row_s
    running += ceil(work.running / bounds.batch_jobs) * pace.batch_s
    waiting = work.rows * pace.row_s + _batches(work, bounds) * pace.batch_s
    return waiting + running + (pace.load_s if work.is_cold else 0.0)


def workers_needed(work: Work, bounds: Bounds, headroom: float = GROW_HEADROOM) -> float:
    """Returns the workers that a queue needs, a fraction where it may share one.

    The larger of two: enough for what arrives, in full batches, with ``headroom``; and enough to
    finish what is there within the target wait, counted from when a worker that starts now could
    help, but no more than there are batches to take. A version without measurements needs one.
    """
    if not work.is_active:
        return 0.0
    if work.pace is None and not work.is_unversioned:
        return 1.0
    pace = work.pace or PRIOR
    rows = max(1.0, min(bounds.batch_rows, bounds.batch_jobs * pace.rows))
    arriving = work.arrivals_s * pace.rows * (pace.row_s + pace.batch_s / rows)
    due = seconds_of_work(work, bounds) / (bounds.wait_s + bounds.start_s)
    return max(arriving * headroom, min(due, _batches(work, bounds) + work.running))


def workers_wanted(
    works: Iterable[Work], bounds: Bounds, headroom: float = GROW_HEADROOM
) -> dict[str, int]:
    """Returns the number of workers due to each queue; the sum is the number to run.

    Versions share workers, so a queue that is due none may be served all the same. Versions that no
    worker has loaded share among themselves, apart from those being served, so that each gets a
    worker at once. A version with long batches shares with none: it would delay the others.
    """
    needs = {work: workers_needed(work, bounds, headroom) for work in works}
    cold = [
        work for work in needs if work.is_cold or (work.pace is None and not work.is_unversioned)
    ]
    long = [work for work in needs if work not in cold and has_long_batches(work, bounds)]
    warm = [work for work in needs if work not in cold and work not in long]
    slots = _slots(warm, needs) | _slots(cold, needs)
    for work in long:
        slots |= _slots([work], needs)
    return {work.queue: slots[work.queue] for work in needs}


def _slots(works: Sequence[Work], needs: Mapping[Work, float]) -> dict[str, int]:
    """Whole workers for queues that share: the sum rounded up, the rest by largest fraction."""
    total = max(
        ceil(sum(needs[work] for work in works) - _EPSILON), int(any(w.is_active for w in works))
    )
    slots = {work.queue: floor(needs[work]) for work in works}
    by_rest = sorted(works, key=lambda work: (floor(needs[work]) - needs[work], work.queue))
    for work in by_rest[: total - sum(slots.values())]:
        slots[work.queue] += 1
    return slots


def has_long_batches(work: Work, bounds: Bounds) -> bool:
    """True if the queue's next batch would delay other versions."""
    if work.pace is None or not work.is_active:
        return False
    jobs = min(max(1, work.depth), bounds.batch_jobs)
    rows = min(jobs * work.pace.rows, max(bounds.batch_rows, work.pace.rows))
    return work.pace.batch_s + rows * work.pace.row_s >= _LONG_BATCH * bounds.wait_s


def _batches(work: Work, bounds: Bounds) -> int:
    """Number of batches that wait."""
    by_rows = min(work.depth, ceil(work.rows / bounds.batch_rows))
    return max(ceil(work.depth / bounds.batch_jobs), by_rows)
