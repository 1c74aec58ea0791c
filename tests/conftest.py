"""Fixtures of all tiers: a real Redis, started once a session and empty for each test."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from producer.errors import ConfigurationError
from tests.redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The session's server, which a test may kill or pause: the next test gets it running again.

    Without a server program, tests are skipped at home and fail in CI.
    """
    with tempfile.TemporaryDirectory(prefix="modelyard-test-") as folder:
        try:
            server = RedisServer(Path(folder))
        except ConfigurationError as error:
            if os.environ.get("CI"):
                pytest.fail(error.message)
            pytest.skip(error.message)
        server.start()
        yield server
        server.kill()


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    """A client of a running, empty Redis."""
    redis_server.start()
    with redis_server.client() as client:
        client.flushall()
        client.config_set("maxmemory", 0)
        yield client


@pytest.fixture
def redis_url(redis: Redis, redis_server: RedisServer) -> str:
    """Where the running, empty Redis is."""
    return redis_server.url
