"""What a thread waits on: one lock of the interpreter's, where an `Event` is built of several.

Each thread that submits waits for its group (`producer.group_commit`). At a thousand of them a
second the making and waking of events took a quarter of the process' time.
"""

from __future__ import annotations

import contextlib
import threading


class Latch:
    """Shut until somebody sets it; a wait that finds it set shuts it again."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Let the next wait, or the present one, through; setting it twice is setting it once."""
        with contextlib.suppress(RuntimeError):  # it was set already
            self._lock.release()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether it was set, within ``timeout_s`` seconds."""
        return self._lock.acquire(timeout=-1 if timeout_s is None else max(0.0, timeout_s))
