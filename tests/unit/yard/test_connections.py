"""The profiles of Redis clients: their time limits, and what they make of a bad URL."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.connection import SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from yard.broker import connections
from yard.errors import ConfigurationError, Unavailable


class Told:
    """Stands for a client; answers INFO, or raises."""

    def __init__(self, answer: dict[str, Any] | Exception) -> None:
        self.answer = answer

    def info(self, _section: str) -> dict[str, Any]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def options_of(client: Any) -> dict[str, Any]:
    return dict(client.connection_pool.connection_kwargs)


def test_fast_gives_up_within_a_second_and_repeats_only_what_found_no_connection():
    options = options_of(connections.fast("redis://127.0.0.1:1/0"))
    assert options["socket_connect_timeout"] + options["socket_timeout"] < 1.5
    assert options["socket_timeout"] < 1
    assert options["retry"].get_retries() == 1
    assert options["retry"]._supported_errors == (RedisConnectionError,)


def test_a_dead_redis_shows_as_a_connection_error_at_once():
    with pytest.raises(RedisConnectionError):
        connections.fast("redis://127.0.0.1:1/0").ping()


def test_steady_repeats_nothing():
    options = options_of(connections.steady("redis://127.0.0.1:1/0"))
    assert options["retry"].get_retries() == 0
    assert options["socket_timeout"] == 2


def test_blocking_outlives_the_block():
    options = options_of(connections.blocking("unix:///tmp/redis.sock", 30))
    assert options["socket_timeout"] == 32
    assert options["retry"].get_retries() == 0


@pytest.mark.parametrize("make", [connections.fast, connections.steady])
def test_every_client_has_room_for_a_gateway_and_leaves_replies_as_bytes(make):
    client = make("rediss://:secret@cache.example:6380/2", name="gateway")
    assert client.connection_pool.max_connections == connections.MOST_CONNECTIONS
    assert options_of(client)["client_name"] == "gateway"
    assert options_of(client)["db"] == 2
    assert not client.get_encoder().decode_responses


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://localhost:6379",
        "redis://localhost:port",
        "redis://localhost:99999999",
        "redis://localhost?no_such_option=1",
        "redis://localhost?db=one",
        "redis://localhost?decode_responses=yes",
        "rediss://localhost?ssl_cert_reqs=maybe",
        "redis://[::1",
        "redis+sentinel://one:26379",
        "redis+sentinel:///yard",
        "redis+sentinel://one:0/yard",
        "redis+sentinel://one,/yard",
        "redis+sentinel://one/yard/first",
        "redis+sentinel://one/yard?no_such_option=1",
        "redis+sentinel://one/yard?host=two",
        "redis+sentinel://ada?:secret@one/yard",
        "rediss+sentinel://one/yard?ssl_cert_reqs=maybe",
    ],
)
def test_a_bad_url_is_a_configuration_error_that_names_the_variable_or_the_option(url):
    with pytest.raises(ConfigurationError, match=r"MODELYARD_REDIS_URL|decode_responses"):
        connections.fast(url)


def test_a_sentinel_url_gives_the_servers_and_the_sentinels_each_their_own():
    url = "rediss+sentinel://ada:p%40ss@one,two:7000,[::1]:7001/yard/3"
    url += "?ssl_ca_certs=/ca.pem&sentinel_username=eve&sentinel_password=s3"
    pool: Any = connections.fast(url, "gateway").connection_pool
    asked = [one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels]
    assert [(at["host"], at["port"]) for at in asked] == [
        ("one", 26379),
        ("two", 7000),
        ("::1", 7001),
    ]
    assert {(at["username"], at["password"], at["ssl_ca_certs"]) for at in asked} == {
        ("eve", "s3", "/ca.pem")
    }
    told = pool.connection_kwargs
    assert (told["username"], told["password"], told["db"]) == ("ada", "p@ss", 3)
    assert (told["ssl_ca_certs"], told["client_name"]) == ("/ca.pem", "gateway")
    assert (pool.service_name, pool.is_master) == ("yard", True)
    assert pool.max_connections == connections.MOST_CONNECTIONS
    assert issubclass(pool.connection_class, SSLConnection)


@pytest.mark.parametrize("place", ["localhost:6379", "one,two/yard"])
def test_a_bad_url_is_told_without_its_password(place):
    with pytest.raises(ConfigurationError) as caught:
        connections.fast(f"redis+sentinel://:hunter/2secret@{place}")
    assert "hunter" not in caught.value.message
    with pytest.raises(ConfigurationError) as caught:
        connections.fast("redis://:hunter/2secret@localhost:6379")
    assert "hunter" not in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:secret@localhost/1", "redis://:***@localhost/1"),
        ("redis://ada:secret@localhost/1", "redis://ada:***@localhost/1"),
        ("redis://secret@localhost", "redis://***@localhost"),
        ("redis://ada:p@ss@localhost", "redis://ada:***@localhost"),
        ("unix:///tmp/a@b.sock?db=1", "unix:///tmp/a@b.sock?db=1"),
        ("unix:///tmp/r.sock?password=secret&db=1", "unix:///tmp/r.sock?password=***&db=1"),
        ("redis+sentinel://ada:secret@a,b:1/yard/0", "redis+sentinel://ada:***@a,b:1/yard/0"),
        ("redis+sentinel://a/y?sentinel_password=s", "redis+sentinel://a/y?sentinel_password=***"),
        ("secret", "..."),
    ],
)
def test_redacted_hides_the_password_and_nothing_else(url, shown):
    assert connections.redact_url(url) == shown


@given(password=st.text(min_size=1, max_size=20).map(lambda text: f"<{text}>"))
def test_no_password_survives_redaction(password):
    """The brackets make it impossible that the rest of the URL holds the same text."""
    for url in (f"redis://ada:{password}@host:1/0", f"redis://:{password}@host?db=1"):
        assert password not in connections.redact_url(url)


@pytest.mark.parametrize(
    ("info", "version"),
    [
        ({"redis_version": "7.0.15"}, (7, 0, 15)),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, (7, 2, 4)),
        ({"redis_version": "255.255.255"}, (255, 255, 255)),
    ],
)
def test_server_version_reads_what_the_server_speaks(info, version):
    assert connections.server_version(Told(info)) == version  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        ({"redis_version": "6.0.16"}, ConfigurationError, "too old"),
        ({}, ConfigurationError, "too old"),
        ({"redis_version": "7.2.4", "redis_mode": "cluster"}, ConfigurationError, "Cluster"),
        (RedisConnectionError("refused"), Unavailable, "does not answer"),
        (ResponseError("NOPERM"), ConfigurationError, "refuses"),
    ],
)
def test_check_server_says_what_is_wrong(answer, error, says):
    with pytest.raises(error, match=says):
        connections.check_server(Told(answer))  # type: ignore[arg-type]


def test_check_server_takes_the_oldest_that_is_supported():
    connections.check_server(Told({"redis_version": "6.2.0"}))  # type: ignore[arg-type]
