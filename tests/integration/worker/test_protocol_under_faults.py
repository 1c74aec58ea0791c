"""What the scripts make of keys that hold rubbish, of calls that come late, and of a full Redis.

Each case was found by reading, by the state machine or by the chaos driver, and has lost a job,
ended one twice or stopped a worker before it was mended.
"""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError
from rq import Queue
from rq.serializers import JSONSerializer

from producer.client import Client
from tests.helpers.batches import QUEUE, claim, waiting
from tests.helpers.waiting import wait_until
from worker.queue.lease import Batch, Lease
from worker.queue.outcomes import EndedJob
from worker.queue.recovery import reap, sweep
from yard.contract import keys, wire
from yard.contract.values import Failure, JobStatus
from yard.errors import Unavailable
from yard.settings import Settings


@pytest.fixture
def settings() -> Settings:
    return Settings.load({}, lease_s=1.0, batch_jobs=8, attempts=3)


@pytest.fixture
def lease(redis: Redis, settings: Settings) -> Lease:
    return Lease(redis, "w1", settings)


def submit(client: Client, count: int, **more: Any) -> list[str]:
    return [client.submit("echo", instances=[[float(n)]], **more).id for n in range(count)]


def push(redis: Redis, job_id: str, **fields: Any) -> str:
    """As a stranger does."""
    data = wire.dumps(["worker.tasks.predict", None, [], {"instances": [[1.0]]}])
    mapping: dict[Any, Any] = {"status": "queued", "origin": QUEUE, "data": data} | fields
    redis.hset(keys.key("job", job_id), mapping=mapping)
    redis.rpush(keys.key("queue", QUEUE), job_id)
    return job_id


def endings(batch: Batch) -> list[EndedJob]:
    return [EndedJob(job.id, {"predictions": [1.0]}, 60) for job in batch.jobs]


def lapse(redis: Redis, *more: str) -> None:
    """Let every lease run out, and those of ``more``."""
    redis.config_set("maxmemory", 0)
    held: Any = redis.zrange(keys.LEASES, 0, -1)
    redis.zadd(keys.LEASES, dict.fromkeys([*held, *more], 1))


def swept(redis: Redis, settings: Settings) -> list[Any]:
    """What sweeps take, once the first has seen that somebody sweeps again."""
    return wait_until(lambda: sweep(redis, settings)[1], 20)


