"""A submission that Redis, or a key, refuses leaves nothing behind, or the whole job."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError, ReadOnlyError

from producer import Client, Handle
from tests.helpers.redis_server import RedisServer
from tests.helpers.stand_ins import ROW, new_client, publish, queued
from yard.broker.lua import Script
from yard.contract import keys
from yard.contract.ids import new_id
from yard.contract.values import JobStatus, Request
from yard.errors import ModelyardError, Unavailable, UnknownJob

V1 = "iris@v1"


@pytest.fixture
def client(redis: Redis, redis_url: str) -> Iterator[Client]:
    publish(redis, "iris", "v1", active="v1")
    publish(redis, "other", "v1", active="v1")
    with new_client(redis_url) as made:
        yield made


def kinds(outcomes: list[Handle | ModelyardError]) -> list[type]:
    return [type(outcome) for outcome in outcomes]


@pytest.mark.leaks_keys
def test_a_job_is_accepted_where_deadlines_cannot_be_watched(client, redis):
    redis.set(keys.DEADLINES, "no sorted set")
    handle = client.submit("iris", instances=[ROW], deadline_ms=60_000)
    assert queued(redis, V1) == [handle.id]
    assert redis.hexists(keys.key("job", handle.id), "my_deadline"), "claims look at it"


@pytest.mark.leaks_keys
def test_a_job_is_accepted_where_its_queue_cannot_be_listed_for_rqs_tools(client, redis):
    redis.delete(keys.QUEUES)
    redis.set(keys.QUEUES, "no set")
    handle = client.submit("iris", instances=[ROW])
    assert queued(redis, V1) == [handle.id]


def test_a_queue_of_another_type_refuses_its_own_jobs_and_no_others(client, redis):
    redis.set(keys.key("queue", V1), "no list", ex=60)
    wanted = [Request("other", [ROW]), Request("iris", [ROW]), Request("other", [ROW])]
    outcomes = client.submit_many(wanted)
    assert kinds(outcomes) == [Handle, Unavailable, Handle]
    refused = outcomes[1]
    assert isinstance(refused, Unavailable)
    assert "rq:queue:iris@v1 is no list" in refused.message
    assert refused.job_ids == (), "it was certainly not queued"
    assert len(queued(redis, "other@v1")) == 2


@pytest.mark.parametrize("key", [keys.key("route", "iris"), keys.key("signatures", "iris")])
def test_keys_of_a_model_of_another_type_refuse_its_own_jobs_and_no_others(client, redis, key):
    client.submit_many([Request("iris", [ROW])])
    redis.set(key, "no hash", ex=60)
    outcomes = client.submit_many([Request("other", [ROW]), Request("iris", [ROW])])
    assert kinds(outcomes) == [Handle, Unavailable]


def test_an_id_whose_key_holds_something_else_is_refused_again_and_again(client, redis):
    job_id = new_id()
    redis.set(keys.key("job", job_id), "no hash", ex=60)
    for _ in range(2):
        with pytest.raises(Unavailable):
            client.submit_request(Request("iris", [ROW]), job_id)
    assert queued(redis, V1) == []


def test_an_idempotency_key_that_holds_something_else_is_replaced(client, redis):
    first = client.submit("iris", instances=[ROW], idempotency_key="k")
    (kept,) = redis.scan_iter(keys.PREFIXES["idempotency"] + "*")
    redis.delete(kept)
    redis.rpush(kept, "no string")
    second = client.submit("iris", instances=[ROW], idempotency_key="k")
    assert client.submit("iris", instances=[ROW], idempotency_key="k").id == second.id
    assert queued(redis, V1) == [first.id, second.id]


def test_a_full_redis_leaves_nothing_and_the_same_id_is_accepted_when_there_is_room(client, redis):
    client.catalog.versions("iris")
    redis.delete(keys.key("route", "iris"))  # it is worked out again, and written
    before = set(redis.scan_iter())
    job_id = new_id()
    request = Request("iris", [ROW], deadline_ms=60_000, idempotency_key="k")
    redis.config_set("maxmemory", 1)
    with pytest.raises(Unavailable, match="full"):
        client.submit_request(request, job_id)
    redis.config_set("maxmemory", 0)
    assert set(redis.scan_iter()) == before
    with pytest.raises(UnknownJob):
        client.get(job_id)
    assert client.submit_request(request, job_id).id == job_id
    assert queued(redis, V1) == [job_id]


def test_what_redis_refuses_altogether_is_told_by_its_own_code(redis, redis_server):
    """Clients that follow the primary must see that it has become a replica."""
    publish(redis, "iris", "v1", active="v1")
    entry: Any = redis.hget(keys.key("signatures", "iris"), "v1")
    arguments: list[Any] = [9, 9, 9, 9, 9, "id", "iris", "", 0.5, entry, 1, "", "", "", b"x"]
    submit = Script("producer", "submit")
    redis.config_set("maxmemory", 1)
    with pytest.raises(OutOfMemoryError):
        submit(redis, arguments)
    redis.config_set("maxmemory", 0)
    redis.replicaof("127.0.0.1", str(redis_server.port + 1))
    try:
        with pytest.raises(ReadOnlyError):
            submit(redis, arguments)
    finally:
        redis.replicaof("NO", "ONE")


class TestLostAnswers:
    """After a time-out, Redis may have run the call, or may still run it."""

    def test_the_error_names_the_job_that_may_have_been_queued(
        self, client, redis, redis_server: RedisServer
    ):
        client.submit("iris", instances=[ROW])
        redis_server.pause()
        try:
            with pytest.raises(Unavailable) as caught:
                client.submit("iris", instances=[ROW])
        finally:
            redis_server.resume()
        (job_id,) = caught.value.job_ids
        assert queued(redis, V1)[1:] == [job_id], "it was in Redis' buffers"
        assert client.get(job_id).status is JobStatus.QUEUED
        assert client.submit_request(Request("iris", [ROW]), job_id).id == job_id
        assert len(queued(redis, V1)) == 2, "the same id is the same job"

    def test_the_error_names_what_was_queued_before_and_may_have_been(
        self, client, redis, redis_server: RedisServer
    ):
        def requests() -> Iterator[Request]:
            for count in range(66):
                if count == 65:  # one chunk was queued
                    redis_server.pause()
                yield Request("iris", [ROW])

        client.submit("iris", instances=[ROW])
        try:
            with pytest.raises(Unavailable) as caught:
                client.submit_many(requests())
        finally:
            redis_server.resume()
        assert len(set(caught.value.job_ids)) == 66
        assert set(queued(redis, V1)[1:65]) < set(caught.value.job_ids)

    def test_an_error_before_anything_was_sent_names_no_job(
        self, client, redis, redis_server: RedisServer
    ):
        redis_server.pause()
        try:
            with pytest.raises(Unavailable) as caught:
                client.submit("iris", instances=[ROW])  # the catalogue was never read
        finally:
            redis_server.resume()
        assert caught.value.job_ids == ()
