"""What a load costs at least: the workers that someone would run who knew it all beforehand.

The oracle has whole workers, ready the second that they are needed and gone the second that they
are not, each busy all the time and with full batches. Nobody who has to see a load before acting on
it can do as well; it is what the pool's worker-seconds are compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

from yard.cluster.capacity import Pace

#: Less of a worker than this is rounding.
_CRUMB = 1e-9


def workers(
    rates: Mapping[str, Sequence[float]], paces: Mapping[str, Pace], batch_jobs: int
) -> list[int]:
    """Workers for each second of a load.

    Args:
        rates: For each version, the jobs that arrive in each second.
        paces: What its jobs cost.
        batch_jobs: Jobs in a full batch.
    """
    seconds = max(len(of) for of in rates.values())
    busy = [
        sum(_busy(of[second], paces[queue], batch_jobs) for queue, of in rates.items())
        for second in range(seconds)
    ]
    return [ceil(worker_s - _CRUMB) for worker_s in busy]


def _busy(jobs: float, pace: Pace, batch_jobs: int) -> float:
    """What so many jobs keep busy, in seconds of one worker."""
    return jobs * (pace.rows * pace.row_s + pace.batch_s / batch_jobs)
