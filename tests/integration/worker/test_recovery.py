"""Batches that pools take: by sweeps, in small steps and not after an outage, and by kills.

A kill is charged to the batch that was late, and to no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from redis import Redis

from tests.helpers.protocol import QUEUE, Protocol, ids
from tests.helpers.waiting import wait_until
from worker.pool.monitor import WorkerMonitor
from worker.pool.worker_handle import WorkerHandle
from worker.process.registration import Registration
from worker.queue import recovery
from yard.cluster import metrics
from yard.cluster.crash_loops import held_back_queues
from yard.cluster.presence import read_presence
from yard.cluster.workload import read_waits_s, read_workload
from yard.contract import keys
from yard.contract.values import JobStatus
from yard.settings import Settings

LEASE_S = 3.0
#: Half a lease: a longer gap between two sweeps means that Redis was away.
GAP_MS = 1500
#: Entries of a queue that a call of the sweep looks through.
DEEP = recovery._SWEEP_ENTRIES


@pytest.fixture
def settings() -> Settings:
    return Settings.load({}, lease_s=LEASE_S, batch_jobs=4)


def swept_just_now(protocol: Protocol) -> None:
    now_ms = protocol.now_us() // 1000
    protocol.redis.hset(keys.SWEPT, mapping={"at": now_ms, "spare_until": 0})


def pass_ms(redis: Redis, passed_ms: int) -> None:
    """Let time pass: the notes of the sweep are that much older."""
    redis.hincrby(keys.SWEPT, "at", -passed_ms)
    redis.hincrby(keys.SWEPT, "spare_until", -passed_ms)


def expire(redis: Redis, *job_ids: str) -> None:
    redis.zadd(keys.DEADLINES, dict.fromkeys(job_ids, 1))


def depth(protocol: Protocol) -> int:
    return len(protocol.waiting())


def set_clock_back(redis: Redis, by_ms: int) -> None:
    """Set Redis' clock back: the notes of the sweep are that much later."""
    redis.hincrby(keys.SWEPT, "at", by_ms)
    move_leases(redis, by_ms)


def move_leases(redis: Redis, by_ms: int) -> None:
    held: Any = redis.zrange(keys.LEASES, 0, -1)
    for worker in held:
        redis.zincrby(keys.LEASES, by_ms, worker)


def taken(protocol: Protocol) -> list[str]:
    """The workers whose batches a sweep takes."""
    return [one.worker for one in protocol.sweep()[1]]


class TestClock:
    @pytest.mark.parametrize("first", ["sweep", "renewal"])
    def test_set_back_it_makes_no_lease_longer(self, redis, protocol, first):
        protocol.submit(8)
        protocol.claim(worker="dead")
        living = protocol.claim(worker="living")
        swept_just_now(protocol)
        set_clock_back(redis, 3_600_000)
        if first == "renewal":
            assert protocol.renew(living)
            assert redis.zscore(keys.LEASES, "living") > redis.time()[0] * 1000
        assert protocol.sweep() == (0, []), "everybody gets the time to renew"
        found = []
        for _ in range(4):
            pass_ms(redis, 1000)
            move_leases(redis, -1000)
            assert protocol.renew(living)
            found += taken(protocol)
        assert found == ["dead"]


class TestLatePools:
    """A pool that is late has not seen Redis be away, where others were served meanwhile."""

    def test_what_has_run_out_is_taken_where_workers_renewed_meanwhile(self, redis, protocol):
        protocol.submit(8)
        protocol.claim(worker="dead")
        living = protocol.claim(worker="living")
        swept_just_now(protocol)
        protocol.lapse("dead")
        for _ in range(3):
            pass_ms(redis, GAP_MS - 400)
            assert protocol.renew(living)
        assert taken(protocol) == ["dead"]

    def test_what_has_run_out_is_taken_where_idle_workers_beat_meanwhile(self, redis, protocol):
        protocol.submit()
        protocol.claim(worker="dead")
        swept_just_now(protocol)
        protocol.lapse("dead")
        for _ in range(3):
            pass_ms(redis, GAP_MS - 400)
            Registration(redis, "idle", "").beat([QUEUE], {})
        assert taken(protocol) == ["dead"]

    @pytest.mark.parametrize("first", ["renewal", "beat", "nothing"])
    def test_whoever_is_served_first_after_a_gap_lets_nothing_be_taken(
        self, redis, protocol, first
    ):
        """Calls that waited in Redis' buffers while it was stopped come in whichever order."""
        protocol.submit(8)
        protocol.claim(worker="silent")
        living = protocol.claim(worker="living")
        swept_just_now(protocol)
        pass_ms(redis, 30_000)
        protocol.lapse("silent", "living")
        if first == "renewal":
            assert protocol.renew(living)
        if first == "beat":
            Registration(redis, "idle", "").beat([QUEUE], {})
        assert protocol.sweep() == (0, [])
        pass_ms(redis, 500)
        assert protocol.sweep() == (0, []), "it is a lease's time until they are taken"

    def test_a_pool_that_is_late_again_and_again_takes_what_has_run_out_all_the_same(
        self, redis, protocol
    ):
        protocol.submit()
        protocol.claim(worker="dead")
        swept_just_now(protocol)
        protocol.lapse("dead")
        found = []
        for _ in range(3):
            pass_ms(redis, GAP_MS + 500)
            found.append(taken(protocol))
        assert found == [[], [], ["dead"]]


