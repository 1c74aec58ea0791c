"""The watchdog: kills a worker that hangs in a batch when no pool is left to end it.

The pool ends workers whose batch is past its deadline. If the pool was killed, or is frozen, its
workers get a SIGTERM and drain; but code that holds Python's lock for good handles no signal, and
code that sleeps lets the lease be renewed. So each batch sets the kernel's own timer, whose signal
kills a process without a handler for it, whatever it does: a while after the deadline, when a pool
that lives has long acted. Then the batch's lease runs out, and other pools recover its jobs.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

#: Grace period after the time at which a pool would have acted, in seconds.
_GRACE_S = 5.0


class Watchdog:
    """The timer of one process; off where no pool has started the worker.

    Args:
        lease_s: Seconds that a pool spares workers that are late because Redis was away.
        is_on: False to never set the timer.
    """

    def __init__(self, lease_s: float, is_on: bool) -> None:
        self._grace_s = lease_s + _GRACE_S
        self._is_on = is_on

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Kill this process if the block runs longer than ``seconds`` plus the grace period."""
        self._set(seconds + self._grace_s)
        try:
            yield
        finally:
            self._set(0.0)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the timer for the block: waiting for Redis is no hanging."""
        left_s = self._set(0.0)
        try:
            yield
        finally:
            self._set(left_s)

    def _set(self, seconds: float) -> float:
        """Set the timer, 0.0 for off; return what was left of it, in seconds."""
        return signal.setitimer(signal.ITIMER_REAL, seconds)[0] if self._is_on else 0.0
