"""Fixtures of the integration tests: a client, and a check for keys that would stay for ever."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from producer.client import Client
from tests.helpers.key_leaks import find_leaks
from tests.helpers.redis_server import RedisServer
from tests.helpers.versions import register
from yard.settings import Settings


@pytest.fixture(autouse=True)
def no_key_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a key without a time to live, unless it is marked `leaks_keys`."""
    if "redis" not in request.fixturenames:
        yield
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    yield
    if request.node.get_closest_marker("leaks_keys") is None:
        server.start()
        with server.client() as client:
            leaks = find_leaks(client)
        assert not leaks, f"keys without a time to live: {', '.join(leaks[:20])}"


@pytest.fixture
def client(redis: Redis, redis_url: str, settings: Settings) -> Iterator[Client]:
    """A client of a Redis that knows ``echo@v1``, with the ``settings`` of the module."""
    register(redis)
    client = Client(redis_url, settings=settings)
    yield client
    client.close()
