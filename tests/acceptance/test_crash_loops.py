"""A version that kills every worker is seen and slowed down, and harms no other."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest
from redis import Redis

from gateway.api.metrics import registry_for
from models.publish.publisher import publish
from models.store.repository import Repository
from modelyard.doctor.checks import check_crashes
from producer import Client, Handle
from tests.helpers import estimators
from tests.helpers.waiting import wait_until
from yard.cluster.crash_loops import held_back_queues, read_crash_loops
from yard.contract import keys
from yard.contract.values import JobStatus
from yard.settings import Settings

#: The version that kills comes first in every order of names.
BAD, GOOD = "aaa@v1", "echo@v1"


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    return tmp_path / "trap"


@pytest.fixture
def store(tmp_path: Path, redis: Redis, trap: Path) -> Path:
    repository = Repository(tmp_path / "store")
    bad, good = estimators.DiesOnLoad(str(trap)), estimators.Echo()
    for model, estimator in (("aaa", bad), ("echo", good)):
        publish(repository, redis, estimator.fit([[1.0]]), model, "v1", [[1.0]], activate=True)
    trap.touch()
    return tmp_path / "store"


def submit(client: Client, model: str, count: int) -> list[Handle]:
    return [client.submit(model, instances=[[float(n)]]) for n in range(count)]


def is_started(handle: Handle) -> bool:
    return handle.get().status is JobStatus.STARTED


def deaths(redis: Redis) -> int:
    return sum(one.row for one in read_crash_loops(redis) if one.queue == BAD)


@pytest.mark.parametrize("fork_server", [True, False], ids=["forked", "spawned"])
def test_a_version_that_kills_its_only_worker_starves_no_other(redis, start, client, fork_server):
    bad = submit(client, "aaa", 20)
    start(fork_server=fork_server, waits=False)
    wait_until(lambda: deaths(redis) >= 3, 60, "it has killed some")
    good = submit(client, "echo", 20)
    assert {handle.wait(60).status for handle in good} == {JobStatus.FINISHED}
    waiting = [handle.get().status for handle in bad]
    assert waiting.count(JobStatus.QUEUED) > 10, "it was not worked off by killing sixty workers"


def test_it_is_shown_with_its_version_and_serves_again_when_it_has_recovered(
    redis, start, client, trap
):
    start(attempts=100, waits=False)
    bad = submit(client, "aaa", 3)
    wait_until(lambda: BAD in held_back_queues(redis), 60, "it is held back")
    seen = check_crashes(redis)
    assert not seen.ok
    assert BAD in seen.detail
    sample = {"model": "aaa", "model_version": "v1"}
    registry = registry_for(redis, Settings.load({}), has_files=False)
    value = registry.get_sample_value("crashes_in_a_row", sample)
    assert value is not None
    assert value >= 3
    trap.unlink()
    assert {handle.wait(40).status for handle in bad} == {JobStatus.FINISHED}
    assert int(redis.hget(keys.METRICS, "worker_crashes_total|model=aaa|model_version=v1")) >= 3


def test_deaths_with_good_batches_between_them_hold_nothing_back(redis, start, client):
    pool = start()
    for number in range(4):
        client.submit("echo", instances=[[float(number)]]).wait(60)
        slow = client.submit("echo", instances=[[estimators.SLOW]])
        wait_until(partial(is_started, slow), 60)
        name = redis.hget(keys.key("job", slow.id), "worker_name").decode()
        os.kill(pool.workers(redis)[name], signal.SIGKILL)
        assert slow.wait(60).status is JobStatus.FINISHED
    assert [one.row for one in read_crash_loops(redis)] == [1]
    assert check_crashes(redis).ok
    assert not held_back_queues(redis)
