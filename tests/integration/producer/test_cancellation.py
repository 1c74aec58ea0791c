"""Canceling: a queued job never runs, a started one's output is dropped, an ended one stays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import rq
from redis import Redis

from producer.client import Client
from tests.helpers.redis_server import RedisServer
from tests.helpers.stand_ins import ROW, fail, finish, new_client, publish, queued, start
from yard.contract import keys
from yard.contract.values import JobStatus
from yard.errors import InvalidName, JobEnded, Unavailable, UnknownJob


@pytest.fixture
def client(redis: Redis, redis_url: str) -> Iterator[Client]:
    publish(redis, "iris", "v1", active="v1")
    with new_client(redis_url) as made:
        yield made


def test_a_queued_job_leaves_its_queue(client: Client, redis: Redis):
    first, second, third = (client.submit("iris", instances=[ROW]) for _ in range(3))
    job = second.cancel()
    assert job.status is JobStatus.CANCELED
    assert job.ended_at is not None
    assert job.error is None
    assert job.result is None
    assert queued(redis, "iris@v1") == [first.id, third.id]


def test_a_canceled_job_lives_as_long_as_a_result(client: Client, redis: Redis):
    handle = client.submit("iris", instances=[ROW])
    handle.cancel()
    for family in ("job", "results"):
        assert 0 < redis.ttl(keys.key(family, handle.id)) <= client.settings.result_ttl_s


def test_rq_sees_a_canceled_job(client: Client, redis: Redis):
    handle = client.submit("iris", instances=[ROW])
    handle.cancel()
    job = rq.job.Job.fetch(handle.id, connection=redis, serializer="json")
    assert job.is_canceled
    registry = rq.registry.CanceledJobRegistry("iris@v1", connection=redis, serializer="json")
    assert registry.get_job_ids() == [handle.id]
    result = job.latest_result()
    assert result is not None
    assert result.type is rq.results.Result.Type.STOPPED


def test_canceling_takes_the_deadline_away(client: Client, redis: Redis):
    client.submit("iris", instances=[ROW], deadline_ms=1000).cancel()
    assert redis.zcard(keys.DEADLINES) == 0


def test_canceling_twice_is_canceling_once(client: Client, redis: Redis):
    handle = client.submit("iris", instances=[ROW])
    assert handle.cancel() == handle.cancel()
    assert redis.xlen(keys.key("results", handle.id)) == 1


def test_a_started_job_loses_its_token_so_that_its_output_is_dropped(client: Client, redis: Redis):
    handle = client.submit("iris", instances=[ROW])
    start(redis, handle.id)
    assert handle.cancel().status is JobStatus.CANCELED
    assert redis.hget(keys.key("job", handle.id), "my_token") == b""
    assert redis.zcard(keys.key("wip", "iris@v1")) == 0


def test_an_ended_job_cannot_be_canceled(client: Client, redis: Redis):
    done, failed = (client.submit("iris", instances=[ROW]) for _ in range(2))
    finish(redis, done.id, {"predictions": [1]})
    fail(redis, failed.id, "predict_failed", "no")
    with pytest.raises(JobEnded, match=f"{done.id} has finished already"):
        done.cancel()
    with pytest.raises(JobEnded, match=f"{failed.id} has failed already"):
        failed.cancel()
    assert done.get()["predictions"] == [1]


def test_a_job_that_rq_stopped_counts_as_canceled(client: Client, redis: Redis):
    handle = client.submit("iris", instances=[ROW])
    job = keys.key("job", handle.id)
    redis.hset(job, "status", "stopped")
    redis.expire(job, 60)
    assert handle.cancel().status is JobStatus.CANCELED


def test_a_job_that_never_was_is_unknown_and_leaves_no_key(client: Client, redis: Redis):
    before = redis.dbsize()
    with pytest.raises(UnknownJob):
        client.cancel("0" * 32)
    assert redis.dbsize() == before


@pytest.mark.parametrize("job_id", ["bad id!", "../../x", "", "a:b:c", "x" * 65])
def test_an_id_outside_the_alphabet_is_refused(client: Client, job_id: str):
    with pytest.raises(InvalidName):
        client.cancel(job_id)


def test_the_registry_of_canceled_jobs_drops_what_has_expired(client: Client, redis: Redis):
    registry = keys.key("canceled", "iris@v1")
    redis.zadd(registry, {"long-ago": 1})
    handle = client.submit("iris", instances=[ROW])
    handle.cancel()
    assert redis.zrange(registry, 0, -1) == [handle.id.encode()]


def test_an_idempotency_key_still_names_a_canceled_job(client: Client, redis: Redis):
    handle = client.submit("iris", instances=[ROW], idempotency_key="k")
    handle.cancel()
    again = client.submit("iris", instances=[ROW], idempotency_key="k")
    assert again.id == handle.id
    assert queued(redis, "iris@v1") == []


def test_without_redis_canceling_is_unavailable(
    client: Client, redis: Redis, redis_server: RedisServer
):
    handle = client.submit("iris", instances=[ROW])
    redis_server.kill()
    with pytest.raises(Unavailable):
        handle.cancel()
