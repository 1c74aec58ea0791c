"""Stop signals: the main thread waits for one, or for a child to end, without polling.

A process that gets a stop signal while it starts must neither die of it nor miss it: its handlers
are not there yet. So our processes are started under `held`, a command holds signals itself as soon
as it runs (`hold`), and `StopSignals` lets them through once it can count them.
"""

from __future__ import annotations

import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

#: Signals closer than this, in seconds, are one request.
_TOGETHER_S = 0.25

#: Signals that ask a process to stop.
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def hold() -> None:
    """Blocks stop signals until `release` or the context of a `StopSignals`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)


def release() -> None:
    """Unblocks stop signals, also those that have come meanwhile."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


def is_waiting() -> bool:
    """True if a stop signal has come while they are held."""
    return not signal.sigpending().isdisjoint(_STOPS)


def exit_cause(status: int) -> str:
    """Names the end of a process by its exit status: ``status 1``, or ``SIGKILL`` for -9."""
    if status >= 0:
        return f"status {status}"
    with suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"


@contextmanager
def held() -> Iterator[None]:
    """Children started inside hold stop signals from their first instant: they inherit the mask."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
        release()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        self._reader.close()
        self._writer.close()

    def wait(self, timeout_s: float, also: Sequence[int] = ()) -> bool:
        """Waits for a signal, the end of a child, or the timeout.

        Args:
            timeout_s: The longest wait.
            also: Descriptors; something to read from one of them ends the wait, too.

        Returns:
            False after the timeout.
        """
        own = self._reader.fileno()
        ready = select.select([own, *also], [], [], timeout_s)[0]
        if own in ready:
            self._reader.recv(4096)
        return bool(ready)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._last_at >= _TOGETHER_S:
            self.count += 1
            self._last_at = now
        if self.count > 1 and self._on_second is not None:
            self._on_second()
