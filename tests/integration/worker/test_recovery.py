"""What a sweep takes: a little at each call, what is dead, and nothing after Redis was away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from redis import Redis

from producer.client import Client
from tests.helpers import batches
from tests.helpers.batches import QUEUE
from worker.process.registration import Registration
from worker.queue import recovery
from worker.queue.lease import Batch, Lease
from worker.queue.recovery import sweep
from yard.cluster.presence import read_presence
from yard.cluster.workload import read_waits_s, read_workload
from yard.contract import keys
from yard.contract.values import JobStatus
from yard.settings import Settings

LEASE_S = 3.0
#: A gap that tells that Redis was away is longer than this: half a lease.
GAP_MS = 1500
#: Entries of a queue that a call of the sweep looks through.
DEEP = recovery._SWEEP_ENTRIES


@pytest.fixture
def settings() -> Settings:
    return Settings.load({}, lease_s=LEASE_S, batch_jobs=4)


def submit(client: Client, count: int = 1, **more: Any) -> list[str]:
    return [client.submit("echo", instances=[[float(n)]], **more).id for n in range(count)]


def claim(redis: Redis, settings: Settings, worker: str) -> Batch:
    return batches.claim(Lease(redis, worker, settings))


def die(redis: Redis, *workers: str) -> None:
    """Their leases have run out."""
    redis.zadd(keys.LEASES, dict.fromkeys(workers, 1))


def swept_just_now(redis: Redis) -> None:
    seconds, micros = redis.time()
    now_ms = seconds * 1000 + micros // 1000
    redis.hset(keys.SWEPT, mapping={"at": now_ms, "spare_until": 0})


def pass_ms(redis: Redis, passed_ms: int) -> None:
    """So much time passes: what was noted is that much longer ago."""
    redis.hincrby(keys.SWEPT, "at", -passed_ms)
    redis.hincrby(keys.SWEPT, "spare_until", -passed_ms)


def expire(redis: Redis, *job_ids: str) -> None:
    redis.zadd(keys.DEADLINES, dict.fromkeys(job_ids, 1))


def depth(redis: Redis) -> int:
    found: Any = redis.llen(keys.key("queue", QUEUE))
    return int(found)


def set_clock_back(redis: Redis, by_ms: int) -> None:
    """Redis' clock is: what was noted is that much later."""
    redis.hincrby(keys.SWEPT, "at", by_ms)
    move_leases(redis, by_ms)


def move_leases(redis: Redis, by_ms: int) -> None:
    held: Any = redis.zrange(keys.LEASES, 0, -1)
    for worker in held:
        redis.zincrby(keys.LEASES, by_ms, worker)


class TestClock:
    @pytest.mark.parametrize("first", ["sweep", "renewal"])
    def test_set_back_it_makes_no_lease_longer(self, redis, client, settings, first):
        submit(client, 8)
        claim(redis, settings, "dead")
        living = claim(redis, settings, "living")
        swept_just_now(redis)
        set_clock_back(redis, 3_600_000)
        if first == "renewal":
            assert Lease(redis, "living", settings).renew(living.token)
            assert redis.zscore(keys.LEASES, "living") > redis.time()[0] * 1000
        assert sweep(redis, settings) == (0, []), "everybody gets the time to renew"
        taken = []
        for _ in range(4):
            pass_ms(redis, 1000)
            move_leases(redis, -1000)
            assert Lease(redis, "living", settings).renew(living.token)
            taken += [one.worker for one in sweep(redis, settings)[1]]
        assert taken == ["dead"]


class TestLatePools:
    """A pool that is late has not seen Redis be away, where others were served meanwhile."""

    def test_what_has_run_out_is_taken_where_workers_renewed_meanwhile(
        self, redis, client, settings
    ):
        submit(client, 8)
        claim(redis, settings, "dead")
        living = claim(redis, settings, "living")
        swept_just_now(redis)
        die(redis, "dead")
        for _ in range(3):
            pass_ms(redis, GAP_MS - 400)
            assert Lease(redis, "living", settings).renew(living.token)
        assert [one.worker for one in sweep(redis, settings)[1]] == ["dead"]

    def test_what_has_run_out_is_taken_where_idle_workers_beat_meanwhile(
        self, redis, client, settings
    ):
        submit(client)
        claim(redis, settings, "dead")
        swept_just_now(redis)
        die(redis, "dead")
        for _ in range(3):
            pass_ms(redis, GAP_MS - 400)
            Registration(redis, "idle", "").beat([QUEUE], {})
        assert [one.worker for one in sweep(redis, settings)[1]] == ["dead"]

    @pytest.mark.parametrize("first", ["renewal", "beat", "nothing"])
    def test_whoever_is_served_first_after_a_gap_lets_nothing_be_taken(
        self, redis, client, settings, first
    ):
        """Calls that waited in Redis' buffers while it was stopped come in whichever order."""
        submit(client, 8)
        claim(redis, settings, "silent")
        living = claim(redis, settings, "living")
        swept_just_now(redis)
        pass_ms(redis, 30_000)
        die(redis, "silent", "living")
        if first == "renewal":
            assert Lease(redis, "living", settings).renew(living.token)
        if first == "beat":
            Registration(redis, "idle", "").beat([QUEUE], {})
        assert sweep(redis, settings) == (0, [])
        pass_ms(redis, 500)
        assert sweep(redis, settings) == (0, []), "it is a lease's time until they are taken"

    def test_a_pool_that_is_late_again_and_again_takes_what_has_run_out_all_the_same(
        self, redis, client, settings
    ):
        submit(client)
        claim(redis, settings, "dead")
        swept_just_now(redis)
        die(redis, "dead")
        taken = []
        for _ in range(3):
            pass_ms(redis, GAP_MS + 500)
            taken.append([one.worker for one in sweep(redis, settings)[1]])
        assert taken == [[], [], ["dead"]]


