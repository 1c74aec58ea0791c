"""Versions that share workers, and pools that share a Redis: real processes, a real Redis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from models.publish.publisher import publish
from models.store.repository import Repository
from producer import Client, Handle
from tests.helpers import estimators
from tests.helpers.pools import running_pool
from tests.helpers.waiting import wait_until
from yard.contract import keys
from yard.contract.values import Request
from yard.errors import ModelyardError

#: Seconds that a batch takes, and jobs in one.
PACE_S, BATCH = 0.05, 8


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def version(redis: Redis, store: Path) -> Callable[..., str]:
    """Publishes a version of a slow model; its queue."""

    def version(name: str, pace_s: float = PACE_S) -> str:
        echo = estimators.Echo(pace_s=pace_s).fit([[1.0]])
        publish(Repository(store), redis, echo, "echo", name, [[1.0]], activate=True)
        return f"echo@{name}"

    return version


def submit(client: Client, version: str, count: int, number: float | None = None) -> list[Handle]:
    """Jobs that echo one number, or the first whole ones."""
    numbers = [float(i) if number is None else number for i in range(count)]
    requests = [Request("echo", instances=[[one]], version=version) for one in numbers]
    handles = []
    for outcome in client.submit_many(requests):
        assert not isinstance(outcome, ModelyardError)
        handles.append(outcome)
    return handles


def ended(redis: Redis, queue: str) -> int:
    count: int = redis.zcard(keys.key("finished", queue))
    return count


def test_a_cold_version_is_answered_while_a_hot_one_keeps_the_only_worker_busy(
    client, redis, redis_url, store, tmp_path, version
):
    hot, cold = version("hot"), version("cold")
    settings = {"batch_jobs": BATCH, "target_wait_s": 0.3}
    with running_pool(redis_url, store, tmp_path, **settings):
        submit(client, "hot", 300 * BATCH)
        wait_until(lambda: ended(redis, hot) > 0, 60, "the hot version is served")
        for _ in range(3):  # the first has to be loaded, the others take their turn
            assert submit(client, "cold", 1)[0].wait(60)["predictions"] == [0.0]
        assert redis.llen(keys.key("queue", hot)) > 0, "the hot version had work all the time"
    assert ended(redis, cold) == 3


def test_three_versions_share_two_workers(client, redis, redis_url, store, tmp_path, version):
    queues = [version(name) for name in ("a", "b", "c")]
    settings = {"batch_jobs": BATCH, "target_wait_s": 0.3, "pool_min": 2, "pool_max": 2}
    for name in ("a", "b", "c"):
        submit(client, name, 40 * BATCH)
    with running_pool(redis_url, store, tmp_path, **settings):
        wait_until(lambda: max(ended(redis, q) for q in queues) == 40 * BATCH, 60, "one is done")
        done = [ended(redis, queue) for queue in queues]
        assert min(done) > 10 * BATCH, f"each has had its part: {done}"
        wait_until(lambda: sum(ended(redis, q) for q in queues) == 120 * BATCH, 60, "all are done")


def test_two_pools_do_not_both_start_a_worker_for_the_same_work(
    client, redis, redis_url, store, tmp_path, version
):
    queue = version("v1")
    settings = {"pool_min": 0, "pool_max": 3, "target_wait_s": 5.0, "batch_jobs": BATCH}
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
    with (
        running_pool(redis_url, store, folders[0], **settings) as one,
        running_pool(redis_url, store, folders[1], **settings) as other,
    ):
        wait_until(lambda: redis.zcard(keys.PRESENCE) == 2, 60, "both pools are there")
        submit(client, "v1", 10 * BATCH)
        wait_until(lambda: ended(redis, queue) == 10 * BATCH, 60, "all is done")
        started = sum(pool.log.read_text().count("worker started") for pool in (one, other))
        assert started == 1


def test_workers_tell_how_fast_they_are(client, redis, redis_url, store, tmp_path, version):
    queue = version("v1")
    with running_pool(redis_url, store, tmp_path):
        submit(client, "v1", 3)
        wait_until(lambda: redis.get(keys.key("pace", queue)), 60, "its pace is told")


def test_long_batches_leave_one_of_two_workers_to_short_ones(
    client, redis, redis_url, store, tmp_path, version
):
    """Slow jobs enough for both workers: fast ones are answered while hardly any of them ends."""
    slow, fast = version("slow", 0.0), version("fast", 0.001)
    settings = {"batch_jobs": 1, "pool_min": 2, "pool_max": 2}
    with running_pool(redis_url, store, tmp_path, **settings) as pool:
        pool.wait_for_workers(redis, 2)
        submit(client, "slow", 60, estimators.SLOW)

        def is_guarded() -> bool:
            submit(client, "fast", 1)[0].wait(60)
            return any(redis.scan_iter(keys.key("off", "*")))

        wait_until(is_guarded, 60, "a worker is told to keep off")
        held = len(client.redis.keys(keys.key("off", "*")))
        assert held == 1
        wait_until(lambda: _ended_while(client, redis, slow, 10) <= 1, 60, "fast ones pass")
        assert redis.llen(keys.key("queue", slow)) > 0, "slow ones waited all the time"
    assert ended(redis, fast) > 0


def _ended_while(client: Client, redis: Redis, queue: str, count: int) -> int:
    """Jobs of a queue that end while so many fast ones are answered one after the other."""
    before = ended(redis, queue)
    for _ in range(count):
        submit(client, "fast", 1)[0].wait(60)
    return ended(redis, queue) - before
