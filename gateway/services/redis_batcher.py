"""What the event loop asks of Redis: many questions in one round trip, on a thread of their own.

A question that finds the thread idle goes at once, alone. What comes meanwhile waits, and is taken
together when the round trip is over: the slower Redis answers, the larger the groups. Answers come
back to the loop the same way, however many there are by one wake-up. (Threads that submit have
`producer.group_commit`.)
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from producer.group_commit import HANG_S, another
from yard.errors import ModelyardError, Unavailable

T = TypeVar("T")
R = TypeVar("R")

_Asked = tuple["asyncio.Future[R]", T]
_Told = tuple["asyncio.Future[Any]", Any]


class FutureSettler:
    """Settles futures of an event loop from other threads.

    Args:
        loop: The event loop that the futures are of.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def tell(self, told: Sequence[_Told]) -> None:
        """Give each future its answer, or raise in it what is an exception; late ones are fine."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(settle, told)


def settle(told: Iterable[_Told]) -> None:
    """As `FutureSettler.tell`, on the event loop's own thread."""
    for future, answer in told:
        if future.done():
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)


class RedisBatcher(Generic[T, R]):
    """Asks on behalf of an event loop.

    Args:
        name: The thread's, which is started by the first question.
        handover: Where answers go.
        call: Answers several items in one round trip, in their order, each by a result or an error.
        fit: How many of the items that wait, the oldest first, one call takes; at least 1.
    """

    def __init__(
        self,
        name: str,
        handover: FutureSettler,
        call: Callable[[Sequence[T]], Sequence[R | ModelyardError]],
        fit: Callable[[Sequence[T]], int] = len,
    ) -> None:
        self._name = name
        self._handover = handover
        self._call = call
        self._fit = fit
        self._asked: SimpleQueue[_Asked[R, T] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def ask(self, item: T) -> asyncio.Future[R]:
        """The answer to one item; to be called on the event loop.

        Raises:
            ModelyardError: When awaited: as ``call`` gives for the item, or raises for all of them.
        """
        future: asyncio.Future[R] = self._handover.loop.create_future()
        self._asked.put((future, item))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        return future

    def close(self) -> None:
        """End the thread, after what has been asked."""
        self._is_closed = True
        self._asked.put(None)
        if self._thread is not None:
            self._thread.join(timeout=2.0)

    def _run(self) -> None:
        waiting: list[_Asked[R, T]] = []
        while waiting or not self._is_closed:
            waiting += self._taken(may_wait=not waiting)
            if not waiting:
                continue
            count = self._fit([item for _, item in waiting])
            group, waiting = waiting[:count], waiting[count:]
            answers, hang = self._answers([item for _, item in group])
            told = list(zip([future for future, _ in group], answers, strict=True))
            if hang is not None:  # taken before anybody is told: whoever asks then is asked for
                waiting += self._taken(may_wait=False)
                told += [(future, another(hang)) for future, _ in waiting]
                waiting = []
            self._handover.tell(told)

    def _taken(self, *, may_wait: bool) -> list[_Asked[R, T]]:
        """All that has been asked; nothing, perhaps, where it is to be closed."""
        taken = []
        with suppress(Empty):
            taken.append(self._asked.get(block=may_wait))
            while True:
                taken.append(self._asked.get_nowait())
        return [asked for asked in taken if asked is not None]

    def _answers(self, items: Sequence[T]) -> tuple[Sequence[R | Exception], ModelyardError | None]:
        """What becomes of each item; and the error, where Redis hangs."""
        began = time.monotonic()
        try:
            return self._call(items), None
        except ModelyardError as error:
            has_hung = isinstance(error, Unavailable) and time.monotonic() - began > HANG_S
            return [another(error) for _ in items], error if has_hung else None
        except Exception as error:  # a fault of ours: told to each, and the thread goes on
            return [error] * len(items), None
