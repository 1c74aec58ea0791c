"""Group commit: what many threads submit at once goes to Redis in one round trip.

A thread that finds nobody at it submits at once, alone, so that an idle process pays nothing. What
other threads bring meanwhile waits, and when the round trip is over one of them takes all of it in
the next. No thread of its own, no timer: the slower Redis answers, the larger the groups.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from producer.errors import ModelyardError, Unavailable
from producer.submission import Draft, Outcome, chunked


class _Ticket:
    """One thread's draft, and what becomes of it."""

    __slots__ = ("draft", "outcome", "woken")

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.outcome: Outcome | None = None
        self.woken = threading.Event()


class GroupCommit:
    """Gathers the submissions of threads; safe for threads.

    Args:
        submit: Queues one chunk of drafts: for each its outcome.
    """

    def __init__(self, submit: Callable[[Sequence[Draft]], list[Outcome]]) -> None:
        self._submit = submit
        self._lock = threading.Lock()
        self._waiting: list[_Ticket] = []
        self._is_busy = False

    def submit(self, draft: Draft) -> Outcome:
        """The job, or why it was refused; an outage comes back as `Unavailable`, too."""
        ticket = _Ticket(draft)
        with self._lock:
            self._waiting.append(ticket)
            is_leader = not self._is_busy
            self._is_busy = True
        if not is_leader:
            ticket.woken.wait()
        if ticket.outcome is None:  # it is this thread's turn
            self._lead()
        assert ticket.outcome is not None
        return ticket.outcome

    def _lead(self) -> None:
        """Submit what waits, which begins with this thread's own, and pass the turn on."""
        with self._lock:
            fitting = next(chunked(ticket.draft for ticket in self._waiting))
            group = self._waiting[: len(fitting)]
            del self._waiting[: len(group)]
        try:
            for ticket, outcome in zip(group, self._outcomes(group), strict=True):
                ticket.outcome = outcome
        finally:
            with self._lock:
                heir = self._waiting[0] if self._waiting else None
                self._is_busy = heir is not None
            if heir is not None:
                heir.woken.set()
            for ticket in group:
                ticket.woken.set()

    def _outcomes(self, group: Sequence[_Ticket]) -> list[Outcome]:
        try:
            return self._submit([ticket.draft for ticket in group])
        except ModelyardError as error:
            return [type(error)(*error.args) for _ in group]  # each thread raises one of its own
        except BaseException:
            for ticket in group:
                ticket.outcome = Unavailable("the submission was broken off")
            raise
