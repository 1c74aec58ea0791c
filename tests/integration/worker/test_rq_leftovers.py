"""What RQ's clients and operators leave behind: keys end by themselves, jobs get a result."""

from __future__ import annotations

from datetime import timedelta

import pytest
from rq import Queue
from rq.serializers import JSONSerializer

from tests.helpers.protocol import QUEUE, call
from worker.queue.due import OrphanCollector, enqueue_due
from worker.queue.outcomes import EndedJob
from yard.contract import keys
from yard.contract.values import TASK_NAME, Failure


@pytest.fixture
def collect(redis, protocol):
    """Goes through all keys once; a job is judged ``age_s`` seconds after it was seen first."""

    def collect(age_s: int = 0) -> int:
        collector = OrphanCollector(redis, protocol.settings, age_s)
        ended = collector.look()
        while collector._cursor:
            ended += collector.look()
        return ended

    return collect


@pytest.fixture
def tend(redis, protocol):
    return lambda: enqueue_due(redis, [QUEUE, "echo"], protocol.settings)


def test_jobs_of_a_queue_that_was_deleted_end_with_a_reason(redis, protocol, collect):
    own, pushed = protocol.submit()[0], protocol.push("pushed")
    redis.delete(keys.key("queue", QUEUE))
    assert collect() == 0, "at first sight it may be about to be pushed"
    assert collect() == 2
    for job_id in (own, pushed):
        assert protocol.outcome(job_id) == ("failed", "invalid_job")
        assert 0 < redis.ttl(keys.key("job", job_id)) <= 86_400
    assert collect() == 0


def test_a_job_that_was_seen_a_moment_ago_is_left_alone(redis, protocol, collect):
    (job_id,) = protocol.submit()
    redis.delete(keys.key("queue", QUEUE))
    assert collect(3600) + collect(3600) == 0
    assert protocol.outcome(job_id) == ("queued", "")


def test_jobs_in_a_queue_or_a_batch_are_no_orphans(redis, protocol, collect):
    protocol.submit()
    batch = protocol.claim()
    (waiting,) = protocol.submit()
    assert collect() + collect() == 0
    protocol.finish(batch)
    assert protocol.waiting() == [waiting]


def test_jobs_of_other_applications_are_not_touched(redis, protocol, collect):
    redis.hset(keys.key("job", "theirs"), mapping={"status": "queued", "origin": "default"})
    redis.hset(keys.key("job", "other"), mapping={"status": "queued", "origin": "theirs@v1"})
    assert collect() + collect() == 0
    assert redis.ttl(keys.key("job", "theirs")) == -1
    assert not redis.hexists(keys.key("job", "theirs"), "my_seen")


def test_a_job_that_rq_has_canceled_ends(redis, protocol, tend):
    job = protocol.enqueue(QUEUE)
    job.cancel()
    assert redis.ttl(job.key) == -1
    assert tend() == (0, 1)
    assert protocol.outcome(job.id) == ("canceled", "")
    assert 0 < redis.ttl(job.key) <= protocol.settings.result_ttl_s
    assert redis.zscore(keys.key("canceled", QUEUE), job.id) > 0
    assert tend() == (0, 0)


def test_ids_that_are_none_leave_a_hash_that_ends(redis, protocol):
    for job_id in ("x" * 65, "y" * 300, "no id!"):
        protocol.push(job_id)
    batch = protocol.claim()
    assert [(job.id, job.flaw) for job in batch.jobs] == [("x" * 65, "id")]
    protocol.finish(batch)
    assert len(protocol.quarantined()) == 2
    for job_id in ("x" * 65, "y" * 300, "no id!"):
        assert redis.ttl(keys.key("job", job_id)) > 0


def test_hostile_entries_are_removed_and_stop_nothing(redis, protocol, tend):
    redis.set(keys.key("job", "text"), "x")
    redis.expire(keys.key("job", "text"), 60)
    fields = {"timeout": "abc", "created_at": "nope", "data": b"\x80\x04pickle", "ttl": "-5"}
    hostile = {"status": "scheduled", "origin": "\xff", "meta": b"\x80\x04."} | fields
    redis.hset(keys.key("job", "hostile"), mapping=hostile)
    redis.hset(keys.key("job", "ended"), mapping={"status": "finished"})
    redis.expire(keys.key("job", "ended"), 60)
    entries = {"text": 1, "hostile": 1, "ended": 1, "gone": 1, "no id!": 1, b"\xff\xfe": 1}
    redis.zadd(keys.key("scheduled", QUEUE), entries)
    redis.zadd(keys.key("deferred", QUEUE), {name: 1 for name in entries if name != "hostile"})
    redis.set(keys.key("canceled", QUEUE), "no registry", ex=60)
    good = Queue("echo", connection=redis, serializer=JSONSerializer).enqueue_in(
        timedelta(seconds=0), TASK_NAME, instances=[[1.0]]
    )
    assert tend() == (2, 0)
    assert protocol.waiting("echo") == [good.id]
    assert not redis.exists(keys.key("scheduled", QUEUE), keys.key("deferred", QUEUE))
    batch = protocol.claim()
    assert [job.id for job in batch.jobs] == ["hostile"]
    protocol.finish(batch, [EndedJob("hostile", Failure("invalid_job", "a pickle"), 60)])
    redis.delete(keys.key("queue", "echo"), good.key)


@pytest.mark.parametrize("dependencies", ["{", '["a"', "[[]]", "[1]", "5", ""])
def test_a_deferred_job_with_unreadable_dependencies_fails(redis, protocol, tend, dependencies):
    fields = {"status": "deferred", "origin": QUEUE, "dependency_ids": dependencies, "data": call()}
    redis.hset(keys.key("job", "odd"), mapping=fields)
    redis.zadd(keys.key("deferred", QUEUE), {"odd": 1})
    assert tend() == (0, 1)
    assert protocol.outcome("odd") == ("failed", "invalid_job")


def test_a_queue_whose_scheduler_lock_is_held_is_left_to_its_holder(redis, protocol, tend):
    job = Queue(QUEUE, connection=redis, serializer=JSONSerializer).enqueue_in(
        timedelta(seconds=0), TASK_NAME, instances=[[1.0]]
    )
    redis.set(keys.key("scheduler_lock", QUEUE), "theirs", ex=60)
    assert tend() == (0, 0)
    redis.delete(keys.key("scheduler_lock", QUEUE))
    assert tend() == (1, 0)
    assert tend() == (0, 0), "queued once"
    assert protocol.waiting() == [job.id]


def test_a_look_where_nothing_waits_writes_nothing(redis, protocol, tend):
    before = redis.info("stats")["total_commands_processed"], redis.info("persistence")
    assert tend() == (0, 0)
    after = redis.info("persistence")
    assert after["rdb_changes_since_last_save"] == before[1]["rdb_changes_since_last_save"]
