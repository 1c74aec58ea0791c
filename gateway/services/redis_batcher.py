"""Group calls for the event loop: many items in one round trip to Redis, on a thread.

An item that finds the thread idle goes at once, alone. Items that come meanwhile wait, and go
together when the round trip is over: the slower Redis answers, the larger the groups. Results come
back to the loop the same way, by one wake-up for each group. (Threads that submit have
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

import structlog

from producer.group_commit import HANG_S, another
from yard.errors import ConfigurationError, ModelyardError, Unavailable
from yard.platform import renew_in_children

_log = structlog.get_logger()

T = TypeVar("T")
R = TypeVar("R")

_Pending = tuple["asyncio.Future[R]", T]
_Outcome = tuple["asyncio.Future[Any]", Any]


class FutureSettler:
    """Settles futures of an event loop from other threads.

    Args:
        loop: The event loop of the futures.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def settle(self, outcomes: Sequence[_Outcome]) -> None:
        """Gives each future its result or, if that is an exception, its exception.

        Futures that are done by then are skipped.
        """
        with suppress(RuntimeError):  # the loop is closed: there are no callers left
            self.loop.call_soon_threadsafe(_settle, outcomes)


def _settle(outcomes: Iterable[_Outcome]) -> None:
    """As `FutureSettler.settle`, on the event loop's own thread."""
    for future, outcome in outcomes:
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


class RedisBatcher(Generic[T, R]):
    """Batches the calls of one kind that an event loop makes.

    Args:
        name: Name of the thread, which the first item starts.
        settler: Takes the results to the event loop.
        call: Handles items in one round trip; returns a result or an error for each, in order.
        fit: Number of pending items, the oldest first, that one call takes; at least 1.
    """

    def __init__(
        self,
        name: str,
        settler: FutureSettler,
        call: Callable[[Sequence[T]], Sequence[R | ModelyardError]],
        fit: Callable[[Sequence[T]], int] = len,
    ) -> None:
        self._name = name
        self._settler = settler
        self._call = call
        self._fit = fit
        self._queue: SimpleQueue[_Pending[R, T] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._is_forked = False
        renew_in_children(self, RedisBatcher._end_in_child)

    def _end_in_child(self) -> None:
        """In a forked child: the event loop and its callers are the parent's."""
        self._queue = SimpleQueue()
        self._thread, self._is_forked = None, True

    def enqueue(self, item: T) -> asyncio.Future[R]:
        """Queues an item and returns the future of its result; to be called on the event loop.

        Raises:
            ModelyardError: When awaited: as ``call`` returns for the item, or raises for all.
            ConfigurationError: The batcher was made before this process was forked.
        """
        if self._is_forked:
            raise ConfigurationError("made before this process was forked: make the app after it")
        future: asyncio.Future[R] = self._settler.loop.create_future()
        self._queue.put((future, item))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        return future

    def close(self) -> None:
        """Ends the thread when all queued items are handled."""
        self._is_closed = True
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(timeout=2.0)

    def _run(self) -> None:
        pending: list[_Pending[R, T]] = []
        while pending or not self._is_closed:
            pending += self._taken(may_wait=not pending)
            if not pending:
                continue
            try:
                pending = self._handle(pending)
            except Exception as error:  # a fault of ours: its callers get it, the thread goes on
                _log.exception("calls could not be made", thread=self._name, calls=len(pending))
                self._give_up(pending, error)
                pending = []

    def _handle(self, pending: list[_Pending[R, T]]) -> list[_Pending[R, T]]:
        """Makes the next call and settles its futures; returns what is left for later ones."""
        count = max(1, self._fit([item for _, item in pending]))
        group, pending = pending[:count], pending[count:]
        results, hang = self._results([item for _, item in group])
        outcomes = list(zip([future for future, _ in group], results, strict=True))
        if hang is not None:  # before the outcomes are out: items that follow them get a call
            pending += self._taken(may_wait=False)
            outcomes += [(future, another(hang)) for future, _ in pending]
            pending = []
        self._settler.settle(outcomes)
        return pending

    def _give_up(self, pending: Sequence[_Pending[R, T]], error: Exception) -> None:
        try:
            self._settler.settle([(future, error) for future, _ in pending])
        except Exception:
            _log.exception("callers could not be told", thread=self._name)

    def _taken(self, *, may_wait: bool) -> list[_Pending[R, T]]:
        """Returns all queued items; may be empty when the batcher closes."""
        taken = []
        with suppress(Empty):
            taken.append(self._queue.get(block=may_wait))
            while True:
                taken.append(self._queue.get_nowait())
        return [pending for pending in taken if pending is not None]

    def _results(self, items: Sequence[T]) -> tuple[Sequence[R | Exception], ModelyardError | None]:
        """Returns each item's result; and the error, if Redis hangs."""
        began = time.monotonic()
        try:
            results = self._call(items)
            if len(results) != len(items):
                raise RuntimeError(f"{len(results)} results for {len(items)} items")
            return results, None
        except ModelyardError as error:
            has_hung = isinstance(error, Unavailable) and time.monotonic() - began > HANG_S
            return [another(error) for _ in items], error if has_hung else None
        except Exception as error:  # a fault of ours: each item gets it, and the thread goes on
            return [error] * len(items), None
