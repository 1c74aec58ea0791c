"""A key of ours that was overwritten: workers say so, and go on once it is mended."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from redis import Redis

from models.publish.publisher import publish
from models.store.repository import Repository
from producer import Client
from tests.helpers import estimators
from tests.helpers.pools import running_pool
from tests.helpers.waiting import wait_until
from yard.contract import keys


def test_leases_that_were_overwritten_are_named_and_work_goes_on_once_they_are_mended(
    redis: Redis, redis_url: str, tmp_path: Path
):
    echo = estimators.Echo().fit([[1.0]])
    publish(Repository(tmp_path / "store"), redis, echo, "echo", "v1", [[1.0]], activate=True)
    with running_pool(redis_url, tmp_path / "store", tmp_path) as pool:
        before = pool.wait_for_workers(redis)
        redis.delete(keys.LEASES)
        redis.set(keys.LEASES, "x")
        with closing(Client(redis_url)) as client:
            handle = client.submit("echo", instances=[[7.0]])
            wait_until(lambda: "Redis refuses: " in pool.log.read_text(), what="the log says so")
            assert "`modelyard doctor` names the key" in pool.log.read_text()
            assert "Redis is away" not in pool.log.read_text()
            redis.delete(keys.LEASES)
            assert handle.wait(30).result == {"predictions": [7.0]}
        assert pool.workers(redis) == before
