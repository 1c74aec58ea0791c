"""A version's end: at one instant it gets no more jobs, and nothing that it has is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from producer.client import Client
from tests.helpers.stand_ins import IRIS, NARROW, ROW, finish, new_client, publish, start
from tests.helpers.waiting import wait_until
from worker.queue.lease import Batch, Lease
from worker.queue.scheduler import QueueScheduler
from yard.contract import keys
from yard.contract.values import ModelRef
from yard.errors import (
    InvalidRoute,
    NoActiveVersion,
    UnknownModel,
    UnknownVersion,
    VersionInUse,
)
from yard.registry import catalog, lifecycle
from yard.routing import routes
from yard.settings import Settings
from yard.status import read_models

V1, V2 = ModelRef("iris", "v1"), ModelRef("iris", "v2")
QUEUE = "iris@v1"


@pytest.fixture
def client(redis: Redis, redis_url: str) -> Iterator[Client]:
    publish(redis, "iris", "v1", "v2", active="v2")
    with new_client(redis_url) as found:
        yield found


@pytest.fixture
def scheduler(redis: Redis) -> QueueScheduler:
    clock = iter(range(0, 10_000, 10))
    return QueueScheduler(redis, clock=lambda: float(next(clock)))


def submit(client: Client, version: str | None = None) -> str:
    return client.submit("iris", instances=[ROW], version=version).id


def state_of(redis: Redis) -> str | None:
    return lifecycle.read_states(redis).get(QUEUE, (None, ""))[0]


def test_a_retired_version_gets_no_jobs(client):
    assert lifecycle.retire(client.redis, V1)
    with pytest.raises(UnknownVersion, match="'v1' of model 'iris' is retired"):
        submit(client, "v1")
    assert client.get(submit(client)).version == "v2"
    assert catalog.read_versions(client.redis, "iris")["v1"].state == "retired"
    assert catalog.read_versions(client.redis, "iris")["v2"].state == "published"


def test_retiring_twice_changes_nothing(client):
    assert lifecycle.retire(client.redis, V1)
    assert not lifecycle.retire(client.redis, V1)


def test_a_restored_version_gets_jobs_again(client):
    lifecycle.retire(client.redis, V1)
    assert lifecycle.restore(client.redis, V1, IRIS)
    assert not lifecycle.restore(client.redis, V1, IRIS)
    assert client.get(submit(client, "v1")).version == "v1"
    assert catalog.read_versions(client.redis, "iris")["v1"].state == "published"


def test_registering_a_retired_version_leaves_it_retired(client):
    """Every start of a yard registers what the store has."""
    lifecycle.retire(client.redis, V1)
    publish(client.redis, "iris", "v1")
    assert catalog.read_versions(client.redis, "iris")["v1"].state == "retired"
    with pytest.raises(UnknownVersion):
        submit(client, "v1")


@pytest.mark.parametrize(
    ("key", "write", "reason"),
    [
        ("active", lambda r, key: r.set(key, "v1"), "it is the active version"),
        ("weights", lambda r, key: r.hset(key, "v1", "1"), "the weights name it"),
        ("weights", lambda r, key: r.hset(key, mapping={"v1": "0", "v2": "1"}), "weights name it"),
        ("aliases", lambda r, key: r.hset(key, "champion", "v1"), "the alias 'champion' stands"),
    ],
    ids=["active", "weighted", "named with no weight", "aliased"],
)
@pytest.mark.parametrize("step", [lifecycle.retire, lifecycle.delete])
def test_what_traffic_may_reach_stays(client, step: Any, key: str, write: Any, reason: str):
    write(client.redis, keys.key(key, "iris"))
    with pytest.raises(VersionInUse, match=reason):
        step(client.redis, V1)
    assert catalog.read_versions(client.redis, "iris")["v1"].state == "published"
    step(client.redis, V1, force=True)
    assert "v1" not in routes.read_route(client.redis, "iris").weights
    with pytest.raises(UnknownVersion):
        submit(client, "v1")


def test_the_last_good_route_keeps_its_version(client):
    """The key names nothing that is published, so traffic goes on as before."""
    client.redis.set(keys.key("active", "iris"), "v9")
    submit(client)
    with pytest.raises(VersionInUse, match="last good one"):
        lifecycle.retire(client.redis, V2)
    lifecycle.retire(client.redis, V2, force=True)
    assert routes.read_route(client.redis, "iris").mode == "none"
    with pytest.raises(NoActiveVersion):
        submit(client)


def test_a_model_whose_only_version_is_forced_out_routes_nowhere(redis, redis_url):
    publish(redis, "iris", "v1", active="v1")
    lifecycle.retire(redis, V1, force=True)
    with new_client(redis_url) as client, pytest.raises(NoActiveVersion):
        submit(client)
    route = routes.read_route(redis, "iris")
    assert (route.mode, route.active, route.problems) == ("none", None, ())


def test_a_key_set_by_hand_to_a_retired_version_is_not_obeyed(client):
    submit(client)
    lifecycle.retire(client.redis, V1)
    client.redis.set(keys.key("active", "iris"), "v1")
    assert client.get(submit(client)).version == "v2"
    route = routes.read_route(client.redis, "iris")
    assert route.problems == ("active is 'v1', which is retired or deleted",)
    client.redis.hset(keys.key("weights", "iris"), "v1", 1)
    assert "which is retired" in routes.read_route(client.redis, "iris").problems[-1]
    lifecycle.restore(client.redis, V1, IRIS)
    assert client.get(submit(client)).version == "v1"


def test_no_route_and_no_alias_is_set_to_a_retired_version(client):
    lifecycle.retire(client.redis, V1)
    with pytest.raises(InvalidRoute):
        routes.set_route(client.redis, "iris", active="v1")
    with pytest.raises(InvalidRoute):
        routes.set_alias(client.redis, "iris", "champion", "v1")


def test_rollback_does_not_go_back_to_a_retired_version(client):
    routes.set_route(client.redis, "iris", active="v1")
    routes.set_route(client.redis, "iris", active="v2")
    lifecycle.retire(client.redis, V1)
    with pytest.raises(InvalidRoute):
        routes.rollback(client.redis, "iris")
    assert client.get(submit(client)).version == "v2"


# What is queued


def test_a_retired_versions_queue_is_looked_at_until_it_is_empty(client, redis, scheduler):
    job = submit(client, "v1")
    lifecycle.retire(redis, V1)
    assert set(scheduler.queues()) == {"iris@v2", "iris", QUEUE}
    assert state_of(redis) == "retired"
    start(redis, job)  # a worker has it; should it die, the job comes back
    assert QUEUE not in scheduler.queues()
    scheduler.queues()
    assert state_of(redis) == "retired"
    finish(redis, job, {"predictions": ["setosa"]})
    scheduler.queues()
    assert state_of(redis) == "drained"
    scheduler.queues()
    assert scheduler.dropped == {QUEUE}
    scheduler.mark_unloaded(QUEUE)
    assert set(scheduler.queues()) == {"iris@v2", "iris"}
    assert scheduler.dropped == frozenset()


def test_what_is_pushed_onto_a_drained_queue_is_looked_at(client, redis, scheduler):
    lifecycle.retire(redis, V1)
    wait_until(lambda: scheduler.queues() and state_of(redis) == "drained")
    redis.rpush(keys.key("queue", QUEUE), "some-job")
    assert QUEUE in scheduler.queues()


def test_a_deleted_version_is_gone_at_once(client, redis, scheduler):
    lifecycle.delete(redis, V1)
    assert list(catalog.read_versions(redis, "iris")) == ["v2"]
    with pytest.raises(UnknownVersion):
        submit(client, "v1")
    with pytest.raises(UnknownVersion):
        lifecycle.delete(redis, V1)
    assert keys.key("queue", QUEUE).encode() not in redis.smembers(keys.QUEUES)
    scheduler.queues()
    assert scheduler.dropped == {QUEUE}


def test_a_version_with_jobs_is_not_deleted(client, redis):
    job = submit(client, "v1")
    with pytest.raises(VersionInUse, match="1 jobs wait for it"):
        lifecycle.delete(redis, V1)
    lifecycle.retire(redis, V1)
    with pytest.raises(VersionInUse, match="1 jobs wait for it"):
        lifecycle.delete(redis, V1)
    start(redis, job)
    with pytest.raises(VersionInUse, match="1 of its jobs are running"):
        lifecycle.delete(redis, V1)
    finish(redis, job, {"predictions": ["setosa"]})
    lifecycle.delete(redis, V1)


def test_the_last_version_takes_its_models_keys_along(redis, redis_url):
    publish(redis, "iris", "v1", active="v1")
    publish(redis, "wine", "v1", active="v1")
    routes.set_alias(redis, "iris", "champion", "v1")
    redis.rpush(keys.key("queue", "iris"), "some-job")
    routes.read_route(redis, "iris")
    with pytest.raises(VersionInUse, match=r"active.*champion.*1 jobs wait at the door"):
        lifecycle.delete(redis, V1)
    redis.delete(keys.key("queue", "iris"))
    lifecycle.delete(redis, V1, force=True)
    assert catalog.model_names(redis) == ["wine"]
    left = [key.decode() for key in redis.scan_iter("modelyard:*:iris")]
    assert left == []
    with new_client(redis_url) as client, pytest.raises(UnknownModel):
        submit(client)


def test_the_unversioned_queue_of_a_deleted_model_is_looked_at_while_jobs_wait(redis, scheduler):
    publish(redis, "iris", "v1", active="v1")
    redis.rpush(keys.key("queue", "iris"), "some-job")
    lifecycle.delete(redis, V1, force=True)
    assert scheduler.queues() == ["iris"]


def test_a_name_that_is_published_anew_makes_workers_let_go_of_the_old_bytes(
    client, redis, scheduler
):
    scheduler.queues()
    lifecycle.delete(redis, V1)
    catalog.register(redis, V1, b'{"signature": {}}', NARROW)  # between two looks of a worker
    scheduler.queues()
    assert scheduler.dropped == {QUEUE}
    scheduler.mark_unloaded(QUEUE)
    scheduler.queues()
    assert scheduler.dropped == frozenset()
    assert redis.hexists(keys.key("signatures", "iris"), "v1")


def test_deleted_versions_are_forgotten_after_a_while(client, redis):
    lifecycle.delete(redis, V1)
    redis.hset(keys.RETIRED, QUEUE, "deleted 1")
    redis.hset(keys.RETIRED, "iris@v0", "revived 1")
    redis.hset(keys.RETIRED, "iris@v8", "drained 1")
    lifecycle.retire(redis, V2, force=True)
    assert lifecycle.read_states(redis).keys() == {"iris@v2", "iris@v8"}


@pytest.mark.parametrize("value", ["string", "rubbish"])
def test_rubbish_in_the_place_of_the_states_harms_nobody(client, redis, scheduler, value):
    if value == "string":
        redis.set(keys.RETIRED, "x")
    else:
        redis.hset(keys.RETIRED, mapping={"": "", "a b": "retired 1", "iris@v1": "x", "iris": "y"})
    assert set(scheduler.queues()) == {"iris@v1", "iris@v2", "iris"}
    submit(client, "v1")
    with pytest.raises(UnknownVersion):
        submit(client, "v9")
    assert lifecycle.read_states(redis) == {}
    lifecycle.retire(redis, V1)
    assert state_of(redis) == "retired"
    scheduler.queues()


@pytest.mark.parametrize("step", [lifecycle.retire, lifecycle.delete])
def test_what_is_not_published_cannot_end(client, step: Any):
    with pytest.raises(UnknownVersion):
        step(client.redis, ModelRef("iris", "v9"))
    with pytest.raises(UnknownModel):
        step(client.redis, ModelRef("wine", "v1"))


def test_no_job_is_accepted_once_retiring_has_returned(client, redis, redis_url):
    """Submissions go on in other threads all the while; each was accepted before, or refused."""
    accepted: list[str] = []
    retired_at: list[int] = []

    def submit_all() -> None:
        with new_client(redis_url) as own:
            for _ in range(10_000):
                try:
                    accepted.append(submit(own, "v1"))
                except UnknownVersion:
                    return

    threads = [threading.Thread(target=submit_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(accepted) > 50)
    lifecycle.retire(redis, V1)
    retired_at.append(redis.llen(keys.key("queue", QUEUE)))
    for thread in threads:
        thread.join()
    assert redis.llen(keys.key("queue", QUEUE)) == retired_at[0] == len(accepted)


def test_an_unversioned_job_that_asks_for_a_retired_version_is_version_gone(client, redis):
    lifecycle.retire(redis, V1)
    settings = Settings.load({})
    lease = Lease(redis, "w1", settings)
    redis.hset(
        keys.key("job", "asked"), mapping={"status": "queued", "origin": "iris", "data": "[]"}
    )
    redis.rpush(keys.key("queue", "iris"), "asked")
    batch = lease.claim(["iris"])
    assert isinstance(batch, Batch)
    problems = lease.forward(batch, "iris", [("asked", "v1", 0.5, 1, "")])
    assert problems == {"asked": "version_gone"}


def test_the_table_and_the_http_catalogue_tell_the_state(client, redis):
    lifecycle.retire(redis, V1)
    versions = read_models(redis)[0]["versions"]
    assert [version["state"] for version in versions] == ["retired", "published"]
