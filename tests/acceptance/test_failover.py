"""A gateway, a pool and clients on a Redis that Sentinels watch, over the end of its primary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from models.publish.publisher import publish
from models.store.repository import Repository
from producer.client import Client
from tests.helpers import estimators
from tests.helpers.gateways import RunningGateway, running_gateway
from tests.helpers.pools import running_pool
from tests.helpers.sentinels import WatchedRedis, watched_redis
from tests.helpers.waiting import wait_until
from yard.broker import connections
from yard.errors import ModelyardError

PREDICT = "/v1/models/echo/predict"


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[WatchedRedis]:
    with watched_redis(tmp_path) as found:
        with connections.steady(found.url) as redis:
            echo = estimators.Echo().fit([[1.0]])
            repository = Repository(tmp_path / "store")
            publish(repository, redis, echo, "echo", "v1", [[1.0], [2.0]], activate=True)
        yield found


def predicted(gateway: RunningGateway, number: float) -> list[float] | None:
    """Its prediction; None while it has no Redis."""
    answer = gateway.call("POST", PREDICT, {"instances": [[number]]})
    assert answer.status in (200, 503, 504), answer
    return answer.json["result"]["predictions"] if answer.status == 200 else None


def test_a_failover_is_an_outage_that_all_get_over_with_the_jobs_that_were_replicated(
    watched, tmp_path
):
    old = watched.primary()
    with (
        running_gateway(watched.url, tmp_path) as gateway,
        running_pool(watched.url, tmp_path / "store", tmp_path) as pool,
        closing(Client(watched.url)) as client,
    ):
        wait_until(lambda: predicted(gateway, 1.0) == [1.0], 60, "the yard serves")
        running = client.submit("echo", instances=[[estimators.SLOW]])
        waiting = [client.submit("echo", instances=[[number]]) for number in (2.0, 3.0)]
        with old.client() as redis:
            assert redis.wait(1, 5000) == 1
        old.kill()
        wait_until(lambda: predicted(gateway, 4.0) == [4.0], 60, "the yard serves again")
        assert watched.primary() is not old
        assert [handle.wait(60)["predictions"] for handle in waiting] == [[2.0], [3.0]]
        assert running.wait(60)["predictions"] == [estimators.SLOW]
        assert pool.process.poll() is None
        old.start()  # as a primary, with clients that know better; the Sentinel makes it follow
        assert predicted(gateway, 5.0) == [5.0]


def test_a_primary_that_was_made_a_replica_is_left_for_the_new_one(watched):
    """Its connections stay open and answer; what they answer to a write is READONLY."""
    second = watched.servers[1]
    with connections.fast(watched.url) as client:
        client.set("modelyard:active:echo", "v1")
        watched.fail_over()
        wait_until(lambda: watched.primary() is second, 60, "the replica is the primary")

        def is_written() -> bool:
            try:
                return bool(client.set("modelyard:active:echo", "v1"))
            except RedisConnectionError:
                return False

        wait_until(is_written, 60, "the client writes to the new primary")
        with second.client() as redis:
            assert redis.get("modelyard:active:echo") == b"v1"
        assert client.info("server")["tcp_port"] == second.port


def test_nobody_to_ask_is_told_in_one_line_and_in_a_second(redis):
    with connections.fast("redis+sentinel://127.0.0.1:1,127.0.0.1:2/yard") as client:
        with pytest.raises(ModelyardError, match=r"no Sentinel names a primary 'yard'") as caught:
            connections.check_server(client)
        assert "127.0.0.1:1, 127.0.0.1:2" in caught.value.message
        assert "\n" not in caught.value.message


def test_a_redis_that_is_no_sentinel_is_told(redis, redis_server):
    url = f"redis+sentinel://127.0.0.1:{redis_server.port}/yard"
    with connections.fast(url) as client, pytest.raises(ModelyardError):
        connections.check_server(client)
