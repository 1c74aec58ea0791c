"""Cache of the loaded models of one process: loaded when first needed, kept within a bound.

A worker asks for a version and predicts while it holds it; `load` (in practice
`models.runtimes.load`) reads it from the store. A held model is never unloaded: a version is
evicted only while it is neither in use nor pinned, least recently used first. A version that failed
to load is not retried for a while, and callers get the reason.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from yard.contract import ModelRef
from yard.errors import ModelUnavailable, ModelyardError, VersionGone, described

if TYPE_CHECKING:
    from models.runtimes import Loaded

#: Backoff in seconds before a version that failed to load is retried: doubling from the first to
#: the last.
FIRST_BACKOFF_S = 1.0
LAST_BACKOFF_S = 60.0


@dataclass(frozen=True, slots=True)
class Use:
    """A loaded model, held while inside ``with``.

    Attributes:
        model: The model.
        load_s: Seconds that this call waited for the load; 0.0 if it was loaded.
    """

    model: Loaded
    load_s: float


@dataclass(frozen=True, slots=True)
class FailedLoad:
    """A version that did not load.

    Attributes:
        message: Why.
        retry_in_s: Seconds until its next use tries again; 0.0 where that time has come.
    """

    message: str
    retry_in_s: float


@dataclass(slots=True)
class _Entry:
    ref: ModelRef
    model: Loaded
    size_bytes: int
    users: int = 0


@dataclass(frozen=True, slots=True)
class _Failure:
    message: str
    backoff_s: float
    until: float


@dataclass(slots=True)
class _State:
    """State guarded by the lock."""

    entries: OrderedDict[ModelRef, _Entry] = field(default_factory=OrderedDict)  # by last use
    loading: set[ModelRef] = field(default_factory=set)
    waiting_for_room: set[ModelRef] = field(default_factory=set)  # loaded, and waiting for room
    failures: dict[ModelRef, _Failure] = field(default_factory=dict)
    holders: dict[int, int] = field(default_factory=dict)  # by thread: number of held models
    pinned: frozenset[ModelRef] = frozenset()


class ModelCache:
    """Loaded models within ``limit_bytes``, by the sum of their ``size_bytes``; safe for threads.

    Different versions load side by side, one version never twice at a time. A model's size is known
    only once it is loaded, so that the memory used can pass the bound by the models being loaded.

    Args:
        load: Loads a version; its errors become `ModelUnavailable`.
        limit_bytes: The bound.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        load: Callable[[ModelRef], Loaded],
        limit_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._state = _State()
        self._changed = threading.Condition()

    @contextmanager
    def use(self, ref: ModelRef) -> Iterator[Use]:
        """Yields the version's model, loaded if need be, which stays loaded inside the context.

        Raises:
            ModelUnavailable: It does not load, failed to load a moment ago, or does not fit.
            VersionGone: ``load`` says that it is no longer published.
        """
        thread = threading.get_ident()
        entry, load_s = self._hold(ref, thread)
        try:
            yield Use(entry.model, load_s)
        finally:
            self._release(entry, thread)

    def loaded(self) -> dict[ModelRef, int]:
        """Returns the loaded versions with their sizes in bytes; the last used comes last."""
        with self._changed:
            return {ref: entry.size_bytes for ref, entry in self._state.entries.items()}

    def failed(self) -> dict[ModelRef, FailedLoad]:
        """Returns the versions that failed to load at the last try, and when they are retried."""
        now = self._clock()
        with self._changed:
            return {
                ref: FailedLoad(failure.message, max(0.0, failure.until - now))
                for ref, failure in self._state.failures.items()
            }

    def forgive(self, ref: ModelRef) -> None:
        """Clears a version's failure, so that its next use tries to load it."""
        with self._changed:
            self._state.failures.pop(ref, None)

    def pin(self, refs: Iterable[ModelRef]) -> None:
        """Replaces the set of versions that are never evicted to make room.

        A version need not be loaded to be pinned, and pinning does not load it.
        """
        with self._changed:
            self._state.pinned = frozenset(refs)
            self._changed.notify_all()

    def evict(self, ref: ModelRef) -> bool:
        """Unloads a version that is not in use, and clears its failure.

        Returns:
            True if it is not loaded now: False while it is in use.
        """
        with self._changed:
            self._state.failures.pop(ref, None)
            entry = self._state.entries.get(ref)
            if entry is None or entry.users:
                return entry is None
            del self._state.entries[ref]
            self._changed.notify_all()
            return True

    def _hold(self, ref: ModelRef, thread: int) -> tuple[_Entry, float]:
        started = self._clock()
        with self._changed:
            waited = False
            while ref not in self._state.entries:
                self._raise_if_failed(ref)
                if ref not in self._state.loading:
                    self._state.loading.add(ref)
                    break
                if ref in self._state.waiting_for_room and thread in self._state.holders:
                    raise self._no_room_error(ref)
                waited = True
                self._changed.wait()
            else:
                entry = self._state.entries[ref]
                self._acquire(entry, thread)
                return entry, self._clock() - started if waited else 0.0
        return self._load_and_hold(ref, thread), self._clock() - started

    def _load_and_hold(self, ref: ModelRef, thread: int) -> _Entry:
        """Loads a version and acquires it; the caller has put ``ref`` into ``loading``."""
        try:
            model = self._loaded(ref)
        except ModelUnavailable as error:
            self._record_failure(ref, error.message)
            raise
        else:
            with self._changed:
                self._make_room(ref, model.size_bytes, thread)
                entry = _Entry(ref, model, model.size_bytes)
                self._state.entries[ref] = entry
                self._state.failures.pop(ref, None)
                self._acquire(entry, thread)
                return entry
        finally:  # also if the load was interrupted from outside, which is not the model's fault
            with self._changed:
                self._state.loading.discard(ref)
                self._changed.notify_all()

    def _loaded(self, ref: ModelRef) -> Loaded:
        try:
            model = self._load(ref)
        except (ModelUnavailable, VersionGone):  # a deleted version is no failure to back off from
            raise
        except ModelyardError as error:
            raise ModelUnavailable(f"{ref}: {error.message}") from error
        except Exception as error:
            raise ModelUnavailable(f"{ref}: does not load: {described(error)}") from error
        if model.size_bytes > self._limit_bytes:
            raise ModelUnavailable(
                f"{ref}: needs {model.size_bytes} bytes, the bound of the model cache is "
                f"{self._limit_bytes} bytes"
            )
        return model

    def _make_room(self, ref: ModelRef, size_bytes: int, thread: int) -> None:
        """Evicts until ``size_bytes`` fit; waits for other threads to release models.

        A thread that holds a model itself is refused instead, here and where it waits for a version
        that waits here: two such threads could wait for each other for ever.
        """
        self._state.waiting_for_room.add(ref)
        try:
            while not self._evict_for(size_bytes):
                if thread in self._state.holders or self._cannot_fit(size_bytes):
                    raise self._no_room_error(ref)
                self._changed.notify_all()
                self._changed.wait()
        finally:
            self._state.waiting_for_room.discard(ref)

    def _evict_for(self, size_bytes: int) -> bool:
        """Returns whether ``size_bytes`` fit now; evicts only if that is enough."""
        entries = self._state.entries
        free = self._limit_bytes - sum(entry.size_bytes for entry in entries.values())
        idle = [
            entry
            for entry in entries.values()
            if not entry.users and entry.ref not in self._state.pinned
        ]
        if free + sum(entry.size_bytes for entry in idle) < size_bytes:
            return False
        for entry in idle:
            if free >= size_bytes:
                break
            free += entries.pop(entry.ref).size_bytes
        return True

    def _cannot_fit(self, size_bytes: int) -> bool:
        """True if it would not fit even if no model were in use, because of the pinned ones."""
        return self._pinned_bytes() + size_bytes > self._limit_bytes

    def _pinned_bytes(self) -> int:
        entries = self._state.entries.values()
        return sum(entry.size_bytes for entry in entries if entry.ref in self._state.pinned)

    def _no_room_error(self, ref: ModelRef) -> ModelUnavailable:
        used = sum(
            entry.size_bytes
            for entry in self._state.entries.values()
            if entry.users or entry.ref in self._state.pinned
        )
        return ModelUnavailable(
            f"{ref}: no room: {used} of the {self._limit_bytes} bytes of the model cache are in use"
            + (f", {self._pinned_bytes()} of them pinned" if self._pinned_bytes() else "")
        )

    def _acquire(self, entry: _Entry, thread: int) -> None:
        entry.users += 1
        self._state.entries.move_to_end(entry.ref)
        self._state.holders[thread] = self._state.holders.get(thread, 0) + 1

    def _release(self, entry: _Entry, thread: int) -> None:
        with self._changed:
            entry.users -= 1
            self._state.entries.move_to_end(entry.ref)
            self._state.holders[thread] -= 1
            if not self._state.holders[thread]:
                del self._state.holders[thread]
            self._changed.notify_all()

    def _raise_if_failed(self, ref: ModelRef) -> None:
        failure = self._state.failures.get(ref)
        if failure is not None and self._clock() < failure.until:
            raise ModelUnavailable(failure.message)

    def _record_failure(self, ref: ModelRef, message: str) -> None:
        with self._changed:
            last = self._state.failures.pop(ref, None)  # keeps the latest failure last
            backoff_s = (
                min(LAST_BACKOFF_S, last.backoff_s * 2) if last is not None else FIRST_BACKOFF_S
            )
            self._state.failures[ref] = _Failure(message, backoff_s, self._clock() + backoff_s)
