"""The latest jobs, found in RQ's queues and registries without a scan of the database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from producer.client import Client
from producer.recent_jobs import MOST_JOBS, list_jobs
from tests.helpers.stand_ins import (
    ROW,
    commands_sent,
    fail,
    finish,
    new_client,
    publish,
    start,
)
from yard.contract import keys
from yard.contract.values import JobStatus
from yard.errors import InvalidName, UnknownModel


@pytest.fixture
def client(redis: Redis, redis_url: str) -> Iterator[Client]:
    publish(redis, "iris", "v1", "v2", active="v1")
    publish(redis, "other", "v1", active="v1")
    with new_client(redis_url) as made:
        yield made


@pytest.fixture
def jobs(client: Client, redis: Redis) -> dict[str, str]:
    """One job of each status, and one of another version and model; the oldest first."""
    names = ["queued", "started", "finished", "failed", "canceled"]
    made = {name: client.submit("iris", instances=[ROW]).id for name in names}
    start(redis, made["started"])
    finish(redis, made["finished"], {"predictions": [1]})
    fail(redis, made["failed"], "predict_failed", "no")
    client.cancel(made["canceled"])
    made["v2"] = client.submit("iris", instances=[ROW], version="v2").id
    made["other"] = client.submit("other", instances=[ROW]).id
    return made


def test_the_newest_job_comes_first_whatever_its_status(redis: Redis, jobs: dict[str, str]):
    assert [job.id for job in list_jobs(redis)] == list(jobs.values())[::-1]


def test_jobs_of_one_model_only(redis: Redis, jobs: dict[str, str]):
    assert [job.id for job in list_jobs(redis, "other")] == [jobs["other"]]
    assert jobs["other"] not in {job.id for job in list_jobs(redis, "iris")}


@pytest.mark.parametrize("status", JobStatus)
def test_jobs_of_one_status_only(redis: Redis, jobs: dict[str, str], status: JobStatus):
    found = list_jobs(redis, "iris", status)
    assert {job.status for job in found} == {status}
    assert found[-1].id == jobs[status.value]


def test_jobs_of_several_statuses(redis: Redis, jobs: dict[str, str]):
    found = list_jobs(redis, "iris", [JobStatus.FAILED, JobStatus.FINISHED])
    assert [job.id for job in found] == [jobs["failed"], jobs["finished"]]
    assert found[0].error is not None
    assert found[1].result == {"predictions": [1]}


def test_a_job_is_listed_as_it_stands_not_as_it_was_filed(redis: Redis, jobs: dict[str, str]):
    redis.delete(keys.key("results", jobs["finished"]))
    assert list_jobs(redis, "iris", JobStatus.FINISHED) == []


def test_the_limit_keeps_the_newest(client: Client, redis: Redis, jobs: dict[str, str]):
    assert [job.id for job in list_jobs(redis, limit=2)] == [jobs["other"], jobs["v2"]]
    newest = [client.submit("iris", instances=[ROW]).id for _ in range(30)][::-1]
    assert [job.id for job in list_jobs(redis, limit=10)] == newest[:10]
    assert len(list_jobs(redis, limit=0)) == 1
    assert len(list_jobs(redis, limit=10 * MOST_JOBS)) == 37


def test_a_listing_is_four_round_trips_and_scans_nothing(redis: Redis, jobs: dict[str, str]):
    with commands_sent(redis) as sent:
        list_jobs(redis, limit=3)
    names = {command.split()[0] for command in sent}
    assert names <= {"SMEMBERS", "LRANGE", "ZREVRANGE", "HGET", "EVAL", "EVALSHA"}
    queues, statuses = 5, 5
    assert len(sent) <= 2 + queues * statuses + len(jobs) + 2 * 3


def test_jobs_that_others_pushed_are_listed_too(redis: Redis, jobs: dict[str, str]):
    pipe = redis.pipeline()
    pipe.hset(
        keys.key("job", "theirs"),
        mapping={"status": "queued", "origin": "iris", "created_at": "2099-01-01T00:00:00Z"},
    )
    pipe.rpush(keys.key("queue", "iris"), "theirs")
    pipe.execute()
    newest = list_jobs(redis, limit=1)[0]
    assert (newest.id, newest.version, newest.queue) == ("theirs", None, "iris")


def test_a_date_without_a_zone_or_none_at_all_does_no_harm(redis: Redis, jobs: dict[str, str]):
    for job_id, date in [("naive", "2098-01-01T00:00:00"), ("undated", "nope")]:
        redis.hset(keys.key("job", job_id), mapping={"status": "queued", "created_at": date})
        redis.rpush(keys.key("queue", "iris@v1"), job_id)
    ids = [job.id for job in list_jobs(redis)]
    assert ids[0] == "naive"
    assert ids[-1] == "undated"


def test_what_is_no_job_is_left_out(redis: Redis, jobs: dict[str, str]):
    queue = keys.key("queue", "iris@v1")
    redis.rpush(queue, "bad id!", b"\xff\xfe", "", "../../x", "x" * 10_000, "gone")
    redis.hset("rq:job:bad id!", mapping={"status": "queued", "created_at": "2026-01-02"})
    redis.set(keys.key("job", "no-hash"), "x", ex=60)
    redis.rpush(queue, "no-hash")
    redis.zadd(keys.key("finished", "iris@v1"), {"expired": 9e9})
    assert {job.id for job in list_jobs(redis)} == set(jobs.values())


def test_keys_of_another_type_are_left_out(redis: Redis, jobs: dict[str, str]):
    redis.set(keys.key("queue", "iris@v2"), "x")
    redis.set(keys.key("failed", "iris@v1"), "x")
    left = set(jobs.values()) - {jobs["v2"], jobs["failed"]}
    assert {job.id for job in list_jobs(redis)} == left


def test_queues_of_others_are_left_out(redis: Redis, jobs: dict[str, str]):
    redis.sadd(keys.QUEUES, "rq:queue:mail", "rq:queue:Other Queue", b"\xff", "iris@v1")
    redis.hset(keys.key("job", "mail-1"), mapping={"status": "queued", "created_at": "2099-01-01"})
    redis.rpush("rq:queue:mail", "mail-1")
    assert {job.id for job in list_jobs(redis)} == set(jobs.values())


def test_an_empty_yard_has_no_jobs(redis: Redis):
    assert list_jobs(redis) == []


def test_an_unknown_model_is_an_error(client: Client, redis: Redis):
    with pytest.raises(UnknownModel):
        list_jobs(redis, "nosuch")
    with pytest.raises(InvalidName):
        list_jobs(redis, "../iris")
