"""Group commit: concurrent calls of many threads share one round trip to Redis.

A thread that finds no call under way makes its own at once, so that an idle process pays nothing.
Items of other threads wait meanwhile, and when the round trip is over one of them takes all into
the next. No thread of its own, no timer: the slower Redis answers, the larger the groups. An event
loop has `gateway.services.redis_batcher` instead.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from yard.errors import ModelyardError, Unavailable
from yard.platform import renew_in_children

T = TypeVar("T")
R = TypeVar("R")

#: Seconds after which a failed call counts as a hanging Redis: the threads behind it get the error,
#: too, in place of each waiting as long again.
HANG_S = 0.4


class Latch:
    """A one-shot event of a single lock; a wait that finds it set clears it.

    An `Event` is built of several locks: at a thousand waits a second, making and waking events
    took a quarter of the process' time.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Lets the next wait, or the present one, through; setting it twice is setting it once."""
        with contextlib.suppress(RuntimeError):  # it was set already
            self._lock.release()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits up to ``timeout_s`` seconds; returns true if it was set."""
        return self._lock.acquire(timeout=-1 if timeout_s is None else max(0.0, timeout_s))


class _Ticket(Generic[T, R]):
    """One thread's item, and its answer or error."""

    __slots__ = ("answer", "error", "is_done", "item", "latch")

    def __init__(self, item: T) -> None:
        self.item = item
        self.latch = Latch()
        self.answer: R | None = None
        self.error: ModelyardError | None = None
        self.is_done = False

    def tell(self, error: ModelyardError | None, answer: R | None = None) -> None:
        """Sets the answer or error, and wakes the thread."""
        self.answer, self.error, self.is_done = answer, error, True
        self.latch.set()

    def result(self) -> R:
        """Returns the answer.

        Raises:
            ModelyardError: The error.
        """
        if self.error is not None:
            raise self.error
        return self.answer  # type: ignore[return-value]  # no error: an answer


class GroupCommit(Generic[T, R]):
    """Groups the items of concurrent threads; safe for threads.

    Args:
        call: Answers several items in one round trip, in their order.
        fit: Returns how many of the waiting items, the oldest first, the next call may take; at
            least 1.
    """

    def __init__(
        self, call: Callable[[Sequence[T]], Sequence[R]], fit: Callable[[Sequence[T]], int]
    ) -> None:
        self._call = call
        self._fit = fit
        self._begin()
        renew_in_children(self, GroupCommit._begin)

    def _begin(self) -> None:
        """Starts without a call under way; in a forked child the threads that made one are gone."""
        self._lock = threading.Lock()
        self._waiting: list[_Ticket[T, R]] = []
        self._is_busy = False

    def ask(self, item: T) -> R:
        """Returns the answer to one item.

        Raises:
            ModelyardError: As ``call`` does, for all items of a group.
        """
        ticket: _Ticket[T, R] = _Ticket(item)
        with self._lock:
            self._waiting.append(ticket)
            is_leader = not self._is_busy
            self._is_busy = True
        if not is_leader:
            ticket.latch.wait()  # until it has its result, or must make the next call
        if not ticket.is_done:
            self._lead()
        return ticket.result()

    @property
    def waiting(self) -> int:
        """Number of threads that wait for the next call."""
        return len(self._waiting)

    def _lead(self) -> None:
        """Calls for the waiting items, the first this thread's own, and passes the lead on."""
        group = self._next_group()
        began = time.monotonic()
        error: ModelyardError | None = Unavailable("the call was broken off")
        answers: Sequence[R] = ()
        try:
            found = self._call([ticket.item for ticket in group])
            if len(found) != len(group):
                raise RuntimeError(f"{len(found)} answers for {len(group)} items")
            answers, error = found, None
        except ModelyardError as raised:
            error = raised
        finally:
            took_s = time.monotonic() - began
            self._pass_on(error if isinstance(error, Unavailable) and took_s > HANG_S else None)
            if error is None:
                for ticket, answer in zip(group, answers, strict=True):
                    ticket.tell(None, answer)
            else:
                for ticket in group:
                    ticket.tell(another(error))

    def _next_group(self) -> list[_Ticket[T, R]]:
        """Takes the items of the next call; all that wait get the error if they cannot be told."""
        with self._lock:
            try:
                count = max(1, self._fit([ticket.item for ticket in self._waiting]))
            except BaseException:
                told, self._waiting, self._is_busy = self._waiting, [], False
                for ticket in told:
                    ticket.tell(Unavailable("the call could not be made"))
                raise
            group, self._waiting = self._waiting[:count], self._waiting[count:]
            return group

    def _pass_on(self, hang: Unavailable | None) -> None:
        """Passes the lead to the next thread; if Redis hangs, fails all that wait."""
        with self._lock:
            told = self._waiting if hang is not None else []
            self._waiting = self._waiting[len(told) :]
            heir = self._waiting[0] if self._waiting else None
            self._is_busy = heir is not None
        if heir is not None:
            heir.latch.set()
        if hang is not None:
            for ticket in told:
                ticket.tell(another(hang))


def another(error: ModelyardError) -> ModelyardError:
    """Copies an error for another caller: one that is raised twice mixes up its tracebacks."""
    made = type(error)(*error.args)
    vars(made).update(vars(error))
    made.__cause__ = error.__cause__
    return made