class TestKeysOfAnotherType:
    """A script has no way back: an error half way through must not leave a job nowhere."""

    def test_a_started_registry_of_another_type_loses_no_job(self, redis, client, lease):
        ids = submit(client, 3)
        redis.set(keys.key("wip", QUEUE), "not a sorted set", ex=60)
        batch = claim(lease)
        assert [job.id for job in batch.jobs] == ids
        assert lease.finish(batch, endings(batch)) == 3

    @pytest.mark.parametrize("family", ["finished", "failed"])
    def test_ended_registries_of_another_type_do_not_keep_jobs_from_ending(
        self, redis, client, lease, family
    ):
        ids = submit(client, 2)
        redis.set(keys.key(family, QUEUE), "not a sorted set", ex=60)
        batch = claim(lease)
        failed = EndedJob(ids[1], Failure("predict_failed", ""), 60)
        assert lease.finish(batch, [*endings(batch)[:1], failed]) == 2
        assert not redis.exists(keys.LEASES)

    def test_a_result_of_another_type_is_replaced_and_batch_mates_end(self, redis, client, lease):
        ids = submit(client, 3)
        redis.set(keys.key("results", ids[1]), "somebody's own")
        batch = claim(lease)
        assert lease.finish(batch, endings(batch)) == 3
        assert [client.get(job_id)["predictions"] for job_id in ids] == [[1.0]] * 3

    def test_a_result_stream_that_takes_no_more_entries_is_replaced(self, redis, client, lease):
        (job_id,) = submit(client, 1)
        redis.xadd(keys.key("results", job_id), {"type": "1"}, id=f"{2**64 - 1}-{2**64 - 1}")
        batch = claim(lease)
        assert lease.finish(batch, endings(batch)) == 1
        assert client.get(job_id)["predictions"] == [1.0]
        assert redis.xlen(keys.key("results", job_id)) == 1

    @pytest.mark.leaks_keys
    def test_measures_that_cannot_be_counted_stop_nothing(self, redis, client, lease, settings):
        redis.set(keys.METRICS, "not a hash")
        redis.rpush(keys.key("queue", QUEUE), "no job!")
        (crashing, *_), _ = submit(client, 2), claim(lease)
        reaped = reap(redis, "w1", "died", settings)
        assert reaped is not None
        assert reaped.given_back == 2
        batch = claim(lease)
        assert [job.id for job in batch.jobs] == [crashing]
        assert lease.finish(batch, endings(batch), {}, [("batch_size_count", 1.0)]) == 1

    @pytest.mark.leaks_keys
    def test_a_quarantine_of_another_type_stops_nothing(self, redis, client, lease):
        redis.set(keys.QUARANTINE, "not a list")
        redis.rpush(keys.key("queue", QUEUE), "no job!")
        ids = submit(client, 1)
        assert [job.id for job in claim(lease).jobs] == ids

    def test_a_bell_of_another_type_is_replaced(self, redis, client):
        redis.set(keys.key("bell", QUEUE), "not a list")
        submit(client, 1)
        assert redis.lrange(keys.key("bell", QUEUE), 0, -1) == [b"1"]

    def test_a_workers_entry_of_another_type_stops_nothing(self, redis, client, lease):
        redis.set(keys.key("worker", "w1"), "not a hash", ex=60)
        ids = submit(client, 1)
        batch = claim(lease)
        assert [job.id for job in batch.jobs] == ids
        assert lease.finish(batch, endings(batch)) == 1

    def test_jobs_whose_queue_was_overwritten_come_back_when_it_is_mended(
        self, redis, client, lease, settings
    ):
        ids = submit(client, 2)
        claim(lease)
        redis.set(keys.key("queue", QUEUE), "not a list")
        assert reap(redis, "w1", "died", settings) is not None
        assert [client.get(job_id).status for job_id in ids] == [JobStatus.STARTED] * 2
        redis.delete(keys.key("queue", QUEUE))
        lapse(redis)
        swept(redis, settings)
        assert waiting(redis) == ids

    def test_a_batch_that_cannot_be_read_does_not_keep_others_from_coming_back(
        self, redis, client, lease, settings
    ):
        ids = submit(client, 2)
        claim(lease)
        redis.set(keys.key("batch", "w0"), "not a hash", ex=60)
        lapse(redis, "w0")
        assert swept(redis, settings)
        assert waiting(redis) == ids

    def test_canceling_works_where_registries_are_of_another_type(self, redis, client):
        (job_id,) = submit(client, 1)
        redis.set(keys.key("queue", QUEUE), "not a list", ex=60)
        redis.set(keys.key("canceled", QUEUE), "not a sorted set", ex=60)
        assert client.cancel(job_id).status is JobStatus.CANCELED


