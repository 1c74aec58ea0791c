"""The loaded models of one process: loaded when first needed, kept within a bound.

The engine asks for a version and predicts while it holds it; `load` (in practice
`models.runtimes.load`) brings it from the store. What is held is never taken away: a version is
evicted only while nobody uses it and nobody has pinned it, the one that was used the longest time
ago first. What did not load is left alone for a while, and is told with the reason.
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

#: How long a version that failed to load is left alone: doubling from the first to the last.
FIRST_BACKOFF_S = 1.0
LAST_BACKOFF_S = 60.0


@dataclass(frozen=True, slots=True)
class Use:
    """A loaded model, held while inside ``with``.

    Attributes:
        model: What predicts.
        load_s: Seconds that this call waited for it to be loaded; 0.0 if it was there.
    """

    model: Loaded
    load_s: float


@dataclass(frozen=True, slots=True)
class Failed:
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
    """What the lock guards."""

    entries: OrderedDict[ModelRef, _Entry] = field(default_factory=OrderedDict)  # by last use
    loading: set[ModelRef] = field(default_factory=set)
    crowded: set[ModelRef] = field(default_factory=set)  # loaded, and waiting for room
    failures: dict[ModelRef, _Failure] = field(default_factory=dict)
    holders: dict[int, int] = field(default_factory=dict)  # thread to the models that it holds
    pinned: frozenset[ModelRef] = frozenset()


class ModelCache:
    """Loaded models within ``limit_bytes``, by the sum of their ``size_bytes``; safe for threads.

    Different versions load side by side, one version never twice at a time. A model's size is known
    only once it is loaded, so that the memory used can pass the bound by what is being loaded.

    Args:
        load: Brings a version; its errors become `ModelUnavailable`.
        limit_bytes: The bound.
        clock: Seconds, never going back.
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
        """The version's model, loaded if need be, which stays loaded while inside.

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
        """The versions that are loaded, each with its size in bytes; the last used comes last."""
        with self._changed:
            return {ref: entry.size_bytes for ref, entry in self._state.entries.items()}

    def failed(self) -> dict[ModelRef, Failed]:
        """The versions that did not load when last tried, and when they are tried again."""
        now = self._clock()
        with self._changed:
            return {
                ref: Failed(failure.message, max(0.0, failure.until - now))
                for ref, failure in self._state.failures.items()
            }

    def forgive(self, ref: ModelRef) -> None:
        """Let the next use of a version try to load it, whatever came of it before."""
        with self._changed:
            self._state.failures.pop(ref, None)

    def pin(self, refs: Iterable[ModelRef]) -> None:
        """From now on let these, and only these, never be evicted to make room.

        A version need not be loaded to be pinned, and pinning does not load it.
        """
        with self._changed:
            self._state.pinned = frozenset(refs)
            self._changed.notify_all()

    def evict(self, ref: ModelRef) -> bool:
        """Unload a version that nobody uses, and forget that it failed to load.

        Returns:
            Whether it is not loaded now: False while it is in use.
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
                if ref in self._state.crowded and thread in self._state.holders:
                    raise self._no_room(ref)
                waited = True
                self._changed.wait()
            else:
                entry = self._state.entries[ref]
                self._take(entry, thread)
                return entry, self._clock() - started if waited else 0.0
        return self._bring(ref, thread), self._clock() - started

    def _bring(self, ref: ModelRef, thread: int) -> _Entry:
        """Load, and hold what was loaded; the caller has put ``ref`` into ``loading``."""
        try:
            model = self._loaded(ref)
        except ModelUnavailable as error:
            self._remember(ref, error.message)
            raise
        else:
            with self._changed:
                self._make_room(ref, model.size_bytes, thread)
                entry = _Entry(ref, model, model.size_bytes)
                self._state.entries[ref] = entry
                self._state.failures.pop(ref, None)
                self._take(entry, thread)
                return entry
        finally:  # also where the load was broken off from outside, which is no fault of the model
            with self._changed:
                self._state.loading.discard(ref)
                self._changed.notify_all()

    def _loaded(self, ref: ModelRef) -> Loaded:
        try:
            model = self._load(ref)
        except (ModelUnavailable, VersionGone):  # what is gone is not a failure to remember
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
        """Evict until ``size_bytes`` fit; wait for others to leave what they use.

        A thread that holds a model itself is refused instead, here and where it waits for a version
        that waits here: two such threads could wait for each other for ever.
        """
        self._state.crowded.add(ref)
        try:
            while not self._evict_for(size_bytes):
                if thread in self._state.holders or self._is_hopeless(size_bytes):
                    raise self._no_room(ref)
                self._changed.notify_all()
                self._changed.wait()
        finally:
            self._state.crowded.discard(ref)

    def _evict_for(self, size_bytes: int) -> bool:
        """Whether ``size_bytes`` fit now; evicts only if that is enough."""
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

    def _is_hopeless(self, size_bytes: int) -> bool:
        """Whether it would not fit even if nobody used a model, for all that is pinned."""
        return self._pinned_bytes() + size_bytes > self._limit_bytes

    def _pinned_bytes(self) -> int:
        entries = self._state.entries.values()
        return sum(entry.size_bytes for entry in entries if entry.ref in self._state.pinned)

    def _no_room(self, ref: ModelRef) -> ModelUnavailable:
        used = sum(
            entry.size_bytes
            for entry in self._state.entries.values()
            if entry.users or entry.ref in self._state.pinned
        )
        return ModelUnavailable(
            f"{ref}: no room: {used} of the {self._limit_bytes} bytes of the model cache are in use"
            + (f", {self._pinned_bytes()} of them pinned" if self._pinned_bytes() else "")
        )

    def _take(self, entry: _Entry, thread: int) -> None:
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

    def _remember(self, ref: ModelRef, message: str) -> None:
        with self._changed:
            last = self._state.failures.pop(ref, None)  # the last that failed comes last
            backoff_s = (
                min(LAST_BACKOFF_S, last.backoff_s * 2) if last is not None else FIRST_BACKOFF_S
            )
            self._state.failures[ref] = _Failure(message, backoff_s, self._clock() + backoff_s)
