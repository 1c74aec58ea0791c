"""For all tiers: their order, Hypothesis' limits, and a real Redis that is empty for each test."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from redis import Redis

from tests.helpers.redis_server import RedisServer
from yard.errors import ConfigurationError

#: The longest first, so that parallel runs end at about the same time.
_TIERS = ("chaos", "acceptance", "integration", "unit")

if not os.environ.get("CI"):  # there, Hypothesis sets this itself, and tries the same each time
    is_patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("home", is_patient)
    settings.load_profile("home")


@pytest.fixture(scope="session", autouse=True)
def _state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A state folder for the tests: they find no yard of the user's and leave no note there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tiers; within one, the order stays the one that was drawn."""
    here = Path(__file__).parent
    items.sort(key=lambda item: _TIERS.index(item.path.relative_to(here).parts[0]))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The session's server. A test may kill or pause it: the next test gets it running again.

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
