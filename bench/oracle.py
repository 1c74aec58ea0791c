"""The least cost of a load: the workers of an oracle that knows it all beforehand.

The oracle has whole workers, ready the second that they are needed and gone the second that they
are not, each busy all the time and with full batches. A pool has to see a load before it acts, and
cannot do as well; its worker-seconds are compared with the oracle's.
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
    """Seconds of one worker that so many jobs keep busy."""
    return jobs * (pace.rows * pace.row_s + pace.batch_s / batch_jobs)
