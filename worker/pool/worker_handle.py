"""One worker of a pool, as the pool sees it: its process, its state in Redis, and its batch.

The time that a batch or a load may take is counted by the pool's own clock, from when the pool
first sees it: a step of Redis' clock (NTP, a replica that takes over) makes no worker late.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

from worker.pool.processes import Process
from worker.queue import MOST_TIMEOUT_S

#: Stands for the token of a worker that has no batch: no batch has this token.
_NO_TOKEN = "-"


class WorkerView(NamedTuple):
    """One worker's fields in Redis, as read at one moment.

    Attributes:
        state: Its state in RQ's entry; None before it has registered.
        load: Identifies the load that it has begun last; None before the first.
        token: The token of its batch, if it has one.
        deadline_ms: When that batch must be over, by Redis' clock.
    """

    state: bytes | None
    load: bytes | None = None
    token: bytes | None = None
    deadline_ms: bytes | None = None


@dataclass(slots=True)
class WorkerHandle:
    """A worker process of a pool.

    Attributes:
        name: The worker's name.
        process: Its process.
        born: When it was started, by the monotonic clock.
        state: Its state in RQ's entry; ``starting`` until it has registered.
        idle_since: When it was first seen idle.
        is_leaving: True if it was asked to leave.
        token: The token of its batch, if it has one.
        load: Identifies the load that it has begun last.
        due: When its load or batch, which it may have lost since, must be over, by that clock.
        is_late: True if that time has passed.
        overdue: The token of the batch that it was asked to end for; `_NO_TOKEN` where it had none.
        kill_at: When it is killed unless it has ended by itself, once it was asked to end.
        is_cut: True if it was killed because the pool's own time was up.
    """

    name: str
    process: Process
    born: float
    state: str = "starting"
    idle_since: float | None = None
    is_leaving: bool = False
    token: str | None = None
    load: bytes | None = None
    due: float | None = None
    is_late: bool = False
    overdue: str | None = None
    kill_at: float | None = None
    is_cut: bool = False

    def update(self, seen: WorkerView, now: float, now_ms: float, timeout_s: float) -> None:
        """Take over what Redis holds of it.

        Args:
            seen: Its fields in Redis.
            now: The time, by the monotonic clock.
            now_ms: The time by Redis' clock, as it was when the batch was claimed.
            timeout_s: What a load, and a batch without a readable deadline, may take, in seconds.
        """
        self._update_state(seen.state, now)
        self._update_due(seen, now, now_ms, timeout_s)
        self.is_late = self.due is not None and now > self.due

    def _update_state(self, state: bytes | None, now: float) -> None:
        self.state = state.decode("utf-8", "replace") if state else "starting"
        if self.state != "idle":
            self.idle_since = None
        elif self.idle_since is None:
            self.idle_since = now

    def _update_due(self, seen: WorkerView, now: float, now_ms: float, timeout_s: float) -> None:
        """Keep the deadline while it is busy, also when it has lost its batch."""
        before, self.token = self.token, _text(seen.token)
        is_new_load, self.load = seen.load != self.load, seen.load
        if self.token is not None:
            if self.token != before:
                self.due = now + _left_s(seen.deadline_ms, now_ms, timeout_s)
        elif self.state != "busy":
            self.due = None
        elif self.due is None or is_new_load:  # else it has lost its batch, and is still at it
            self.due = now + timeout_s

    def end_overdue(self, kill_at: float) -> None:
        """Ask it to end because it is late, and record for which batch and when it is killed."""
        self.overdue = self.token or _NO_TOKEN
        self.kill_at = kill_at
        self.process.terminate()

    def leave(self) -> None:
        """Ask it to end its batch and leave."""
        self.is_leaving = True
        self.process.terminate()


def _text(raw: bytes | None) -> str | None:
    return raw.decode("utf-8", "replace") if raw else None


def _left_s(deadline_ms: bytes | None, now_ms: float, timeout_s: float) -> float:
    """Return what is left of a batch's time, in seconds; ``timeout_s`` where it is unreadable."""
    try:
        left_s = (float(deadline_ms or b"") - now_ms) / 1000
    except ValueError:
        return timeout_s
    return min(left_s, MOST_TIMEOUT_S) if isfinite(left_s) else timeout_s
