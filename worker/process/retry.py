"""Retries of a worker while Redis is away: for ever, or for the drain time once it is to leave.

It waits with its signals, so that a request to stop ends the pause, and without its watchdog:
waiting for Redis is no hanging.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from worker.process.watchdog import Watchdog
from worker.queue import retry_until_up
from yard.platform import StopSignals

_T = TypeVar("_T")


class DrainRetry:
    """The worker's `worker.queue.Retry`.

    Args:
        signals: Requests to stop.
        watchdog: Paused meanwhile.
        drain_s: Seconds to go on for once the worker was asked to stop.
    """

    def __init__(self, signals: StopSignals, watchdog: Watchdog, drain_s: float) -> None:
        self._signals = signals
        self._watchdog = watchdog
        self._drain_s = drain_s
        self._gives_up_at = float("inf")

    def __call__(self, action: Callable[[], _T]) -> _T:
        """See `worker.queue.Retry`."""
        with self._watchdog.paused():
            return retry_until_up(action, self._signals.wait, self._is_out_of_time)

    def _is_out_of_time(self) -> bool:
        if self._signals.count and self._gives_up_at == float("inf"):
            self._gives_up_at = time.monotonic() + self._drain_s
        return time.monotonic() >= self._gives_up_at
