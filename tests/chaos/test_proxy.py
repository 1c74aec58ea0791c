"""The fault proxy breaks what it says it breaks, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tests.chaos.proxy import FaultProxy, Loss
from tests.helpers.redis_server import RedisServer
from tests.helpers.waiting import wait_until
from yard.broker import connections

BELL = "modelyard:bell:q"


@pytest.fixture
def proxy(redis: Redis, redis_server: RedisServer) -> Iterator[FaultProxy]:
    with FaultProxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[Redis]:
    with connections.fast(proxy.url) as client:
        yield client


def is_push(words: list[bytes]) -> bool:
    return words[0] == b"RPUSH"


def test_nothing_is_changed_while_nothing_is_broken(client, redis):
    value = bytes(range(256)) * 5000
    client.set("k", value, ex=60)
    assert client.get("k") == value
    with client.pipeline() as pipe:
        for n in range(200):
            pipe.rpush(BELL, n)
        pipe.expire(BELL, 60)
        pipe.lrange(BELL, 0, -1)
        assert pipe.execute()[-1] == [str(n).encode() for n in range(200)]
    assert client.execute_command("HELLO", "3")


def test_a_reply_is_lost_after_the_command_was_carried_out(client, proxy, redis):
    steady = connections.steady(proxy.url)
    loss = proxy.lose(Loss(is_push, "reset", every=2, left=1))
    steady.rpush(BELL, "1")
    with pytest.raises(RedisConnectionError):
        steady.rpush(BELL, "2")
    redis.expire(BELL, 60)
    assert redis.lrange(BELL, 0, -1) == [b"1", b"2"]
    assert (loss.left, proxy.struck["reply, reset"]) == (0, 1)
    steady.close()


def test_a_request_is_lost_before_redis_sees_it(client, proxy, redis):
    proxy.lose(Loss(is_push, "silence", left=1, is_early=True))
    with pytest.raises(RedisTimeoutError):
        client.rpush(BELL, "1")
    assert redis.llen(BELL) == 0
    assert client.ping(), "a new connection is whole"


def test_half_open_connections_say_nothing_and_new_ones_work_when_it_is_over(client, proxy):
    client.ping()
    proxy.swallow(0.5)
    with pytest.raises(RedisTimeoutError):
        client.ping()
    wait_until(lambda: client.ping())


def test_slow_and_crumbled_replies_arrive_whole(client, proxy):
    proxy.chunk_bytes, proxy.latency_s = 1, 0.05
    begun = time.monotonic()
    client.set("k", "value" * 100, ex=60)
    assert client.get("k") == b"value" * 100
    assert time.monotonic() - begun > 0.1


def test_all_connections_can_be_reset(client, proxy):
    before = client.client_id()
    proxy.reset_all()
    assert client.client_id() != before