class TestSmallSteps:
    """No call of the script holds Redis for long."""

    @pytest.fixture
    def replies(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """The reply of each call of the script."""
        replies: list[Any] = []
        script = recovery._SWEEP

        def call(redis: Redis, arguments: Sequence[Any]) -> Any:
            replies.append(script(redis, arguments))
            return replies[-1]

        monkeypatch.setattr(recovery, "_SWEEP", call)
        return replies

    @pytest.fixture
    def dead(self, protocol: Protocol) -> list[str]:
        """Three workers whose leases have run out; 12 jobs are theirs."""
        protocol.submit(12)
        workers = ["w1", "w2", "w3"]
        for worker in workers:
            protocol.claim(worker=worker)
        swept_just_now(protocol)
        protocol.lapse(*workers)
        return workers

    def test_a_sweep_takes_all_leases_that_have_run_out_one_at_a_call(
        self, protocol, dead, replies
    ):
        assert taken(protocol) == dead
        assert [len(found) for _, _, *found in replies] == [1, 1, 1, 0]
        assert depth(protocol) == 12

    def test_jobs_expire_a_few_at_a_call(self, redis, protocol, replies):
        expire(redis, *protocol.submit(80, deadline_ms=3_600_000))
        assert protocol.sweep()[0] == 80
        assert max(expired for expired, *_ in replies) <= recovery._SWEEP_DEADLINES
        assert depth(protocol) == 0
        assert not redis.exists(keys.DEADLINES)

    def test_a_sweep_ends_and_leaves_the_rest_to_the_next(self, protocol, dead, monkeypatch):
        monkeypatch.setattr(recovery, "_SWEEP_CALLS", 2)
        assert [len(taken(protocol)) for _ in range(3)] == [2, 1, 0]

    @pytest.mark.leaks_keys
    def test_deadlines_of_another_type_do_not_keep_leases_from_being_taken(self, redis, protocol):
        protocol.submit()
        protocol.claim()
        swept_just_now(protocol)
        protocol.lapse("w1")
        redis.set(keys.DEADLINES, "no sorted set")
        assert len(taken(protocol)) == 1


class TestExpiryInLongQueues:
    @pytest.mark.leaks_keys
    def test_a_job_deep_in_a_long_queue_expires_and_its_entry_is_passed_over_later(
        self, redis, protocol
    ):
        (first,) = protocol.submit(deadline_ms=3_600_000)
        protocol.push_entries(*(f"gone-{n}" for n in range(DEEP)))
        (deep,) = protocol.submit(deadline_ms=3_600_000)
        expire(redis, first, deep)
        before = depth(protocol)
        assert protocol.sweep()[0] == 2
        assert protocol.statuses([first, deep]) == ["failed"] * 2
        assert depth(protocol) == before - 1, "the first is cut out, the other stays"
        redis.ltrim(keys.key("queue", QUEUE), -1, -1)
        mine = protocol.submit()
        assert ids(protocol.claim()) == mine
        assert depth(protocol) == 0
        assert protocol.results(deep) == 1

    def test_what_has_expired_is_not_taken_for_the_oldest_that_waits(self, redis, client, protocol):
        old, new = protocol.submit(2)
        redis.hset(keys.key("job", old), mapping={"status": "failed", "created_at": "2020-01-01"})
        redis.expire(keys.key("job", old), 60)
        assert 0 <= read_waits_s(redis, [QUEUE])[QUEUE] < 3600
        (work,) = read_workload(redis, [QUEUE], read_presence(redis)).works
        assert 0 <= work.oldest_s < 3600
        assert client.get(new).status is JobStatus.QUEUED


class TestGrace:
    """Leases run out while Redis is away, although their workers live."""

    @pytest.fixture
    def settings(self) -> Settings:
        return Settings.load({}, lease_s=1.0, batch_jobs=8)

    def test_nothing_is_taken_when_sweeping_begins_again(self, redis, protocol):
        protocol.submit()
        protocol.sweep()
        batch = protocol.claim()
        away_ms = 60_000
        redis.zadd(keys.LEASES, {"w1": redis.time()[0] * 1000 - away_ms})
        redis.hset(keys.SWEPT, mapping={"at": redis.time()[0] * 1000 - away_ms, "spare_until": 0})
        for _ in range(3):  # any pool, or a sweep that was in Redis' buffers when it stopped
            assert protocol.sweep() == (0, [])
        assert protocol.renew(batch)
        assert protocol.finish(batch) == 1

    def test_the_dead_are_taken_when_the_grace_is_over(self, redis, protocol, settings):
        mine = protocol.submit(2)
        protocol.claim()
        protocol.lapse()
        assert protocol.sweep() == (0, []), "nobody has swept for long"
        begun_ms, spared_ms = map(int, redis.hmget(keys.SWEPT, "at", "spare_until"))
        assert spared_ms - begun_ms <= settings.lease_s * 1000
        assert protocol.swept()
        assert protocol.waiting() == mine


class TestDeadlines:
    def test_a_job_released_after_its_deadline_expires_without_a_worker(self, protocol):
        (job_id,) = protocol.submit(deadline_ms=50)
        protocol.claim()
        due_us = int(protocol.field(job_id, "my_deadline"))
        wait_until(lambda: protocol.sweep() == (0, []) and protocol.now_us() > due_us)
        protocol.lease().release()
        assert protocol.sweep()[0] == 1
        assert protocol.outcome(job_id) == ("failed", "expired")

    def test_a_far_deadline_leaves_nothing_behind_when_its_job_has_ended(self, redis, protocol):
        protocol.submit(3, deadline_ms=2**40)
        protocol.finish(protocol.claim())
        assert not redis.exists(keys.DEADLINES)


class Process:
    """A process that runs until it is killed, and notes what it is sent."""

    pid = 2**22 + 1  # beyond what Linux gives

    def __init__(self) -> None:
        self.returncode: int | None = None
        self.got: list[str] = []

    def poll(self) -> int | None:
        return self.returncode

    def wait(self) -> int:
        return -9

    def terminate(self) -> None:
        self.got.append("TERM")

    def kill(self) -> None:
        self.got.append("KILL")
        self.returncode = -9


class Scene:
    """A pool's monitor of one worker, by a clock that the test moves."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.now = 0.0
        self.process: Any = Process()
        self.watch = WorkerMonitor(redis, settings, clock=lambda: self.now)
        self.watch.workers["w1"] = WorkerHandle("w1", self.process, 0.0)

    def look(self, after_s: float = 0.5) -> None:
        """A look, so much later by the pool's clock."""
        self.now += after_s
        self.watch.look()

    def end(self) -> None:
        """The last second of a worker that has been found late."""
        self.watch.end_late()
        self.look(1.1)
        self.watch.end_late()
        self.watch.collect_exited()


class TestLateBatches:
    """A worker is killed for one batch, and only that batch is charged with it."""

    @pytest.fixture
    def settings(self) -> Settings:
        return Settings.load({}, batch_jobs=1)

    @pytest.fixture
    def scene(self, redis: Redis, settings: Settings) -> Scene:
        return Scene(redis, settings)

    def test_the_batch_that_is_late_fails(self, redis, protocol, scene):
        (late,) = protocol.submit(timeout_s=1)
        protocol.claim()
        scene.look()
        scene.look(1.1)
        scene.end()
        assert scene.process.got == ["TERM", "KILL"]
        assert protocol.outcome(late) == ("failed", "timeout")
        assert crashes(redis) == b"1"

    def test_the_batch_after_the_late_one_is_not_charged(self, redis, client, protocol, scene):
        _, next_one = protocol.submit(2, timeout_s=1)
        batch = protocol.claim()
        scene.look()
        scene.look(1.1)
        protocol.finish(batch)
        protocol.claim()
        scene.end()
        assert scene.process.got == ["TERM", "KILL"]
        job = client.get(next_one)
        assert (job.status, job.attempts, job.error) == (JobStatus.QUEUED, 0, None)
        assert protocol.field(next_one, "my_crashes") == "0"
        assert crashes(redis) is None, "its version did not kill the worker"
        assert not held_back_queues(redis)

    def test_a_batch_that_is_claimed_after_a_late_load_is_not_charged(self, redis, protocol, scene):
        redis.hset(keys.key("worker", "w1"), mapping={"state": "busy", "my_load": "1"})
        scene.look()
        for _ in range(61):
            scene.look(1.0)
        (job_id,) = protocol.submit(timeout_s=1)
        scene.watch.end_late()
        protocol.claim()
        scene.end()
        assert scene.process.got == ["TERM", "KILL"]
        assert protocol.statuses([job_id]) == ["queued"]
        assert protocol.field(job_id, "my_crashes") == "0"

    @pytest.mark.parametrize("is_seen_before", [True, False])
    def test_a_step_of_redis_clock_makes_no_batch_late(self, protocol, scene, is_seen_before):
        """Redis' clock passes the deadline; by the pool's, hardly any time has passed."""
        protocol.submit(timeout_s=1)
        if not is_seen_before:
            scene.look()
        batch = protocol.claim()
        if is_seen_before:
            scene.look()
        due_us = int(protocol.held()["deadline_ms"]) * 1000
        wait_until(lambda: protocol.now_us() > due_us)
        scene.look(0.1)
        scene.watch.end_late()
        assert scene.process.got == []
        protocol.finish(batch, [])


def crashes(redis: Redis) -> Any:
    labels = {"model": "echo", "model_version": "v1"}
    return redis.hget(keys.METRICS, metrics.field("worker_crashes_total", labels))
