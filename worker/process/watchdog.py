"""The end of a worker that hangs in a batch when nobody is left to end it.

The pool ends workers whose batch has run past its deadline. If the pool was killed, or is frozen,
its workers get a SIGTERM and drain; but code that keeps Python's lock for good hears no signal, and
one that sleeps goes on renewing its lease. So each batch sets the kernel's own timer, whose signal
kills a process that has no handler for it, whatever it does: a while after the deadline, so that a
pool that lives has long acted. The batch's lease runs out then, and other pools take its jobs up.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

#: How long after its pool would have, in seconds.
_GRACE_S = 5.0


class Watchdog:
    """The timer of one process; does nothing where no pool has started the worker.

    Args:
        lease_s: How long a pool spares those who are late because Redis was away.
        is_on: Whether to set it at all.
    """

    def __init__(self, lease_s: float, is_on: bool) -> None:
        self._grace_s = lease_s + _GRACE_S
        self._is_on = is_on

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Let what is done now take so long, and a while."""
        self._set(seconds + self._grace_s)
        try:
            yield
        finally:
            self._set(0.0)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let what is done now take any time: waiting for Redis is no hanging."""
        left_s = self._set(0.0)
        try:
            yield
        finally:
            self._set(left_s)

    def _set(self, seconds: float) -> float:
        """What was left of the timer, 0.0 for none."""
        return signal.setitimer(signal.ITIMER_REAL, seconds)[0] if self._is_on else 0.0