class TestSmallSteps:
    """No call of the script holds Redis for long."""

    @pytest.fixture
    def replies(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """What each call of the script has taken."""
        replies: list[Any] = []
        script = recovery._SWEEP

        def call(redis: Redis, arguments: Sequence[Any]) -> Any:
            replies.append(script(redis, arguments))
            return replies[-1]

        monkeypatch.setattr(recovery, "_SWEEP", call)
        return replies

    def test_a_sweep_takes_all_leases_that_have_run_out_one_at_a_call(
        self, redis, client, settings, replies
    ):
        ids = submit(client, 12)
        for worker in ("w1", "w2", "w3"):
            claim(redis, settings, worker)
        swept_just_now(redis)
        die(redis, "w1", "w2", "w3")
        assert [one.worker for one in sweep(redis, settings)[1]] == ["w1", "w2", "w3"]
        assert [len(taken) for _, _, *taken in replies] == [1, 1, 1, 0]
        assert depth(redis) == len(ids)

    def test_jobs_expire_a_few_at_a_call(self, redis, client, settings, replies):
        ids = submit(client, 80, deadline_ms=3_600_000)
        expire(redis, *ids)
        assert sweep(redis, settings)[0] == 80
        assert max(expired for expired, *_ in replies) <= recovery._SWEEP_DEADLINES
        assert depth(redis) == 0
        assert not redis.exists(keys.DEADLINES)

    def test_a_sweep_ends_and_leaves_the_rest_to_the_next(
        self, redis, client, settings, monkeypatch
    ):
        monkeypatch.setattr(recovery, "_SWEEP_CALLS", 2)
        submit(client, 12)
        for worker in ("w1", "w2", "w3"):
            claim(redis, settings, worker)
        swept_just_now(redis)
        die(redis, "w1", "w2", "w3")
        assert [len(sweep(redis, settings)[1]) for _ in range(3)] == [2, 1, 0]

    @pytest.mark.leaks_keys
    def test_deadlines_of_another_type_do_not_keep_leases_from_being_taken(
        self, redis, client, settings
    ):
        submit(client)
        claim(redis, settings, "w1")
        swept_just_now(redis)
        die(redis, "w1")
        redis.set(keys.DEADLINES, "no sorted set")
        assert len(sweep(redis, settings)[1]) == 1


class TestExpiryInLongQueues:
    @pytest.mark.leaks_keys
    def test_a_job_deep_in_a_long_queue_expires_and_its_entry_is_passed_over_later(
        self, redis, client, settings
    ):
        queue = keys.key("queue", QUEUE)
        (first,) = submit(client, deadline_ms=3_600_000)
        redis.rpush(queue, *(f"gone-{n}" for n in range(DEEP)))
        (deep,) = submit(client, deadline_ms=3_600_000)
        expire(redis, first, deep)
        before = depth(redis)
        assert sweep(redis, settings)[0] == 2
        assert [client.get(job_id).status for job_id in (first, deep)] == [JobStatus.FAILED] * 2
        assert depth(redis) == before - 1, "the first is cut out, the other stays"
        redis.ltrim(queue, -1, -1)
        (waiting,) = submit(client)
        assert [job.id for job in claim(redis, settings, "w1").jobs] == [waiting]
        assert depth(redis) == 0
        assert redis.xlen(keys.key("results", deep)) == 1

    def test_what_has_expired_is_not_taken_for_the_oldest_that_waits(self, redis, client):
        old, new = submit(client, 2)
        redis.hset(keys.key("job", old), mapping={"status": "failed", "created_at": "2020-01-01"})
        redis.expire(keys.key("job", old), 60)
        assert 0 <= read_waits_s(redis, [QUEUE])[QUEUE] < 3600
        (work,) = read_workload(redis, [QUEUE], read_presence(redis)).works
        assert 0 <= work.oldest_s < 3600
        assert client.get(new).status is JobStatus.QUEUED
