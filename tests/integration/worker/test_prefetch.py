"""Batches that are taken ahead: what Redis holds meanwhile, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from redis import Redis
from rq.suspension import resume, suspend

from producer.client import Client
from tests.helpers.batches import QUEUE, claim, ids, take_ahead, waiting
from tests.helpers.versions import register
from tests.helpers.waiting import wait_until
from worker.queue.lease import _CLAIM, _FINISH, Batch, EndedBatch, Lease
from worker.queue.outcomes import EndedJob
from worker.queue.prefetch import Prefetcher
from worker.queue.recovery import reap, sweep
from yard.contract import keys, wire
from yard.contract.values import JobStatus
from yard.settings import Settings


@pytest.fixture
def settings() -> Settings:
    return Settings.load({}, lease_s=0.5, batch_jobs=8, attempts=3)


@pytest.fixture
def lease(redis: Redis, settings: Settings) -> Lease:
    for script in (_CLAIM, _FINISH):  # else the first answer is that the server does not know it
        redis.script_load(script.source)
    return Lease(redis, "w1", settings)


def submit(client: Client, count: int) -> list[str]:
    return [client.submit("echo", instances=[[float(n)]]).id for n in range(count)]


def echo(lease: Lease, batch: Batch) -> EndedBatch:
    return lease.ended(
        batch,
        [
            EndedJob(job.id, {"predictions": [wire.loads(job.data)[3]["instances"][0][0]]}, 60)
            for job in batch.jobs
        ],
    )


def attempts(client: Client, job_ids: Sequence[str]) -> list[int]:
    return [client.get(job_id).attempts for job_id in job_ids]


def held(redis: Redis) -> dict[str, str]:
    found: Any = redis.hgetall(keys.key("batch", "w1"))
    return {name.decode(): value.decode() for name, value in found.items()}


class Run:
    """A prefetcher over a lease, and what it did."""

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
        return echo(self.lease, batch)


def all_ended_once(client: Client, redis: Redis, job_ids: Sequence[str]) -> bool:
    jobs = [client.get(job_id) for job_id in job_ids]
    return [job.result for job in jobs] == [
        {"predictions": [float(n)]} for n in range(len(job_ids))
    ] and all(redis.xlen(keys.key("results", job_id)) == 1 for job_id in job_ids)


class TestPrefetcher:
    def test_serves_all_that_waits_in_order_and_ends_each_once(self, redis, client, lease):
        job_ids = submit(client, 50)
        run = Run(lease)
        run.run(claim(lease))
        assert [job_id for batch in run.batches for job_id in ids(batch)] == job_ids
        assert run.settled == [(batch.token, len(batch.jobs)) for batch in run.batches]
        assert all_ended_once(client, redis, job_ids)
        assert not redis.exists(keys.LEASES, keys.key("batch", "w1"), keys.key("wip", QUEUE))

    def test_holds_one_batch_beside_the_one_that_is_served(self, redis, client, lease):
        submit(client, 50)
        run = Run(lease)
        seen: list[tuple[str, str]] = []

        def look(number: int) -> None:
            batch = run.batches[-1].token
            wait_until(lambda: held(redis).get("token") == batch)
            wait_until(lambda: held(redis).get("next_token") or len(waiting(redis)) == 0)
            seen.append((held(redis)["token"], held(redis).get("next_token", "")))

        run.on_batch = look
        run.run(claim(lease))
        tokens = [batch.token for batch in run.batches]
        assert seen == list(zip(tokens, [*tokens[1:], ""], strict=True))

    def test_results_are_written_while_the_next_batch_is_served(self, redis, client, lease):
        job_ids = submit(client, 16)
        run = Run(lease)

        def look(number: int) -> None:
            if number == 2:
                wait_until(lambda: client.get(job_ids[0]).status is JobStatus.FINISHED, 20)

        run.on_batch = look
        run.run(claim(lease))
        assert len(run.batches) == 2

    def test_a_lost_connection_loses_no_job_and_writes_none_twice(self, redis, client, lease):
        job_ids = submit(client, 64)
        run = Run(lease)

        def cut(number: int) -> None:
            if number in (2, 4):
                redis.client_kill_filter(_type="normal", skipme=True)

        run.on_batch = cut
        while isinstance(batch := retried(lambda: lease.claim([QUEUE])), Batch):
            run.run(batch)
        assert any(written is None for _, written in run.settled)
        assert all_ended_once(client, redis, job_ids)
        assert not redis.exists(keys.LEASES, keys.key("batch", "w1"))

    def test_a_server_that_knows_no_script_yet_loses_nothing(self, redis, client, lease):
        job_ids = submit(client, 40)
        batch = claim(lease)
        redis.script_flush()
        run = Run(lease)
        run.run(batch)
        assert run.settled == [(batch.token, None)], "it was not taken for written"
        while isinstance(batch := lease.claim([QUEUE]), Batch):
            run.run(batch)
        assert all_ended_once(client, redis, job_ids)

    def test_a_worker_that_leaves_serves_what_it_has_and_gives_the_rest_back_in_order(
        self, redis, client, lease
    ):
        job_ids = submit(client, 40)
        run = Run(lease)

        def leave(number: int) -> None:
            run.is_leaving = number == 2

        run.on_batch = leave
        run.run(claim(lease))
        lease.release()
        assert len(run.batches) == 2
        assert waiting(redis) == job_ids[16:]
        assert set(attempts(client, job_ids[16:])) == {0}
        assert all_ended_once(client, redis, job_ids[:16])

    def test_what_was_served_before_is_written_when_a_later_batch_cannot_be(
        self, redis, client, lease, settings
    ):
        job_ids = submit(client, 24)
        run = Run(lease)

        def fail(number: int) -> None:
            if number == 2:
                raise RuntimeError("not the model's fault")

        run.on_batch = fail
        with pytest.raises(RuntimeError):
            run.run(claim(lease))
        reap(redis, "w1", "died", settings)
        assert all_ended_once(client, redis, job_ids[:8])
        crashes = [redis.hget(keys.key("job", job_id), "my_crashes") for job_id in job_ids[8:]]
        assert crashes == [b"1"] * 8 + [b"0"] * 8, "what had not begun is no suspect"
        assert waiting(redis) == job_ids[8:]

    def test_takes_nothing_ahead_while_workers_are_suspended(self, redis, client, lease):
        job_ids = submit(client, 24)
        run = Run(lease, on_batch=lambda number: suspend(redis))
        run.run(claim(lease))
        resume(redis)
        assert len(run.batches) == 2, "the second was taken before"
        assert waiting(redis) == job_ids[16:]

    def test_one_batch_at_a_time_where_nothing_is_to_be_taken_ahead(self, redis, client, lease):
        job_ids = submit(client, 16)
        run = Run(lease, goes_ahead=False)
        run.run(claim(lease))
        assert len(run.batches) == 1
        assert waiting(redis) == job_ids[8:]


class TestHasMore:
    def test_says_whether_jobs_wait_there_or_in_the_queues_that_come_next(
        self, redis, client, lease
    ):
        register(redis, version="v2", active=False)
        submit(client, 8)
        assert claim(lease, QUEUE, "echo@v2").has_more is False
        submit(client, 9)
        assert claim(lease, QUEUE).has_more is True
        lease.release()
        redis.delete(keys.key("queue", QUEUE))
        submit(client, 8)
        client.submit("echo", instances=[[1.0]], version="v2")
        assert claim(lease, QUEUE, "echo@v2").has_more is True


class TestABatchAhead:
    def test_becomes_the_batch_when_the_one_before_it_ends(self, redis, client, lease):
        submit(client, 16)
        batch = claim(lease)
        following = take_ahead(lease, batch)
        assert following is not None
        redis.hset(keys.key("batch", "w1"), "deadline_ms", 0)
        lease.write(echo(lease, batch))
        found = held(redis)
        assert (found["token"], found["ids"]) == (following.token, " ".join(ids(following)))
        now_s = redis.time()[0]
        assert now_s < int(found["deadline_ms"]) / 1000 <= now_s + 61, "its time begins now"
        assert not found["next_token"]
        assert redis.hget(keys.key("worker", "w1"), "state") == b"busy"
        assert redis.hget(keys.key("worker", "w1"), "current_job").decode() == ids(following)[0]

    def test_is_given_back_at_no_cost_when_its_worker_dies(self, redis, client, lease, settings):
        job_ids = submit(client, 20)
        take_ahead(lease, claim(lease))
        reaped = reap(redis, "w1", "died", settings)
        assert reaped is not None
        assert reaped.given_back == 16
        assert waiting(redis) == job_ids
        assert attempts(client, job_ids) == [1] * 8 + [0] * 12

    def test_goes_with_the_lease(self, redis, client, lease, settings):
        job_ids = submit(client, 16)
        take_ahead(lease, claim(lease))
        redis.zadd(keys.LEASES, {"w1": 1})
        reaped = wait_until(lambda: sweep(redis, settings)[1], 20)
        assert [one.given_back for one in reaped] == [16]
        assert waiting(redis) == job_ids
        assert not redis.exists(keys.LEASES, keys.key("batch", "w1"))

    def test_is_kept_by_a_renewal_under_either_token(self, redis, client, lease):
        submit(client, 16)
        batch = claim(lease)
        following = take_ahead(lease, batch)
        assert following is not None
        assert lease.renew(batch.token)
        assert lease.renew(following.token)

    def test_whose_reply_was_lost_is_given_back_by_the_next(self, redis, client, lease):
        job_ids = submit(client, 24)
        batch = claim(lease)
        take_ahead(lease, batch)
        again = take_ahead(lease, batch)
        assert ids(again) == job_ids[8:16]
        assert attempts(client, job_ids[:16]) == [1] * 16
        assert waiting(redis) == job_ids[16:]

    def test_is_not_taken_by_a_worker_that_holds_another_batch_by_now(self, redis, client, lease):
        job_ids = submit(client, 24)
        late = claim(lease)
        lease.write(echo(lease, late))
        claim(lease)
        assert take_ahead(lease, late) is None
        assert waiting(redis) == job_ids[16:]

    def test_holds_no_crash_suspect(self, redis, client, lease, settings):
        submit(client, 8)
        suspects = claim(lease)
        reap(redis, "w1", "died", settings)
        fresh = submit(client, 1)
        alone = claim(lease)
        assert ids(alone) == ids(suspects)[:1]
        assert take_ahead(lease, alone) is None
        assert waiting(redis) == ids(suspects)[1:] + fresh

    def test_stays_where_its_queue_was_overwritten_until_that_is_mended(
        self, redis, client, lease, settings
    ):
        job_ids = submit(client, 16)
        take_ahead(lease, claim(lease))
        redis.set(keys.key("queue", QUEUE), "not a list")
        reap(redis, "w1", "died", settings)
        (aside,) = redis.zrange(keys.LEASES, 0, -1)
        redis.delete(keys.key("queue", QUEUE))
        reap(redis, aside.decode(), "died", settings)
        assert waiting(redis) == job_ids


def retried(call: Callable[[], Any]) -> Any:
    """What the call gives once its connection, which was cut, is made anew."""
    from redis.exceptions import ConnectionError as RedisConnectionError

    try:
        return call()
    except RedisConnectionError:
        return call()
