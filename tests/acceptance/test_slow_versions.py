"""Versions that take long: a backlog of them kills no worker, and they load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from models.publish.publisher import publish
from models.store.repository import Repository
from producer.client import Client
from tests.helpers import estimators
from tests.helpers.pools import RunningPool
from yard.contract.values import Request


@pytest.fixture
def pace(tmp_path: Path) -> Path:
    """The file that says how many seconds a row of the slow versions takes."""
    return tmp_path / "pace"


@pytest.fixture
def store(tmp_path: Path, redis: Redis, pace: Path) -> Path:
    """``echo@v1`` is predicted job by job."""
    store = tmp_path / "store"
    slow = estimators.PacedAlone(str(pace)).fit([[1.0]])
    publish(Repository(store), redis, slow, "echo", "v1", [[1.0], [2.0]], activate=True)
    return store


@pytest.fixture
def hasty(client: Client) -> Iterator[Client]:
    """A client whose jobs may run for 2 s."""
    settings = client.settings.model_copy(update={"timeout_s": 2})
    hasty = Client(client.url, settings=settings)
    yield hasty
    hasty.close()


def test_a_backlog_that_takes_longer_than_a_timeout_kills_no_worker(
    redis: Redis, start: Callable[..., RunningPool], hasty: Client, pace: Path
) -> None:
    pool = start(lease_s=1.0)
    workers = pool.workers(redis)
    assert hasty.submit("echo", instances=[[0.0]]).wait(60)["predictions"] == [0.0]
    pace.write_text("0.15")
    numbers = [float(n) for n in range(32)]
    handles = hasty.submit_many([Request("echo", instances=[[number]]) for number in numbers])
    jobs = [handle.wait(60) for handle in handles]  # type: ignore[union-attr]
    assert [job["predictions"] for job in jobs] == [[number] for number in numbers]
    assert [job.attempts for job in jobs] == [1] * len(jobs)
    assert pool.workers(redis) == workers, "none was killed"