class TestFieldsThatHoldRubbish:
    @pytest.mark.parametrize("field", ["my_attempts", "my_crashes"])
    @pytest.mark.parametrize(
        "value", ["x", "nan", "inf", "-7", "1e300", "0x10", b"\xff", "9" * 400]
    )
    def test_a_count_that_is_none_does_not_keep_the_job_from_coming_back(
        self, redis, client, lease, settings, field, value
    ):
        push(redis, "odd", **{field: value})
        batch = claim(lease)
        assert batch.jobs[0].attempt == 1
        reaped = reap(redis, "w1", "died", settings)
        assert reaped is not None
        assert waiting(redis) == ["odd"]
        batch = claim(lease)
        assert (batch.jobs[0].attempt, batch.jobs[0].crashes) == (2, 1)
        assert lease.finish(batch, endings(batch)) == 1

    @pytest.mark.parametrize("rows", ["nan", "-1e9", "x"])
    def test_a_row_count_that_is_none_does_not_lift_the_bound(self, redis, client, rows):
        narrow = Lease(redis, "w1", Settings.load({}, batch_rows=5))
        push(redis, "odd", my_rows=rows)
        for _ in range(2):
            client.submit("echo", instances=[[1.0]] * 4)
        assert len(claim(narrow).jobs) == 2

    @pytest.mark.parametrize("deadline", ["x", "nan", "inf", "-inf", b"\xff"])
    def test_a_deadline_that_is_none_does_not_keep_the_job_from_coming_back(
        self, redis, client, lease, settings, deadline
    ):
        push(redis, "odd", my_deadline=deadline)
        claim(lease)
        lease.release()
        assert redis.type(keys.key("job", "odd")) == b"hash"
        assert reap(redis, "w1", "died", settings) is None

    @pytest.mark.parametrize("status", ["finished", "failed", "canceled", "started"])
    @pytest.mark.leaks_keys
    def test_a_push_that_says_it_has_ended_or_begun_is_set_aside(
        self, redis, client, lease, status
    ):
        push(redis, "odd", status=status)
        assert lease.claim([QUEUE]) == 1
        assert wire.loads(redis.lindex(keys.QUARANTINE, 0))["id"] == "odd"

    def test_an_id_pushed_again_while_it_runs_or_when_it_has_ended_is_no_rubbish(
        self, redis, client, lease, settings
    ):
        (job_id,) = submit(client, 1)
        batch = claim(lease)
        redis.rpush(keys.key("queue", QUEUE), job_id)
        other = Lease(redis, "w2", settings)
        assert other.claim([QUEUE]) == 1
        lease.finish(batch, endings(batch))
        redis.rpush(keys.key("queue", QUEUE), job_id)
        assert other.claim([QUEUE]) == 1
        assert not redis.exists(keys.QUARANTINE)


class TestLateCalls:
    """Redis carries out what is in its buffers although the caller has long given up."""

    def test_a_claim_that_arrives_behind_a_later_one_takes_nothing(
        self, redis, client, lease, settings, monkeypatch
    ):
        ids = submit(client, 2)
        sent: list[Any] = []

        def swallow(_redis: Redis, arguments: Any) -> list[Any]:
            sent.append(arguments)
            return [b"idle", 0]

        script = "worker.queue.lease._CLAIM"
        with monkeypatch.context() as patch:
            patch.setattr(script, swallow)
            lease.claim([QUEUE])  # its worker gives up waiting for it
        batch = claim(lease)
        from worker.queue.lease import _CLAIM

        _CLAIM(redis, sent[0])
        assert lease.renew(batch.token), "the batch is still the worker's"
        assert lease.finish(batch, endings(batch)) == 2
        (later,) = submit(client, 1)
        _CLAIM(redis, sent[0])
        assert waiting(redis) == [later]
        assert [client.get(job_id).attempts for job_id in ids] == [1, 1]

    def test_a_claimed_job_does_not_expire_while_it_runs(self, redis, client, lease):
        pushed = Queue(QUEUE, connection=redis, serializer=JSONSerializer)
        job_id = pushed.enqueue("worker.tasks.predict", instances=[[1.0]], ttl=60).id
        assert redis.ttl(keys.key("job", job_id)) > 0, "how long it may wait"
        batch = claim(lease)
        assert redis.ttl(keys.key("job", job_id)) == -1
        lease.finish(batch, endings(batch))

    def test_a_job_that_vanished_while_it_ran_is_not_brought_back(
        self, redis, client, lease, settings
    ):
        ids = submit(client, 4)
        batch = claim(lease)
        redis.delete(*(keys.key("job", job_id) for job_id in ids))
        assert lease.finish(batch, endings(batch)) == 0
        assert not redis.exists(*(keys.key(f, i) for i in ids for f in ("job", "results")))


