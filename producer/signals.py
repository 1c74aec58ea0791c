"""Waiting in the main thread for a signal to stop, or for a child to end, without polling."""

from __future__ import annotations

import select
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

#: Signals closer than this are one request.
_TOGETHER_S = 0.25


class StopSignals:
    """Counts the requests to stop (SIGINT, SIGTERM, SIGHUP) while its context is open.

    Signals that come together are one request: a SIGTERM to the whole group of ``make run`` comes
    once from its sender and once from make. A SIGHUP that was ignored stays so (``nohup``).

    Args:
        on_second: Called in the handler at the second request, when waiting is over.

    Attributes:
        count: Requests so far: one drains, the second kills.
    """

    def __init__(self, on_second: Callable[[], None] | None = None) -> None:
        self.count = 0
        self._last_at = -_TOGETHER_S
        self._on_second = on_second
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        # The kernel writes a byte for each signal, so one between a check and a wait is not lost.
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.setblocking(False)
        self._fd_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._stop)
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        self._reader.close()
        self._writer.close()

    def wait(self, timeout_s: float) -> None:
        """Return when a signal comes or a child ends, or after ``timeout_s``."""
        if select.select([self._reader], [], [], timeout_s)[0]:
            self._reader.recv(4096)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._last_at >= _TOGETHER_S:
            self.count += 1
            self._last_at = now
        if self.count > 1 and self._on_second is not None:
            self._on_second()
