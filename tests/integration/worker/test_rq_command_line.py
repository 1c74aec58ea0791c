"""RQ's own command line on queues and workers of ours: one pool, whose worker serves all tests."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job as RqJob
from rq.registry import (
    CanceledJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    StartedJobRegistry,
)
from rq.serializers import JSONSerializer
from rq.suspension import resume

from models.publish.publisher import publish
from models.store.repository import Repository
from producer import Client, Handle
from tests.helpers import ROOT, estimators
from tests.helpers.pools import RunningPool, running_pool
from tests.helpers.protocol import QUEUE
from tests.helpers.redis_server import RedisServer, patient
from tests.helpers.waiting import wait_until
from tests.helpers.yards import clean_environ
from yard.contract import keys
from yard.contract.values import JobStatus


@pytest.fixture(scope="module")
def pool(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningPool]:
    folder = tmp_path_factory.mktemp("command-line")
    redis_server.start()
    with redis_server.client() as redis:
        redis.flushall()
        echo = estimators.Echo().fit([[1.0]])
        repository = Repository(folder / "store")
        publish(repository, redis, echo, "echo", "v1", [[1.0], [2.0]], activate=True)
        with running_pool(redis_server.url, folder / "store", folder) as pool:
            pool.wait_for_workers(redis)
            yield pool


@pytest.fixture
def redis(redis_server: RedisServer, pool: RunningPool) -> Iterator[Redis]:
    """A Redis that still has what the tests before have left."""
    with redis_server.client() as redis:
        yield redis
        resume(redis)


@pytest.fixture
def client(redis: Redis, redis_server: RedisServer) -> Iterator[Client]:
    client = Client(patient(redis_server.url))
    yield client
    client.close()


@pytest.fixture
def rq(redis_url: str) -> Callable[..., str]:
    """Runs a command of RQ's and returns its output."""

    def run(command: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "rq.cli", command, "--url", redis_url, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=clean_environ() | {"PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_rq_info_shows_queues_workers_and_registries(client, redis, pool, rq):
    ((name, _),) = pool.workers(redis).items()
    line = rf"worker {name} .* idle {QUEUE}, echo\. jobs: (\d+) finished"
    before = wait_until(lambda: re.search(line, rq("info", "--raw")), interval_s=0.3)
    client.submit("echo", instances=[[1.0]]).wait(60)
    shown = rq("info", "--raw")
    assert f"queue {QUEUE} 0" in shown
    after = re.search(line, shown)
    assert after is not None
    assert int(after[1]) == int(before[1]) + 1
    assert QUEUE in rq("info", "--by-queue")


def test_rq_suspend_and_resume_reach_our_workers(client, redis, rq):
    rq("suspend")
    handle = client.submit("echo", instances=[[1.0]])
    wait_until(lambda: redis.hget(_worker(redis), "state") == b"suspended", 60)
    assert handle.get().status is JobStatus.QUEUED
    rq("resume")
    assert handle.wait(60)["predictions"] == [1.0]


def test_rq_empty_takes_what_waits(client, redis, rq):
    rq("suspend")
    handle = client.submit("echo", instances=[[1.0]])
    rq("empty", QUEUE)
    rq("resume")
    assert redis.llen(keys.key("queue", QUEUE)) == 0
    assert client.submit("echo", instances=[[2.0]]).wait(60)["predictions"] == [2.0]
    assert not redis.exists(keys.key("results", handle.id))


def test_rq_requeue_runs_a_failed_job_again(client, redis, rq):
    failed = client.submit("echo", instances=[[estimators.RAISE]])
    assert failed.wait(60).status is JobStatus.FAILED
    rq("requeue", "--queue", QUEUE, "--serializer", "json", failed.id)
    wait_until(lambda: redis.xlen(keys.key("results", failed.id)) == 2, 60)
    assert failed.get().status is JobStatus.FAILED
    assert failed.get().attempts == 1, "a run has its own attempts"
    assert redis.ttl(keys.key("job", failed.id)) > 0


def test_registries_and_jobs_are_read_by_rq(client, redis):
    ended: dict[str, Handle] = {
        "finished": client.submit("echo", instances=[[1.0]]),
        "failed": client.submit("echo", instances=[[estimators.RAISE]]),
    }
    for handle in ended.values():
        handle.wait(60)
    slow = client.submit("echo", instances=[[estimators.SLOW]])
    wait_until(lambda: slow.get().status is JobStatus.STARTED, 60)
    options: Any = {"connection": redis, "serializer": JSONSerializer}
    assert slow.id in StartedJobRegistry(QUEUE, **options).get_job_ids()
    slow.cancel()
    assert ended["finished"].id in FinishedJobRegistry(QUEUE, **options)
    assert ended["failed"].id in FailedJobRegistry(QUEUE, **options)
    assert slow.id in CanceledJobRegistry(QUEUE, **options)
    job = RqJob.fetch(ended["finished"].id, **options)
    assert job.return_value() == {"predictions": [1.0]}
    assert json.loads(json.dumps(job.kwargs)) == {"instances": [[1.0]]}
    assert Queue(QUEUE, **options).started_job_registry.count == 0


def _worker(redis: Redis) -> str:
    members: Any = redis.smembers(keys.WORKERS)
    (entry,) = members
    return str(entry.decode())
