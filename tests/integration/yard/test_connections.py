"""The profiles against a Redis that is paused, killed and started again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tests.helpers.waiting import ends_soon, wait_until
from yard.broker import connections


def assert_fails_soon(call: Callable[[], Any]) -> None:
    """One time limit of 0.8 s, not several; the unit test of `connections` has their sizes."""
    with ends_soon(3), pytest.raises((RedisConnectionError, RedisTimeoutError)):
        call()


def test_a_paused_redis_shows_soon_on_old_and_on_new_connections(redis_server, redis):
    with connections.fast(redis_server.url) as old, connections.fast(redis_server.url) as new:
        old.ping()
        redis_server.pause()
        try:
            assert_fails_soon(old.ping)
            assert_fails_soon(new.ping)
        finally:
            redis_server.resume()
        assert old.ping()


def test_a_paused_redis_shows_soon_when_the_connection_is_due_for_a_check(redis_server, redis):
    with connections.fast(redis_server.url) as client:
        connection = client.connection_pool.get_connection()
        connection.next_health_check = 0
        client.connection_pool.release(connection)
        redis_server.pause()
        try:
            assert_fails_soon(client.ping)
        finally:
            redis_server.resume()


def test_a_restart_between_two_calls_is_not_seen(redis_server, redis):
    with connections.fast(redis_server.url) as client:
        assert client.ping()
        redis_server.kill()
        assert_fails_soon(client.ping)
        redis_server.start()
        assert client.ping()
        redis_server.kill()
        redis_server.start()
        assert client.ping()


def test_a_blocking_call_may_block_for_as_long_as_it_said(redis_server, redis):
    with connections.blocking(redis_server.url, 6) as client:
        assert client.blpop(["modelyard:bell:nobody"], timeout=5.5) is None


def test_a_call_that_was_cut_is_not_repeated(redis_server, redis):
    """A repeated BLPOP would take a second element: the first would be lost."""
    with connections.blocking(redis_server.url, 1) as client:
        cut: list[BaseException] = []

        def pop() -> None:
            try:
                client.blpop(["modelyard:bell:q"], timeout=5)
            except RedisConnectionError as error:
                cut.append(error)

        popper = threading.Thread(target=pop)
        popper.start()
        wait_until(lambda: b"blpop" in raw_clients(redis), 20, "it blocks")
        redis.client_kill_filter(_type="normal", skipme=True)
        popper.join(20)
        redis.rpush("modelyard:bell:q", "1")
        redis.expire("modelyard:bell:q", 60)
        assert len(cut) == 1
        assert redis.llen("modelyard:bell:q") == 1


def test_there_are_connections_for_every_thread_of_a_gateway(redis_server, redis):
    with connections.fast(redis_server.url) as client:
        taken = [client.connection_pool.get_connection() for _ in range(300)]
        assert len({id(connection) for connection in taken}) == 300
        for connection in taken:
            client.connection_pool.release(connection)


def raw_clients(redis: Any) -> bytes:
    return b" ".join(str(client["cmd"]).encode() for client in redis.client_list())
