"""A pool looks at the routes, so that a change is known although no job asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from redis import Redis

from tests.helpers.pools import running_pool
from tests.helpers.stand_ins import ROW, new_client, publish
from tests.helpers.waiting import wait_until
from yard.contract import keys


def plan(redis: Redis) -> Any:
    """The newest route of iris in its history."""
    newest: Any = redis.xrevrange(keys.key("history", "iris"), count=1)
    return newest[0][1][b"plan"] if newest else b""


def test_a_change_without_traffic_is_in_the_history_and_survives_a_bad_one(
    redis: Redis, redis_url: str, tmp_path: Path
):
    publish(redis, "iris", "v1", "v2")
    with running_pool(redis_url, tmp_path, tmp_path, pool_min=0) as pool:
        redis.set(keys.key("active", "iris"), "v1")
        wait_until(lambda: plan(redis) == b"v1=1", what="the route is noticed")
        redis.hset(keys.key("weights", "iris"), mapping={"v1": 1, "v2": 1})
        wait_until(lambda: plan(redis) == b"v1=1 v2=1", what="the split is noticed")
        redis.hset(keys.key("weights", "iris"), "v9", 1)
        wait_until(lambda: "weights name 'v9'" in pool.log.read_text(), what="the pool says so")
        redis.set(keys.key("active", "iris"), "")
        with new_client(redis_url) as client:
            assert client.submit("iris", instances=[ROW]).version in {"v1", "v2"}
