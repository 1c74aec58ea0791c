"""An event loop's questions share round trips, on a thread of their own; each is answered once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from gateway.services import redis_batcher
from gateway.services.redis_batcher import FutureSettler, RedisBatcher
from tests.helpers.waiting import wait_until
from yard.errors import InvalidInput, ModelyardError, Unavailable

Call = Callable[[Sequence[int]], Sequence[int | ModelyardError]]


class Redis:
    """Doubles numbers in groups; the first group waits for `may_go_on`."""

    def __init__(self, error: Exception | None = None) -> None:
        self.groups: list[list[int]] = []
        self.may_go_on = threading.Event()
        self.error = error

    def __call__(self, items: Sequence[int]) -> list[int | ModelyardError]:
        self.groups.append(list(items))
        assert self.may_go_on.wait(10)
        if self.error is not None:
            raise self.error
        return [2 * item for item in items]


@contextmanager
def asking(
    call: Call, fit: Callable[[Sequence[int]], int] = len
) -> Iterator[RedisBatcher[int, int]]:
    made: RedisBatcher[int, int] = RedisBatcher(
        "test", FutureSettler(asyncio.get_running_loop()), call, fit
    )
    try:
        yield made
    finally:
        made.close()


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


async def ask_behind_the_first(
    redis: Redis, count: int, fit: Callable[[Sequence[int]], int] = len
) -> list[Any]:
    """The first goes alone; the others come while it is on its way."""
    with asking(redis, fit) as made:
        first = made.enqueue(0)
        await asyncio.to_thread(wait_until, lambda: redis.groups)
        others = [made.enqueue(number) for number in range(1, count)]
        redis.may_go_on.set()
        return await asyncio.gather(first, *others, return_exceptions=True)


def test_those_that_come_meanwhile_share_the_next_round_trip():
    async def test() -> None:
        redis = Redis()
        assert await ask_behind_the_first(redis, 40) == [2 * number for number in range(40)]
        assert [len(group) for group in redis.groups] == [1, 39]

    run(test())


def test_a_group_is_bounded_and_the_rest_goes_next_in_its_order():
    async def test() -> None:
        redis = Redis()
        answers = await ask_behind_the_first(redis, 25, lambda items: min(len(items), 10))
        assert answers == [2 * number for number in range(25)]
        assert [len(group) for group in redis.groups] == [1, 10, 10, 4]

    run(test())


def test_an_outage_is_told_to_each_of_the_group_and_the_next_is_asked_again():
    async def test() -> None:
        redis = Redis(Unavailable("Redis does not answer"))
        redis.may_go_on.set()
        with asking(redis) as made:
            told = await asyncio.gather(*map(made.enqueue, range(5)), return_exceptions=True)
            assert all(isinstance(one, Unavailable) for one in told)
            assert len({id(one) for one in told}) == 5, "each raises an error of its own"
            redis.error = None
            assert await made.enqueue(7) == 14

    run(test())


def test_behind_a_redis_that_hangs_nothing_waits_twice(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(redis_batcher, "HANG_S", -1.0)  # each call takes too long

    async def test() -> None:
        redis = Redis(Unavailable("Redis does not answer"))
        told = await ask_behind_the_first(redis, 5)
        assert all(isinstance(one, Unavailable) for one in told)
        assert redis.groups == [[0]], "the others were told, and not asked"

    run(test())


def test_whoever_asks_after_a_hang_was_told_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(redis_batcher, "HANG_S", -1.0)

    async def test() -> None:
        redis = Redis(Unavailable("Redis does not answer"))
        redis.may_go_on.set()
        with asking(redis) as made:
            for number in range(200):
                redis.error = Unavailable("Redis does not answer")
                with pytest.raises(Unavailable):
                    await made.enqueue(number)
                redis.error = None
                assert await made.enqueue(number) == 2 * number

    run(test())


def test_an_error_of_one_item_is_no_error_of_the_others():
    async def test() -> None:
        def refuse_odd(items: Sequence[int]) -> list[int | ModelyardError]:
            return [InvalidInput("odd") if item % 2 else item for item in items]

        with asking(refuse_odd) as made:
            told = await asyncio.gather(*map(made.enqueue, range(4)), return_exceptions=True)
        assert [told[0], told[2]] == [0, 2]
        assert all(isinstance(one, InvalidInput) for one in (told[1], told[3]))

    run(test())


def test_a_fault_of_ours_is_told_and_the_thread_goes_on():
    async def test() -> None:
        redis = Redis(RuntimeError("a fault"))
        redis.may_go_on.set()
        with asking(redis) as made:
            with pytest.raises(RuntimeError, match="a fault"):
                await made.enqueue(1)
            redis.error = None
            assert await made.enqueue(1) == 2

    run(test())


def test_an_answer_that_nobody_waits_for_any_more_harms_nothing():
    async def test() -> None:
        redis = Redis()
        with asking(redis) as made:
            left = made.enqueue(1)
            await asyncio.to_thread(wait_until, lambda: redis.groups)
            left.cancel()
            redis.may_go_on.set()
            assert await made.enqueue(2) == 4

    run(test())


def test_what_is_told_to_a_loop_that_is_closed_is_lost():
    loop = asyncio.new_event_loop()
    future: asyncio.Future[int] = loop.create_future()
    loop.close()
    FutureSettler(loop).settle([(future, 1)])
    assert not future.done()


def test_a_batcher_without_items_has_no_thread():
    async def test() -> None:
        before = threading.active_count()
        with asking(lambda items: list(items)):
            assert threading.active_count() == before

    run(test())


class Loop:
    """An event loop that fails at its first wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.has_failed = False

    def create_future(self) -> asyncio.Future[Any]:
        return self._loop.create_future()

    def call_soon_threadsafe(self, *arguments: Any) -> None:
        if not self.has_failed:
            self.has_failed = True
            raise ZeroDivisionError
        self._loop.call_soon_threadsafe(*arguments)


def test_a_bound_that_cannot_be_told_is_an_error_of_its_callers_and_the_thread_goes_on():
    async def test() -> None:
        fits = iter([ZeroDivisionError()])

        def fit(items: Sequence[int]) -> int:
            for error in fits:
                raise error
            return len(items)

        with asking(lambda items: [2 * item for item in items], fit) as made:
            with pytest.raises(ZeroDivisionError):
                await made.enqueue(1)
            assert await made.enqueue(2) == 4

    run(test())


def test_results_that_are_too_few_are_an_error_of_their_callers_and_the_thread_goes_on():
    async def test() -> None:
        with asking(lambda items: [2 * item for item in items if item != 1]) as made:
            with pytest.raises(RuntimeError, match="0 results for 1 items"):
                await made.enqueue(1)
            assert await made.enqueue(2) == 4

    run(test())


def test_a_loop_that_cannot_be_woken_once_does_not_end_the_thread():
    async def test() -> None:
        loop: Any = Loop(asyncio.get_running_loop())
        made: RedisBatcher[int, int] = RedisBatcher(
            "test", FutureSettler(loop), lambda items: [2 * item for item in items]
        )
        try:
            with pytest.raises(ZeroDivisionError):
                await made.enqueue(1)
            assert await made.enqueue(2) == 4
        finally:
            made.close()

    run(test())
