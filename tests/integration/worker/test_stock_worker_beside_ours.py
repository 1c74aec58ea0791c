"""RQ's own worker on a queue of ours, and RQ's own command line while our workers run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
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

from models.publish.publisher import publish
from models.store.repository import Repository
from producer import Client, Handle
from tests.helpers import ROOT, estimators
from tests.helpers.pools import RunningPool, running_pool
from tests.helpers.redis_server import patient
from tests.helpers.waiting import wait_until
from tests.helpers.yards import clean_environ
from yard.contract import keys
from yard.contract.values import JobStatus

QUEUE = "echo@v1"


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def store(tmp_path: Path, redis: Redis, journal: Path) -> Path:
    """A model that takes its time, so that neither worker takes all jobs."""
    store = tmp_path / "store"
    echo = estimators.Echo(str(journal), pace_s=0.05).fit([[1.0]])
    publish(Repository(store), redis, echo, "echo", "v1", [[1.0], [2.0]], activate=True)
    return store


@pytest.fixture
def client(redis: Redis, redis_url: str) -> Iterator[Client]:
    client = Client(patient(redis_url))
    yield client
    client.close()


@pytest.fixture
def start(
    redis: Redis, redis_url: str, store: Path, tmp_path: Path
) -> Iterator[Callable[..., RunningPool]]:
    contexts = []

    def start(**settings: Any) -> RunningPool:
        context = running_pool(redis_url, store, tmp_path, **settings)
        contexts.append(context)
        pool = context.__enter__()
        pool.wait_for_workers(redis)
        return pool

    yield start
    for context in contexts:
        context.__exit__(None, None, None)


def rq_argv(url: str, command: str, *arguments: str) -> list[str]:
    """RQ's own command line."""
    return [sys.executable, "-m", "rq.cli", command, "--url", url, *arguments]


@pytest.fixture
def rq(redis_url: str) -> Callable[..., str]:
    """Runs a command of RQ's: what it prints."""

    def run(command: str, *arguments: str) -> str:
        done = subprocess.run(
            rq_argv(redis_url, command, *arguments),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=clean_environ() | {"PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@contextmanager
def stock_worker(url: str, store: Path, log: Path, *options: str) -> Iterator[None]:
    """``rq worker`` on the version's queue."""
    environ = clean_environ() | {"PYTHONPATH": str(ROOT), "MODELYARD_STORE": str(store)}
    with log.open("wb") as output:
        worker = subprocess.Popen(
            rq_argv(url, "worker", QUEUE, "--serializer", "json", *options),
            env=environ,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        worker.terminate()
        worker.wait(60)


@pytest.mark.parametrize("options", [(), ("--job-class", "producer.SafeJob")], ids=["bare", "safe"])
def test_each_job_runs_once_whoever_takes_it_with_the_same_result(
    client, redis, redis_url, start, store, tmp_path, journal, options
):
    start(batch_jobs=1)
    with stock_worker(redis_url, store, tmp_path / "stock.log", *options):
        wait_until(lambda: len(redis.smembers(keys.key("workers", QUEUE))) == 2, 60)
        journal.write_text("")
        numbers = [float(n) for n in range(1000, 1060)]
        handles = [client.submit("echo", instances=[[number]]) for number in numbers]
        jobs = [handle.wait(60) for handle in handles]
        wait_until(lambda: not redis.exists(keys.key("wip", QUEUE)), 60)
    assert [job.result for job in jobs] == [{"predictions": [number]} for number in numbers]
    assert all(redis.xlen(keys.key("results", job.id)) == 1 for job in jobs)
    runs = Counter(journal.read_text().split())
    assert [runs[f"{number:.10g}"] for number in numbers] == [1] * len(numbers)
    takers = Counter(redis.hget(keys.key("job", job.id), "worker_name") for job in jobs)
    assert len(takers) == 2, f"both took part: {takers}"


def test_a_stock_workers_clean_up_leaves_our_batches_alone(
    client, redis, redis_url, start, store, tmp_path
):
    """It cleans the registries of its queues when it starts; RQ fails what looks abandoned."""
    start()
    slow = client.submit("echo", instances=[[estimators.SLOW]])
    wait_until(lambda: slow.get().status is JobStatus.STARTED, 60)
    with stock_worker(redis_url, store, tmp_path / "stock.log"):
        wait_until(lambda: len(redis.smembers(keys.key("workers", QUEUE))) == 2, 60)
        StartedJobRegistry(QUEUE, connection=redis, serializer=JSONSerializer).cleanup()
        job = slow.wait(60)
    assert job["predictions"] == [estimators.SLOW]
    assert job.attempts == 1


class TestCommandLine:
    def test_rq_info_shows_queues_workers_and_registries(self, client, redis, start, rq):
        pool = start()
        ((name, _),) = pool.workers(redis).items()
        client.submit("echo", instances=[[1.0]]).wait(60)
        shown = rq("info", "--raw")
        assert f"queue {QUEUE} 0" in shown
        assert re.search(rf"worker {name} .* idle {QUEUE}, echo\. jobs: 1 finished", shown)
        assert QUEUE in rq("info", "--by-queue")

    def test_rq_suspend_and_resume_reach_our_workers(self, client, redis, start, rq):
        start()
        rq("suspend")
        handle = client.submit("echo", instances=[[1.0]])
        wait_until(lambda: redis.hget(_worker(redis), "state") == b"suspended", 60)
        assert handle.get().status is JobStatus.QUEUED
        rq("resume")
        assert handle.wait(60)["predictions"] == [1.0]

    def test_rq_empty_takes_what_waits(self, client, redis, start, rq):
        start()
        rq("suspend")
        handle = client.submit("echo", instances=[[1.0]])
        rq("empty", QUEUE)
        rq("resume")
        assert redis.llen(keys.key("queue", QUEUE)) == 0
        assert client.submit("echo", instances=[[2.0]]).wait(60)["predictions"] == [2.0]
        assert not redis.exists(keys.key("results", handle.id))

    def test_rq_requeue_runs_a_failed_job_again(self, client, redis, start, rq):
        start()
        failed = client.submit("echo", instances=[[estimators.RAISE]])
        assert failed.wait(60).status is JobStatus.FAILED
        rq("requeue", "--queue", QUEUE, "--serializer", "json", failed.id)
        wait_until(lambda: failed.get().attempts == 2 and failed.get().status.is_terminal, 60)
        assert redis.ttl(keys.key("job", failed.id)) > 0

    def test_registries_and_jobs_are_read_by_rq(self, client, redis, start):
        start()
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
