"""One worker of a pool, as the pool sees it: its process, what it says it does, and its batch."""

from __future__ import annotations

from dataclasses import dataclass

from worker.processes import Process


@dataclass(slots=True)
class Child:
    """A worker process of a pool.

    Attributes:
        name: The worker's name.
        process: Its process.
        born: When it was started, by the monotonic clock.
        state: What it said it does; ``starting`` until it has said so.
        idle_since: When it was first seen idle.
        is_leaving: Whether it was asked to leave.
        token: The token of its batch, if it has one.
        deadline_ms: When its batch, which it may have lost since, must be over, by Redis' clock.
        is_late: Whether that time has passed.
        is_overdue: Whether it was told to end for that.
        kill_at: When it is killed, if it has been asked to end and must.
        is_cut: Whether it was killed because the pool's own time was up.
    """

    name: str
    process: Process
    born: float
    state: str = "starting"
    idle_since: float | None = None
    is_leaving: bool = False
    token: str | None = None
    deadline_ms: float | None = None
    is_late: bool = False
    is_overdue: bool = False
    kill_at: float | None = None
    is_cut: bool = False

    def note_state(self, state: bytes | None, now: float) -> None:
        """Note what it says it does; None before it has said anything."""
        self.state = state.decode("utf-8", "replace") if state else "starting"
        if self.state != "idle":
            self.idle_since = None
        elif self.idle_since is None:
            self.idle_since = now

    def note_batch(
        self, token: bytes | None, deadline: bytes | None, now_ms: float, timeout_s: float
    ) -> None:
        """Keep the deadline in mind while it is busy, also when it has lost its batch."""
        self.token = token.decode("utf-8", "replace") if token else None
        if deadline is not None:
            self.deadline_ms = _number(deadline)
        elif self.state != "busy":
            self.deadline_ms = None
        if self.deadline_ms is None and self.state == "busy":
            self.deadline_ms = now_ms + 1000 * timeout_s
        self.is_late = self.deadline_ms is not None and now_ms > self.deadline_ms

    def leave(self) -> None:
        """Ask it to end its batch and leave."""
        self.is_leaving = True
        self.process.terminate()


def _number(raw: bytes) -> float | None:
    try:
        return float(raw)
    except ValueError:
        return None
