"""Group commit: threads that submit together share round trips, and one alone never waits."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from producer import Client, Handle
from producer.group_commit import GroupCommit, Latch
from producer.submission import (
    CHUNK,
    CHUNK_BYTES,
    Outcome,
    PreparedJob,
    chunked,
    first_chunk_size,
)
from tests.helpers.versions import signature_of
from tests.helpers.waiting import wait_until
from yard.contract.values import Request
from yard.errors import ModelyardError, Unavailable


def prepared(number: int, size_bytes: int = 10) -> PreparedJob:
    request = Request("echo", [[float(number)]])
    return PreparedJob(request, f"job{number}", 0.0, signature_of(1), [], size_bytes)


#: Nothing here is asked of a handle's client, and making one connects to nothing.
CLIENT = Client("redis://127.0.0.1:1")

Commits = GroupCommit[PreparedJob, Outcome]


class Redis:
    """Accepts groups; the first waits for `may_go_on`."""

    def __init__(self, error: ModelyardError | None = None) -> None:
        self.groups: list[list[str]] = []
        self.may_go_on = threading.Event()
        self.error = error

    def __call__(self, jobs: Sequence[PreparedJob]) -> list[Outcome]:
        self.groups.append([one.id for one in jobs])
        assert self.may_go_on.wait(10)
        if self.error is not None:
            raise self.error
        return [Handle(one.id, "echo", "v1", "echo@v1", False, CLIENT) for one in jobs]


def submit_in_threads(commits: Commits, jobs: Sequence[PreparedJob], redis: Redis) -> list[Outcome]:
    """The first goes alone; the others come while it is on its way."""
    outcomes: dict[str, Outcome] = {}

    def submit(one: PreparedJob) -> None:
        try:
            outcomes[one.id] = commits.ask(one)
        except ModelyardError as error:
            outcomes[one.id] = error

    threads = [threading.Thread(target=submit, args=(one,)) for one in jobs]
    threads[0].start()
    wait_until(lambda: redis.groups)
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: commits.waiting == len(jobs) - 1)
    redis.may_go_on.set()
    for thread in threads:
        thread.join(20)
    return [outcomes[one.id] for one in jobs]


def test_a_thread_alone_submits_at_once() -> None:
    redis = Redis()
    redis.may_go_on.set()
    commits = GroupCommit(redis, first_chunk_size)
    for number in range(3):
        assert commits.ask(prepared(number)).id == f"job{number}"  # type: ignore[union-attr]  # accepted
    assert [len(group) for group in redis.groups] == [1, 1, 1]


def test_those_who_come_meanwhile_share_the_next_round_trip() -> None:
    redis = Redis()
    jobs = [prepared(number) for number in range(40)]
    outcomes = submit_in_threads(GroupCommit(redis, first_chunk_size), jobs, redis)
    assert [len(group) for group in redis.groups] == [1, 39]
    assert [one.id for one in outcomes if isinstance(one, Handle)] == [d.id for d in jobs]


def test_a_group_is_bounded_and_the_next_thread_takes_the_rest() -> None:
    redis = Redis()
    jobs = [prepared(number) for number in range(CHUNK + 10)]
    outcomes = submit_in_threads(GroupCommit(redis, first_chunk_size), jobs, redis)
    assert [len(group) for group in redis.groups] == [1, CHUNK, 9]
    assert all(isinstance(one, Handle) for one in outcomes)


def test_an_outage_is_told_to_each_of_the_group_and_does_not_block_the_next() -> None:
    redis = Redis(Unavailable("Redis does not answer"))
    commits = GroupCommit(redis, first_chunk_size)
    outcomes = submit_in_threads(commits, [prepared(number) for number in range(5)], redis)
    assert all(isinstance(one, Unavailable) for one in outcomes)
    assert len({id(one) for one in outcomes}) == 5, "each thread raises an error of its own"
    redis.error = None
    assert isinstance(commits.ask(prepared(9)), Handle)


def test_behind_a_redis_that_hangs_nobody_waits_twice(monkeypatch) -> None:
    monkeypatch.setattr("producer.group_commit.HANG_S", -1.0)  # each call takes too long
    redis = Redis(Unavailable("Redis does not answer"))
    outcomes = submit_in_threads(
        GroupCommit(redis, first_chunk_size), [prepared(number) for number in range(5)], redis
    )
    assert all(isinstance(one, Unavailable) for one in outcomes)
    assert [len(group) for group in redis.groups] == [1], "the others were told, and did not ask"


def test_a_fault_in_a_call_is_raised_and_the_next_call_is_made() -> None:
    faults = iter([ZeroDivisionError(), RuntimeError()])

    def call(items: Sequence[int]) -> list[int]:
        for fault in faults:
            raise fault
        return [2 * item for item in items]

    commits = GroupCommit[int, int](call, len)
    for error in (ZeroDivisionError, RuntimeError):
        with pytest.raises(error):
            commits.ask(1)
    assert commits.ask(2) == 4


def test_a_bound_that_cannot_be_told_is_raised_and_the_next_call_is_made() -> None:
    faults = iter([ZeroDivisionError()])

    def fit(items: Sequence[int]) -> int:
        for fault in faults:
            raise fault
        return len(items)

    commits = GroupCommit[int, int](lambda items: [2 * item for item in items], fit)
    with pytest.raises(ZeroDivisionError):
        commits.ask(1)
    assert commits.ask(2) == 4


def test_answers_that_are_too_few_are_an_error_and_leave_nobody_waiting() -> None:
    commits = GroupCommit[int, int](lambda items: [2 * item for item in items if item != 1], len)
    with pytest.raises(RuntimeError, match="0 answers for 1 items"):
        commits.ask(1)
    assert commits.ask(2) == 4


def test_chunks_are_bounded_in_bytes_too_and_keep_the_order() -> None:
    jobs = [prepared(number, CHUNK_BYTES // 3) for number in range(7)]
    chunks = list(chunked(jobs))
    assert [len(chunk) for chunk in chunks] == [3, 3, 1]
    assert [one for chunk in chunks for one in chunk] == jobs


def test_a_draft_over_the_bound_goes_alone() -> None:
    assert [len(chunk) for chunk in chunked([prepared(1), prepared(2, 10 * CHUNK_BYTES)])] == [1, 1]


class TestLatch:
    def test_is_shut_until_it_is_set(self) -> None:
        latch = Latch()
        assert not latch.wait(0)
        latch.set()
        assert latch.wait(0)

    def test_lets_one_wait_through_however_often_it_was_set(self) -> None:
        latch = Latch()
        latch.set()
        latch.set()
        assert latch.wait(0)
        assert not latch.wait(0)

    def test_wakes_a_thread_that_waits(self) -> None:
        latch, woken = Latch(), []
        thread = threading.Thread(target=lambda: woken.append(latch.wait(10)))
        thread.start()
        latch.set()
        thread.join(20)
        assert woken == [True]
