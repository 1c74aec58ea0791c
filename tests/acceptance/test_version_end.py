"""Retire and delete a version that has a thousand jobs, with real workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq.suspension import resume, suspend

from models.publish.publisher import publish
from models.store.repository import Repository
from producer import Client, Handle
from tests.helpers import estimators
from tests.helpers.pools import running_pool
from tests.helpers.redis_server import patient
from tests.helpers.waiting import wait_until
from yard.cluster.presence import read_presence
from yard.contract import keys
from yard.contract.values import JobStatus, ModelRef, Request
from yard.registry import lifecycle

V1, V2 = ModelRef("echo", "v1"), ModelRef("echo", "v2")
COUNT = 1_000


@pytest.fixture
def store(tmp_path: Path, redis: Redis) -> Repository:
    store = Repository(tmp_path / "store")
    echo = estimators.Echo().fit([[1.0]])
    publish(store, redis, echo, "echo", "v1", [[1.0], [2.0]])
    publish(store, redis, echo, "echo", "v2", [[1.0], [2.0]], activate=True)
    return store


@pytest.fixture
def client(redis: Redis, redis_url: str, store: Repository, tmp_path: Path) -> Iterator[Client]:
    """A client of a running pool that has v1 loaded."""
    client = Client(patient(redis_url))
    with running_pool(redis_url, store.root, tmp_path):
        client.submit("echo", instances=[[1.0]], version="v1").wait(60)
        wait_until(lambda: holders(redis, V1), 60)
        yield client
    client.close()


def holders(redis: Redis, ref: ModelRef) -> Any:
    return read_presence(redis).holders(keys.queue_name(ref))


def queue(client: Client, redis: Redis) -> list[Handle]:
    """Queue jobs for both versions while no worker takes any."""
    suspend(redis)
    requests = [
        Request("echo", instances=[[float(number)]], version=version)
        for number in range(COUNT)
        for version in ("v1", "v2")
    ]
    handles = client.submit_many(requests)
    assert all(isinstance(handle, Handle) for handle in handles)
    return [handle for handle in handles if isinstance(handle, Handle)]


def endings(handles: list[Handle], within_s: float = 60) -> dict[str, list[str]]:
    """The outcomes of each version's jobs, all of which must end in time."""
    until = time.monotonic() + within_s
    found: dict[str, list[str]] = {}
    for place, handle in enumerate(handles):
        job = handle.wait(max(0.1, until - time.monotonic()))
        if job.result is not None:
            assert job.result["predictions"] == [float(place // 2)]
        ending = job.error.code if job.error else job.status.value
        found.setdefault(job.version or "", []).append(ending)
    return found


def push(redis: Redis, name: str) -> Callable[[], bytes | None]:
    """A job pushed without our client; gives its error once it has failed."""
    data = '["worker.tasks.predict", null, [], {"instances": [[1.0]]}]'
    job = keys.key("job", name)
    redis.hset(job, "created_at", "2026-01-02T03:04:05Z")
    redis.hset(job, mapping={"status": "queued", "origin": "echo@v1", "data": data})
    redis.rpush(keys.key("queue", "echo@v1"), name)
    return lambda: redis.hget(job, "my_error")  # type: ignore[return-value]


def test_a_retired_version_finishes_its_queue_is_unloaded_and_fails_later_pushes(client, redis):
    handles = queue(client, redis)
    lifecycle.retire(redis, V1)
    resume(redis)
    assert endings(handles) == {"v1": ["finished"] * COUNT, "v2": ["finished"] * COUNT}
    wait_until(lambda: not holders(redis, V1), 60, "the worker unloads it")
    error = wait_until(push(redis, "pushed-later"), 60, "the push is failed")
    assert b"version_gone" in error
    assert not holders(redis, V1)
    entry = client.catalog.versions("echo", fresh=True)["v1"]
    lifecycle.restore(redis, V1, entry.signature)
    job = client.submit("echo", instances=[[3.0]], version="v1").wait(60)
    assert job.status is JobStatus.FINISHED


def test_a_version_that_is_deleted_by_force_fails_its_queue_and_no_other(client, redis, store):
    handles = queue(client, redis)
    lifecycle.delete(redis, V1, force=True)
    store.delete(V1)
    wait_until(lambda: not holders(redis, V1), 60, "the worker unloads it")
    resume(redis)
    assert endings(handles) == {"v1": ["version_gone"] * COUNT, "v2": ["finished"] * COUNT}
    error = wait_until(push(redis, "pushed-later"), 60, "the push is failed")
    assert b"version_gone" in error


def test_jobs_of_a_version_that_is_deleted_while_they_run_end_all_the_same(client, redis, store):
    """Each on its own version, or with version_gone."""
    handles = queue(client, redis)
    resume(redis)
    wait_until(lambda: handles[0].get().ended_at, 60)
    lifecycle.delete(redis, V1, force=True)
    store.delete(V1)
    found = endings(handles)
    assert set(found["v1"]) <= {"finished", "version_gone"}
    assert found["v2"] == ["finished"] * COUNT


def test_a_name_that_is_published_anew_serves_the_new_bytes(client, redis, store):
    lifecycle.delete(redis, V1)
    store.delete(V1)
    publish(store, redis, estimators.Doubling().fit([[1.0]]), "echo", "v1", [[1.0], [2.0]])
    wait_until(
        lambda: (
            client.submit("echo", instances=[[21.0]], version="v1").wait(60)["predictions"]
            == [42.0]
        ),
        60,
        "the new bytes answer",
    )