class TestGrace:
    """Leases run out while Redis is away, although their workers live."""

    def test_nothing_is_taken_when_sweeping_begins_again(self, redis, client, lease, settings):
        submit(client, 1)
        sweep(redis, settings)
        batch = claim(lease)
        away_ms = 60_000
        redis.zadd(keys.LEASES, {"w1": redis.time()[0] * 1000 - away_ms})
        redis.hset(keys.SWEPT, mapping={"at": redis.time()[0] * 1000 - away_ms, "spare_until": 0})
        for _ in range(3):  # any pool, or a sweep that was in Redis' buffers when it stopped
            assert sweep(redis, settings) == (0, [])
        assert lease.renew(batch.token)
        assert lease.finish(batch, endings(batch)) == 1

    def test_the_dead_are_taken_when_the_grace_is_over(self, redis, client, lease, settings):
        ids = submit(client, 2)
        claim(lease)
        lapse(redis)
        assert sweep(redis, settings) == (0, []), "nobody has swept for long"
        begun_ms, spared_ms = map(int, redis.hmget(keys.SWEPT, "at", "spare_until"))
        assert spared_ms - begun_ms <= settings.lease_s * 1000
        assert swept(redis, settings)
        assert waiting(redis) == ids


class TestDeadlines:
    def test_a_job_released_after_its_deadline_expires_without_a_worker(
        self, redis, client, lease, settings
    ):
        (job_id,) = submit(client, 1, deadline_ms=50)
        claim(lease)
        wait_until(lambda: sweep(redis, settings) == (0, []) and _is_past(redis, job_id))
        lease.release()
        assert sweep(redis, settings)[0] == 1
        job = client.get(job_id)
        assert job.error is not None
        assert job.error.code == "expired"

    def test_a_far_deadline_leaves_nothing_behind_when_its_job_has_ended(
        self, redis, client, lease
    ):
        submit(client, 3, deadline_ms=2**40)
        batch = claim(lease)
        lease.finish(batch, endings(batch))
        assert not redis.exists(keys.DEADLINES)


def _is_past(redis: Redis, job_id: str) -> bool:
    due: Any = redis.hget(keys.key("job", job_id), "my_deadline")
    seconds, micros = redis.time()
    return bool(seconds * 1_000_000 + micros > int(due))


class TestFullRedis:
    def test_claims_renewals_and_endings_go_on_and_submitting_says_so(
        self, redis, client, lease, settings
    ):
        ids = submit(client, 12)
        redis.config_set("maxmemory", 1)
        with pytest.raises(Unavailable):
            submit(client, 1)
        first = claim(lease)
        assert lease.renew(first.token)
        assert lease.finish(first, endings(first)) == 8
        batch = claim(lease)
        lapse(redis)
        redis.config_set("maxmemory", 1)
        swept(redis, settings)
        assert waiting(redis) == [job.id for job in batch.jobs]
        client.cancel(ids[-1])
        redis.config_set("maxmemory", 0)
        submit(client, 1)

    def test_a_batch_without_endings_is_let_go(self, redis, client, lease, settings):
        submit(client, 1)
        batch = claim(lease)
        reap(redis, "w1", "died", settings)
        redis.config_set("maxmemory", 1)
        try:
            assert lease.finish(batch, []) == 0
        except OutOfMemoryError:
            pytest.fail("the worker would try until there is room")

    def test_a_front_door_job_can_be_moved_on(self, redis, client, lease):
        job = Queue("echo", connection=redis, serializer=JSONSerializer).enqueue(
            "worker.tasks.predict", instances=[[7.0]], result_ttl=60, failure_ttl=60
        )
        redis.delete(keys.key("route", "echo"))  # it is worked out anew, and written
        batch = claim(lease, "echo")
        redis.config_set("maxmemory", 1)
        assert lease.forward(batch, "echo", [(job.id, "", 0.5, 1)]) == {}
        assert waiting(redis) == [job.id]


def test_rqs_tools_can_list_the_queues_after_a_front_door_job(redis, client, lease):
    job = Queue("echo", connection=redis, serializer=JSONSerializer).enqueue(
        "worker.tasks.predict", instances=[[7.0]], result_ttl=60, failure_ttl=60
    )
    redis.delete(keys.QUEUES)
    batch = claim(lease, "echo")
    lease.forward(batch, "echo", [(job.id, "", 0.5, 1)])
    assert QUEUE in [queue.name for queue in Queue.all(connection=redis)]
