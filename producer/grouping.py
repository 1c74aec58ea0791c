"""Group commit: what many threads ask of Redis at once goes there in one round trip.

A thread that finds nobody at it asks at once, alone, so that an idle process pays nothing. What
other threads bring meanwhile waits, and when the round trip is over one of them takes all of it in
the next. No thread of its own, no timer: the slower Redis answers, the larger the groups.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from producer.errors import ModelyardError, Unavailable
from producer.latch import Latch

T = TypeVar("T")
R = TypeVar("R")

#: A call that took this long and failed has met a Redis that hangs: those who wait behind it are
#: told so, too, in place of each waiting as long again.
_HANG_S = 0.4


class Ticket(Generic[T, R]):
    """What one thread asks, and what it is told; made by `Group.bring`.

    Attributes:
        is_done: Whether the answer, or the error, is there.
    """

    __slots__ = ("answer", "error", "has_turn", "is_done", "is_quiet", "item", "latch")

    def __init__(self, item: T, latch: Latch, is_quiet: Callable[[R], bool]) -> None:
        self.item = item
        self.latch = latch
        self.is_quiet = is_quiet
        self.answer: R | None = None
        self.error: ModelyardError | None = None
        self.is_done = False
        self.has_turn = False

    def tell(self, error: ModelyardError | None, answer: R | None = None) -> None:
        """Set what it is told, and wake its thread unless the answer needs none."""
        self.answer, self.error, self.is_done = answer, error, True
        if error is not None or not self.is_quiet(answer):  # type: ignore[arg-type]  # an answer
            self.latch.set()

    def take_turn(self) -> None:
        """Let its thread go on waiting."""
        self.has_turn = True
        self.latch.set()

    def result(self) -> R:
        """The answer.

        Raises:
            ModelyardError: The error.
        """
        if self.error is not None:
            raise self.error
        return self.answer  # type: ignore[return-value]  # told without an error: an answer


class Group(Generic[T, R]):
    """Gathers what threads ask; safe for threads.

    Args:
        call: Answers several items in one round trip, in their order.
        fit: How many of the items that wait, the oldest first, the next call may take; at least 1.
    """

    def __init__(
        self, call: Callable[[Sequence[T]], Sequence[R]], fit: Callable[[Sequence[T]], int]
    ) -> None:
        self._call = call
        self._fit = fit
        self._lock = threading.Lock()
        self._waiting: list[Ticket[T, R]] = []
        self._is_busy = False

    def ask(self, item: T) -> R:
        """The answer to one item.

        Raises:
            ModelyardError: As ``call`` does, for all items of a group.
        """
        ticket = self.bring(item, Latch())
        while not ticket.is_done:
            ticket.latch.wait()
            self.advance(ticket)
        return ticket.result()

    def bring(
        self, item: T, latch: Latch, is_quiet: Callable[[R], bool] = lambda answer: False
    ) -> Ticket[T, R]:
        """Ask for one item, and let its thread wait for something else with the same latch.

        Whenever the latch is set and the ticket is not done, call `advance`: it may be its turn,
        and others wait behind it.

        Args:
            item: What to ask.
            latch: What its thread waits on.
            is_quiet: Whether an answer need not wake it.
        """
        ticket: Ticket[T, R] = Ticket(item, latch, is_quiet)
        with self._lock:
            self._waiting.append(ticket)
            is_leader = not self._is_busy
            self._is_busy = True
        if is_leader:
            self._lead()
        return ticket

    def advance(self, ticket: Ticket[T, R]) -> None:
        """Take the ticket's turn, if it has come."""
        if ticket.has_turn and not ticket.is_done:
            self._lead()

    @property
    def waiting(self) -> int:
        """How many threads wait for the next call."""
        return len(self._waiting)

    def _lead(self) -> None:
        """Ask for what waits, which begins with this thread's own, and pass the turn on."""
        with self._lock:
            count = self._fit([ticket.item for ticket in self._waiting])
            group, self._waiting = self._waiting[:count], self._waiting[count:]
        began = time.monotonic()
        error: ModelyardError | None = Unavailable("the call was broken off")
        answers: Sequence[R] = ()
        try:
            answers, error = self._call([ticket.item for ticket in group]), None
        except ModelyardError as raised:
            error = raised
        finally:
            took_s = time.monotonic() - began
            self._pass_on(error if isinstance(error, Unavailable) and took_s > _HANG_S else None)
            if error is None:
                for ticket, answer in zip(group, answers, strict=True):
                    ticket.tell(None, answer)
            else:
                for ticket in group:
                    ticket.tell(_copy(error))

    def _pass_on(self, hang: Unavailable | None) -> None:
        """Give the turn to the next thread; if Redis hangs, tell so to all who wait."""
        with self._lock:
            told = self._waiting if hang is not None else []
            self._waiting = self._waiting[len(told) :]
            heir = self._waiting[0] if self._waiting else None
            self._is_busy = heir is not None
        if heir is not None:
            heir.take_turn()
        for ticket in told:
            ticket.tell(_copy(hang))


def _copy(error: ModelyardError | None) -> ModelyardError | None:
    """The same error for another thread: one that is raised twice mixes up its tracebacks."""
    return None if error is None else type(error)(*error.args)
