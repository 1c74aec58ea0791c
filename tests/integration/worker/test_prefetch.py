"""Batches that are taken ahead: from which queues, under which lease, and how they end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from rq.suspension import resume, suspend

from tests.helpers.protocol import QUEUE, Protocol, echo, ids
from tests.helpers.versions import register
from tests.helpers.waiting import wait_until
from worker.queue.lease import Batch, EndedBatch, Lease
from worker.queue.prefetch import Prefetcher
from worker.queue.scheduler import QueueScheduler
from yard.contract import keys
from yard.contract.values import JobStatus
from yard.settings import Settings

#: Another version of the model.
SLOW = "echo@v2"


@pytest.fixture
def settings() -> Settings:
    return Settings.load({}, lease_s=0.5, batch_jobs=8, attempts=3)


@pytest.fixture
def protocol(protocol: Protocol) -> Protocol:
    protocol.look()  # else the first answer is that the server does not know the scripts
    return protocol


@pytest.fixture
def lease(protocol: Protocol) -> Lease:
    return protocol.lease()


@pytest.fixture
def loaded() -> set[str]:
    return {QUEUE, SLOW}


@pytest.fixture
def scheduler(redis: Redis, loaded: set[str]) -> QueueScheduler:
    register(redis)
    register(redis, version="v2", active=False)
    scheduler = QueueScheduler(redis, clock=lambda: 0.0, loaded=lambda: loaded)
    scheduler.queues()
    return scheduler


def prefetchable(scheduler: QueueScheduler) -> set[str]:
    """Read when their order is."""
    scheduler._ordered_at = float("-inf")
    scheduler.queues()
    return set(scheduler.prefetchable())


class Run:
    """A prefetcher over a lease, and the batches that it served."""

    def __init__(
        self,
        lease: Lease,
        on_batch: Callable[[int], object] = lambda number: None,
        goes_ahead: bool = True,
    ) -> None:
        self.lease = lease
        self.on_batch = on_batch
        self.batches: list[Batch] = []
        self.settled: list[tuple[str, int | None]] = []
        self.goes_ahead = goes_ahead
        self.is_leaving = False

    def run(self, first: Batch) -> None:
        prefetcher = Prefetcher(self.lease, lambda action: action(), first, self.ahead(first))
        settle = prefetcher._settle

        def noting(ended: EndedBatch, written: int | None) -> None:
            self.settled.append((ended.batch.token, written))
            settle(ended, written)

        prefetcher._settle = noting  # type: ignore[method-assign]
        with prefetcher:
            for batch in prefetcher:
                if self.is_leaving:
                    break
                prefetcher.complete(self.execute(batch), self.ahead(batch))

    def ahead(self, batch: Batch) -> Sequence[str]:
        return [QUEUE] if self.goes_ahead and batch.has_more else ()

    def execute(self, batch: Batch) -> EndedBatch:
        self.batches.append(batch)
        self.on_batch(len(self.batches))
        return self.lease.ended(batch, echo(batch))


def all_ended_once(protocol: Protocol, job_ids: Sequence[str]) -> bool:
    """True if each has one result, its own number."""
    found = [protocol.client.get(job_id).result for job_id in job_ids]
    return found == [{"predictions": [float(place)]} for place in range(len(job_ids))] and all(
        protocol.results(job_id) == 1 for job_id in job_ids
    )


class TestPrefetcher:
    def test_serves_all_that_waits_in_order_and_ends_each_once(self, redis, protocol, lease):
        job_ids = protocol.submit(50)
        run = Run(lease)
        run.run(protocol.claim())
        assert [job_id for batch in run.batches for job_id in ids(batch)] == job_ids
        assert run.settled == [(batch.token, len(batch.jobs)) for batch in run.batches]
        assert all_ended_once(protocol, job_ids)
        assert not redis.exists(keys.LEASES, keys.key("batch", "w1"), keys.key("wip", QUEUE))

    def test_holds_one_batch_beside_the_one_that_is_served(self, protocol, lease):
        protocol.submit(50)
        run = Run(lease)
        seen: list[tuple[str, str]] = []

        def look(number: int) -> None:
            batch = run.batches[-1].token
            wait_until(lambda: protocol.held().get("token") == batch)
            wait_until(lambda: protocol.held().get("next_token") or len(protocol.waiting()) == 0)
            seen.append((protocol.held()["token"], protocol.held().get("next_token", "")))

        run.on_batch = look
        run.run(protocol.claim())
        tokens = [batch.token for batch in run.batches]
        assert seen == list(zip(tokens, [*tokens[1:], ""], strict=True))

    def test_results_are_written_while_the_next_batch_is_served(self, client, protocol, lease):
        job_ids = protocol.submit(16)
        run = Run(lease)

        def look(number: int) -> None:
            if number == 2:
                wait_until(lambda: client.get(job_ids[0]).status is JobStatus.FINISHED, 20)

        run.on_batch = look
        run.run(protocol.claim())
        assert len(run.batches) == 2

    def test_a_lost_connection_loses_no_job_and_writes_none_twice(self, redis, protocol, lease):
        job_ids = protocol.submit(64)
        run = Run(lease)

        def cut(number: int) -> None:
            if number in (2, 4):
                redis.client_kill_filter(_type="normal", skipme=True)

        run.on_batch = cut
        while isinstance(batch := retried(protocol.look), Batch):
            run.run(batch)
        assert any(written is None for _, written in run.settled)
        assert all_ended_once(protocol, job_ids)
        assert protocol.is_idle()

    def test_a_server_that_knows_no_script_yet_loses_nothing(self, redis, protocol, lease):
        job_ids = protocol.submit(40)
        batch = protocol.claim()
        redis.script_flush()
        run = Run(lease)
        run.run(batch)
        assert run.settled == [(batch.token, None)], "it was not taken for written"
        while isinstance(batch := protocol.look(), Batch):
            run.run(batch)
        assert all_ended_once(protocol, job_ids)

    def test_a_worker_that_leaves_serves_what_it_has_and_gives_the_rest_back_in_order(
        self, protocol, lease
    ):
        job_ids = protocol.submit(40)
        run = Run(lease)

        def leave(number: int) -> None:
            run.is_leaving = number == 2

        run.on_batch = leave
        run.run(protocol.claim())
        lease.release()
        assert len(run.batches) == 2
        assert protocol.waiting() == job_ids[16:]
        assert set(protocol.attempts(job_ids[16:])) == {0}
        assert all_ended_once(protocol, job_ids[:16])

    def test_what_was_served_before_is_written_when_a_later_batch_cannot_be(self, protocol, lease):
        job_ids = protocol.submit(24)
        run = Run(lease)

        def fail(number: int) -> None:
            if number == 2:
                raise RuntimeError("not the model's fault")

        run.on_batch = fail
        with pytest.raises(RuntimeError):
            run.run(protocol.claim())
        protocol.reap()
        assert all_ended_once(protocol, job_ids[:8])
        crashes = [protocol.field(job_id, "my_crashes") for job_id in job_ids[8:]]
        assert crashes == ["1"] * 8 + ["0"] * 8, "what had not begun is no suspect"
        assert protocol.waiting() == job_ids[8:]

    def test_takes_nothing_ahead_while_workers_are_suspended(self, redis, protocol, lease):
        job_ids = protocol.submit(24)
        run = Run(lease, on_batch=lambda number: suspend(redis))
        run.run(protocol.claim())
        resume(redis)
        assert len(run.batches) == 2, "the second was taken before"
        assert protocol.waiting() == job_ids[16:]

    def test_one_batch_at_a_time_where_nothing_is_to_be_taken_ahead(self, protocol, lease):
        job_ids = protocol.submit(16)
        run = Run(lease, goes_ahead=False)
        run.run(protocol.claim())
        assert len(run.batches) == 1
        assert protocol.waiting() == job_ids[8:]


class TestHasMore:
    def test_says_whether_jobs_wait_there_or_in_the_queues_that_come_next(
        self, redis, client, protocol, lease
    ):
        register(redis, version="v2", active=False)
        protocol.submit(8)
        assert protocol.claim(QUEUE, "echo@v2").has_more is False
        protocol.submit(9)
        assert protocol.claim(QUEUE).has_more is True
        lease.release()
        redis.delete(keys.key("queue", QUEUE))
        protocol.submit(8)
        client.submit("echo", instances=[[1.0]], version="v2")
        assert protocol.claim(QUEUE, "echo@v2").has_more is True


class TestABatchAhead:
    def test_becomes_the_batch_when_the_one_before_it_ends(self, redis, protocol):
        protocol.submit(16)
        batch = protocol.claim()
        following = protocol.take_ahead(batch)
        assert following is not None
        redis.hset(keys.key("batch", "w1"), "deadline_ms", 0)
        protocol.finish(batch)
        found = protocol.held()
        assert (found["token"], found["ids"]) == (following.token, " ".join(ids(following)))
        now_s = redis.time()[0]
        assert now_s < int(found["deadline_ms"]) / 1000 <= now_s + 61, "its time begins now"
        assert not found["next_token"]
        assert redis.hget(keys.key("worker", "w1"), "state") == b"busy"
        assert redis.hget(keys.key("worker", "w1"), "current_job").decode() == ids(following)[0]

    def test_is_given_back_at_no_cost_when_its_worker_dies(self, protocol):
        job_ids = protocol.submit(20)
        protocol.take_ahead(protocol.claim())
        assert protocol.reaped().given_back == 16
        assert protocol.waiting() == job_ids
        assert protocol.attempts(job_ids) == [1] * 8 + [0] * 12

    def test_goes_with_the_lease(self, protocol):
        job_ids = protocol.submit(16)
        protocol.take_ahead(protocol.claim())
        protocol.lapse()
        assert [one.given_back for one in protocol.swept()] == [16]
        assert protocol.waiting() == job_ids
        assert protocol.is_idle()

    def test_is_kept_by_a_renewal_under_either_token(self, protocol):
        protocol.submit(16)
        batch = protocol.claim()
        following = protocol.take_ahead(batch)
        assert following is not None
        assert protocol.renew(batch)
        assert protocol.renew(following)

    def test_whose_reply_was_lost_is_given_back_by_the_next(self, protocol):
        job_ids = protocol.submit(24)
        batch = protocol.claim()
        protocol.take_ahead(batch)
        again = protocol.take_ahead(batch)
        assert ids(again) == job_ids[8:16]
        assert protocol.attempts(job_ids[:16]) == [1] * 16
        assert protocol.waiting() == job_ids[16:]

    def test_is_not_taken_by_a_worker_that_holds_another_batch_by_now(self, protocol):
        job_ids = protocol.submit(24)
        late = protocol.claim()
        protocol.finish(late)
        protocol.claim()
        assert protocol.take_ahead(late) is None
        assert protocol.waiting() == job_ids[16:]

    def test_holds_no_crash_suspect(self, protocol):
        protocol.submit(8)
        suspects = protocol.claim()
        protocol.reap()
        fresh = protocol.submit(1)
        alone = protocol.claim()
        assert ids(alone) == ids(suspects)[:1]
        assert protocol.take_ahead(alone) is None
        assert protocol.waiting() == ids(suspects)[1:] + fresh

    def test_stays_where_its_queue_was_overwritten_until_that_is_mended(self, redis, protocol):
        job_ids = protocol.submit(16)
        protocol.take_ahead(protocol.claim())
        redis.set(keys.key("queue", QUEUE), "not a list")
        protocol.reap()
        (aside,) = redis.zrange(keys.LEASES, 0, -1)
        redis.delete(keys.key("queue", QUEUE))
        protocol.reap(aside.decode())
        assert protocol.waiting() == job_ids


class TestQueuesThatAreTakenAhead:
    def test_nothing_is_taken_ahead_for_a_version_whose_last_batch_took_long(self, scheduler):
        scheduler.record_duration(QUEUE, 0.01)
        scheduler.record_duration(SLOW, 2.0)
        assert prefetchable(scheduler) == {QUEUE}
        scheduler.record_duration(SLOW, 0.01)
        assert prefetchable(scheduler) == {QUEUE, SLOW}

    def test_a_version_that_is_loaded_is_tried_once(self, scheduler):
        assert prefetchable(scheduler) == {QUEUE, SLOW}
        assert not scheduler.is_quick(SLOW), "while it is served first, nothing waits behind it"
        scheduler.record_duration(SLOW, 2.0)
        assert prefetchable(scheduler) == {QUEUE}

    def test_what_must_be_loaded_first_is_not_taken_ahead(self, scheduler, loaded):
        loaded.discard(SLOW)
        assert prefetchable(scheduler) == {QUEUE}

    def test_an_unversioned_queue_is_not_taken_ahead(self, scheduler):
        assert "echo" in scheduler.queues()
        assert "echo" not in prefetchable(scheduler)


def retried(call: Callable[[], Any]) -> Any:
    """The call's answer; a connection that was cut is opened again."""
    try:
        return call()
    except RedisConnectionError:
        return call()
