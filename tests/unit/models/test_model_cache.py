"""The cache of loaded models: one load at a time, within its bound, and nothing in use goes."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from models.runtimes.model_cache import FailedLoad, ModelCache
from tests.helpers.stand_ins import IRIS
from tests.helpers.waiting import wait_until
from yard.contract.values import ModelRef, Signature
from yard.errors import ModelUnavailable, UnknownVersion

A, B, C = (ModelRef("iris", version) for version in ("v1", "v2", "v3"))


@dataclass
class Model:
    """Stands for a loaded model."""

    ref: ModelRef
    size_bytes: int = 10
    signature: Signature = IRIS

    def predict(self, rows: list[list[Any]]) -> dict[str, list[Any]]:
        return {}


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Loader:
    """Loads at once, counts, and fails on demand."""

    sizes: dict[ModelRef, int] = field(default_factory=dict)
    errors: dict[ModelRef, Exception] = field(default_factory=dict)
    loads: Counter[ModelRef] = field(default_factory=Counter)
    clock: Clock = field(default_factory=Clock)
    takes_s: float = 0.0

    def __call__(self, ref: ModelRef) -> Model:
        self.loads[ref] += 1
        self.clock.now += self.takes_s
        if ref in self.errors:
            raise self.errors[ref]
        return Model(ref, self.sizes.get(ref, 10))


def cache_of(loader: Loader, limit_bytes: int = 20) -> ModelCache:
    return ModelCache(loader, limit_bytes, loader.clock)


def use(cache: ModelCache, ref: ModelRef) -> None:
    with cache.use(ref):
        pass


def test_a_model_is_loaded_when_it_is_first_needed_and_then_kept():
    loader = Loader(takes_s=2.5)
    cache = cache_of(loader)
    assert cache.loaded() == {}
    with cache.use(A) as first:
        assert first.model.size_bytes == 10
        assert first.load_s == 2.5
    with cache.use(A) as second:
        assert second.model is first.model
        assert second.load_s == 0.0
    assert loader.loads == {A: 1}
    assert cache.loaded() == {A: 10}


def test_a_model_that_is_there_was_not_waited_for_at_all():
    cache = ModelCache(Loader(), 20)  # by the real clock, which goes on between two looks at it
    use(cache, A)
    with cache.use(A) as again:
        assert again.load_s == 0.0


def test_the_one_used_the_longest_time_ago_goes_first():
    loader = Loader()
    cache = cache_of(loader)
    for ref in (A, B, A, C):
        use(cache, ref)
    assert list(cache.loaded()) == [A, C]


def test_leaving_a_model_is_a_use_too():
    loader = Loader()
    cache = cache_of(loader)
    with cache.use(A):
        use(cache, B)
    use(cache, C)
    assert list(cache.loaded()) == [A, C]


def test_only_as_many_are_evicted_as_are_needed():
    cache = cache_of(Loader(sizes={A: 5, B: 5, C: 12}), limit_bytes=20)
    for ref in (A, B, C):
        use(cache, ref)
    assert list(cache.loaded()) == [B, C]


def test_a_model_in_use_is_never_evicted():
    cache = cache_of(Loader())
    with cache.use(A) as held:
        use(cache, B)
        use(cache, C)
        assert A in cache.loaded()
        assert not cache.evict(A)
        with cache.use(A) as again:
            assert again.model is held.model


def test_a_model_above_the_bound_is_refused_with_both_numbers():
    loader = Loader(sizes={B: 21})
    cache = cache_of(loader)
    use(cache, A)
    with pytest.raises(ModelUnavailable, match=r"iris@v2.* 21 bytes.* 20 bytes"):
        use(cache, B)
    assert list(cache.loaded()) == [A]  # nothing was evicted in vain
    with pytest.raises(ModelUnavailable, match="21 bytes"):
        use(cache, B)
    assert loader.loads[B] == 1  # remembered: it is not loaded again for every job


def test_who_holds_a_model_is_refused_another_that_does_not_fit_and_tries_again_later():
    loader = Loader(sizes={A: 15, B: 15})
    cache = cache_of(loader)
    with cache.use(A), pytest.raises(ModelUnavailable, match=r"15 of the 20 bytes .* in use"):
        use(cache, B)
    use(cache, B)  # no back-off: the model was not at fault
    assert list(cache.loaded()) == [B]


def test_a_failed_load_is_remembered_for_twice_as_long_each_time():
    loader = Loader(errors={A: ModelUnavailable("iris@v1: it is broken")})
    cache = cache_of(loader)
    for tries, backoff_s in enumerate([1, 2, 4, 8, 16, 32, 60, 60], start=1):
        with pytest.raises(ModelUnavailable, match="it is broken"):
            use(cache, A)
        loader.clock.now += backoff_s - 0.001
        with pytest.raises(ModelUnavailable, match="it is broken"):
            use(cache, A)
        assert loader.loads[A] == tries
        loader.clock.now += 0.002
    loader.errors.clear()
    for ref in (A, B, C):  # A loads, and gives way to the others
        use(cache, ref)
    loader.errors[A] = ModelUnavailable("broken again")
    with pytest.raises(ModelUnavailable):
        use(cache, A)
    loader.clock.now += 1.001  # a load that worked makes the next failure a first one
    before = loader.loads[A]
    with pytest.raises(ModelUnavailable):
        use(cache, A)
    assert loader.loads[A] == before + 1


def test_what_failed_is_told_with_the_reason_and_when_it_is_tried_again():
    loader = Loader(errors={A: ModelUnavailable("broken")})
    cache = cache_of(loader)
    with pytest.raises(ModelUnavailable):
        use(cache, A)
    loader.clock.now += 0.25
    assert cache.failed() == {A: FailedLoad("broken", 0.75)}
    loader.clock.now += 60
    assert cache.failed() == {A: FailedLoad("broken", 0.0)}  # until it is tried again
    loader.errors.clear()
    use(cache, A)
    assert cache.failed() == {}


def test_what_is_forgiven_is_tried_again_at_once():
    loader = Loader(errors={A: ModelUnavailable("broken")})
    cache = cache_of(loader)
    with pytest.raises(ModelUnavailable):
        use(cache, A)
    loader.errors.clear()
    cache.forgive(A)
    use(cache, A)
    assert list(cache.loaded()) == [A]


def test_a_pinned_model_is_not_evicted_until_others_are_pinned():
    cache = cache_of(Loader())
    cache.pin([A])
    for ref in (A, B, C):
        use(cache, ref)
    assert list(cache.loaded()) == [A, C]
    cache.pin([C])
    use(cache, B)
    assert list(cache.loaded()) == [C, B]


def test_pinning_loads_nothing():
    loader = Loader()
    cache_of(loader).pin([A])
    assert not loader.loads


def test_what_finds_no_room_beside_pinned_models_is_refused_and_does_not_wait():
    cache = cache_of(Loader(sizes={A: 15, B: 15}))
    cache.pin([A])
    use(cache, A)
    with pytest.raises(ModelUnavailable, match=r"15 of the 20 bytes .* in use, 15 of them pinned"):
        use(cache, B)
    assert cache.evict(A)  # a caller that names it may
    use(cache, B)


def test_evicting_forgets_a_failure():
    loader = Loader(errors={A: ModelUnavailable("broken")})
    cache = cache_of(loader)
    with pytest.raises(ModelUnavailable):
        use(cache, A)
    loader.errors.clear()
    assert cache.evict(A)
    use(cache, A)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UnknownVersion("the store has no version 'v1'"), "iris@v1: the store has no version 'v1'"),
        (ValueError("bad magic"), "iris@v1: does not load: ValueError: bad magic"),
        (MemoryError(), "iris@v1: does not load: MemoryError"),
    ],
)
def test_whatever_the_load_raises_is_a_model_that_is_unavailable(error, message):
    cache = cache_of(Loader(errors={A: error}))
    with pytest.raises(ModelUnavailable) as caught:
        use(cache, A)
    assert caught.value.message.startswith(message)
    assert caught.value.__cause__ is error


def test_a_load_that_is_broken_off_is_no_failure_of_the_model():
    cuts = [KeyboardInterrupt()]

    def load(ref: ModelRef) -> Model:
        if cuts:
            raise cuts.pop()
        return Model(ref)

    cache = ModelCache(load, 20)
    with pytest.raises(KeyboardInterrupt):
        use(cache, A)
    use(cache, A)
    assert cache.loaded() == {A: 10}


def test_an_error_of_the_user_releases_the_model():
    cache = cache_of(Loader())
    with pytest.raises(ZeroDivisionError), cache.use(A):
        raise ZeroDivisionError
    assert cache.evict(A)


class Gates:
    """A loader that lists the loads that have begun, and ends each on demand."""

    def __init__(self) -> None:
        self.begun: Counter[ModelRef] = Counter()
        self.now: Counter[ModelRef] = Counter()
        self.most: Counter[ModelRef] = Counter()
        self.sizes: dict[ModelRef, int] = {}
        self._lock = threading.Lock()
        self._gates: dict[ModelRef, threading.Event] = {}

    def gate(self, ref: ModelRef) -> threading.Event:
        with self._lock:
            return self._gates.setdefault(ref, threading.Event())

    def __call__(self, ref: ModelRef) -> Model:
        with self._lock:
            self.begun[ref] += 1
            self.now[ref] += 1
            self.most[ref] = max(self.most[ref], self.now[ref])
        assert self.gate(ref).wait(10)
        with self._lock:
            self.now[ref] -= 1
        return Model(ref, self.sizes.get(ref, 10))


def waiters(cache: ModelCache) -> int:
    return len(cache._changed._waiters)  # type: ignore[attr-defined]  # a deque, in CPython


def test_a_herd_of_threads_causes_one_load_and_all_wait_for_it():
    loader = Gates()
    cache = ModelCache(loader, 20)

    def wait() -> tuple[int, float]:
        with cache.use(A) as held:
            return id(held.model), held.load_s

    with ThreadPoolExecutor(16) as threads:
        herd = [threads.submit(wait) for _ in range(16)]
        wait_until(lambda: waiters(cache) == 15)
        loader.gate(A).set()
        got = [future.result(20) for future in herd]
    assert loader.begun == {A: 1}
    assert len({model for model, _ in got}) == 1
    assert all(load_s > 0 for _, load_s in got)  # each says how long it waited itself


def test_other_versions_load_side_by_side_and_loaded_ones_do_not_wait():
    loader = Gates()
    cache = ModelCache(loader, 30)
    loader.gate(C).set()
    use(cache, C)
    with ThreadPoolExecutor(2) as threads:
        slow = [threads.submit(use, cache, ref) for ref in (A, B)]
        wait_until(lambda: loader.begun[A] and loader.begun[B])
        use(cache, C)
        loader.gate(B).set()
        slow[1].result(10)
        loader.gate(A).set()
        slow[0].result(10)
    assert set(cache.loaded()) == {A, B, C}


def test_a_failed_load_fails_all_who_wait_for_it():
    begun, gate = threading.Event(), threading.Event()
    loads: list[ModelRef] = []

    def load(ref: ModelRef) -> Model:
        loads.append(ref)
        begun.set()
        assert gate.wait(10)
        raise ModelUnavailable("broken")

    cache = ModelCache(load, 20)
    with ThreadPoolExecutor(4) as threads:
        herd = [threads.submit(use, cache, A) for _ in range(4)]
        wait_until(lambda: begun.is_set() and waiters(cache) == 3)
        gate.set()
        assert [type(future.exception(10)) for future in herd] == [ModelUnavailable] * 4
    assert len(loads) == 1


def test_a_load_waits_for_others_to_leave_what_they_use():
    cache = cache_of(Loader(sizes={A: 15, B: 15}))
    with ThreadPoolExecutor(1) as threads:
        with cache.use(A):
            waiting = threads.submit(use, cache, B)
            wait_until(lambda: waiters(cache) == 1)
            assert not waiting.done()
            assert cache.loaded() == {A: 15}
        waiting.result(20)
    assert cache.loaded() == {B: 15}


def test_two_threads_that_hold_and_want_do_not_wait_for_each_other_for_ever():
    """One waits for room that the other holds; the other then asks for what the first brings."""
    cache = cache_of(Loader(sizes={A: 15, B: 15}))
    with ThreadPoolExecutor(1) as threads:
        with cache.use(A):
            waiting = threads.submit(use, cache, B)
            wait_until(lambda: waiters(cache) == 1)
            with pytest.raises(ModelUnavailable, match="no room"):
                use(cache, B)
        waiting.result(20)


def test_threads_that_use_models_at_random_keep_every_promise():
    refs = [ModelRef("iris", f"v{place}") for place in range(6)]
    lock = threading.Lock()
    loading: Counter[ModelRef] = Counter()
    broken: list[str] = []

    def load(ref: ModelRef) -> Model:
        with lock:
            loading[ref] += 1
            if loading[ref] > 1:
                broken.append(f"{ref} loads twice at a time")
        model = Model(ref, 5 + 3 * int(ref.version[1:]))
        with lock:
            loading[ref] -= 1
        return model

    cache = ModelCache(load, 40)

    def work(seed: int) -> None:
        for step in range(300):
            ref = refs[(seed * 7 + step * (seed + 3)) % len(refs)]
            with cache.use(ref) as held:
                known = cache.loaded()
                if held.model.size_bytes != known.get(ref):
                    broken.append(f"{ref} is in use, but not there")
                if sum(known.values()) > 40:
                    broken.append(f"{known} is above the bound")
            if step % 50 == 0:
                cache.evict(ref)

    with ThreadPoolExecutor(8) as threads:
        done: list[Future[None]] = [threads.submit(work, seed) for seed in range(8)]
        for future in done:
            future.result(60)
    assert broken == []
    assert not cache._state.holders
    assert not cache._state.waiting_for_room


LIMIT = 20
SIZES = {ModelRef("m", f"v{size}"): size for size in (0, 3, 5, 8, 13, 20, 21)}
REFS = st.sampled_from(sorted(SIZES))


class CacheMachine(RuleBasedStateMachine):
    """One thread uses, nests, evicts and lets time pass; a plain list says what must come of it."""

    @initialize()
    def start(self) -> None:
        self.loader = Loader(sizes=dict(SIZES), takes_s=0.125)
        self.cache = cache_of(self.loader, LIMIT)
        self.order: list[ModelRef] = []  # loaded, the last used comes last
        self.held: list[tuple[ModelRef, ExitStack, Any]] = []
        self.loads: Counter[ModelRef] = Counter()
        self.failures: dict[ModelRef, tuple[float, float]] = {}  # back-off, until

    def in_use(self) -> set[ModelRef]:
        return {ref for ref, _, _ in self.held}

    def make_room(self, size: int) -> bool:
        idle = [ref for ref in self.order if ref not in self.in_use()]
        used = sum(SIZES[ref] for ref in self.in_use())
        if used + size > LIMIT:
            return False
        while sum(SIZES[ref] for ref in self.order) + size > LIMIT:
            self.order.remove(idle.pop(0))
        return True

    def touch(self, ref: ModelRef) -> None:
        if ref in self.order:
            self.order.remove(ref)
        self.order.append(ref)

    def fail(self, ref: ModelRef) -> None:
        last, _ = self.failures.get(ref, (0.5, 0.0))
        backoff_s = min(60.0, last * 2)
        self.failures[ref] = (backoff_s, self.loader.clock.now + 0.125 + backoff_s)

    def expected(self, ref: ModelRef) -> str:
        """Work out what `use` does, and do it to the plain list."""
        if ref in self.order:
            self.touch(ref)
            return "there"
        if ref in self.failures and self.loader.clock.now < self.failures[ref][1]:
            return "refused"
        self.loads[ref] += 1
        if ref in self.loader.errors or SIZES[ref] > LIMIT:
            self.fail(ref)
            return "refused"
        if not self.make_room(SIZES[ref]):
            return "refused"
        self.failures.pop(ref, None)
        self.touch(ref)
        return "loaded"

    @rule(ref=REFS)
    def enter(self, ref: ModelRef) -> None:
        outcome = self.expected(ref)
        stack = ExitStack()
        if outcome == "refused":
            with pytest.raises(ModelUnavailable):
                stack.enter_context(self.cache.use(ref))
            return
        use = stack.enter_context(self.cache.use(ref))
        assert use.load_s == (0.125 if outcome == "loaded" else 0.0)
        self.held.append((ref, stack, use.model))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.held) - 1))
        ref, stack, _ = self.held.pop(place)
        stack.close()
        self.touch(ref)

    @rule(ref=REFS)
    def evict(self, ref: ModelRef) -> None:
        gone = self.cache.evict(ref)
        assert gone == (ref not in self.in_use())
        self.failures.pop(ref, None)
        if gone and ref in self.order:
            self.order.remove(ref)

    @rule(ref=REFS, works=st.booleans())
    def change_the_store(self, ref: ModelRef, works: bool) -> None:
        if works:
            self.loader.errors.pop(ref, None)
        else:
            self.loader.errors[ref] = ModelUnavailable(f"{ref} is broken")

    @rule(seconds=st.sampled_from([0.125, 1.0, 2.0, 5.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.loader.clock.now += seconds

    @invariant()
    def holds_what_the_plain_list_says(self) -> None:
        if not hasattr(self, "cache"):
            return
        loaded = self.cache.loaded()
        assert list(loaded) == self.order
        assert sum(loaded.values()) <= LIMIT
        assert self.loader.loads == self.loads
        for ref, _, model in self.held:
            assert self.cache._state.entries[ref].model is model

    def teardown(self) -> None:
        for _, stack, _ in getattr(self, "held", []):
            stack.close()


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
