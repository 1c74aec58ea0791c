"""A version that echoes, and pools that serve it: what most acceptance tests begin with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from models.publish.publisher import publish
from models.store.repository import Repository
from producer.client import Client
from tests.helpers import estimators
from tests.helpers.pools import RunningPool, running_pool
from tests.helpers.redis_server import patient
from yard.broker import connections


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """The journal of `echo`: a line for each number that it predicted."""
    return tmp_path / "journal"


@pytest.fixture
def store(tmp_path: Path, redis: Redis, journal: Path) -> Path:
    """A store with ``echo@v1``, which is active and has predicted nothing yet."""
    store = tmp_path / "store"
    echo = estimators.Echo(str(journal)).fit([[1.0]])
    publish(Repository(store), redis, echo, "echo", "v1", [[1.0], [2.0]], activate=True)
    journal.write_text("")
    return store


@pytest.fixture
def client(redis: Redis, redis_url: str) -> Iterator[Client]:
    client = Client(patient(redis_url))
    yield client
    client.close()


@pytest.fixture
def start(redis_url: str, store: Path, tmp_path: Path) -> Iterator[Callable[..., RunningPool]]:
    """Starts a pool and waits until its workers are there; ``waits=False`` returns at once."""
    with ExitStack() as stack:

        def start(
            workers: int = 1, url: str = redis_url, waits: bool = True, **settings: Any
        ) -> RunningPool:
            settings = {"pool_min": workers, "pool_max": workers} | settings
            pool = stack.enter_context(running_pool(url, store, tmp_path, **settings))
            if waits:
                with connections.steady(url) as redis:
                    pool.wait_for_workers(redis, settings["pool_min"])
            return pool

        yield start
