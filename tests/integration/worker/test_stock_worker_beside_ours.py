"""RQ's own worker on a queue of ours, beside one of our pools."""

from __future__ import annotations

import json
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
from rq.registry import (
    StartedJobRegistry,
)
from rq.serializers import JSONSerializer

from models.publish.publisher import publish
from models.store.repository import Repository
from producer import Client
from tests.helpers import ROOT, estimators
from tests.helpers.pools import RunningPool, running_pool
from tests.helpers.redis_server import patient
from tests.helpers.waiting import wait_until
from tests.helpers.yards import clean_environ
from yard.contract import keys
from yard.contract.values import TASK_NAME, Job, JobStatus, ModelRef
from yard.registry import lifecycle

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


def code_of(job: Job) -> str:
    assert job.error is not None
    return job.error.code


class TestChecksOfItsPath:
    """A stock worker runs our task: what our own workers refuse, it refuses by the same code."""

    def test_a_job_that_runs_past_its_timeout_ends_as_that(
        self, client, redis, redis_url, store, tmp_path
    ):
        hasty = Client(redis_url, settings=client.settings.model_copy(update={"timeout_s": 2}))
        handle = hasty.submit("echo", instances=[[estimators.HANG]])
        with stock_worker(redis_url, store, tmp_path / "stock.log"):
            job = handle.wait(60)
        assert code_of(job) == "timeout"
        hasty.close()

    def test_code_that_catches_every_exception_ends_all_the_same(
        self, client, redis, redis_url, store, tmp_path
    ):
        hasty = Client(redis_url, settings=client.settings.model_copy(update={"timeout_s": 2}))
        handle = hasty.submit("echo", instances=[[estimators.STUBBORN]])
        with stock_worker(redis_url, store, tmp_path / "stock.log"):
            job = handle.wait(60)
        assert code_of(job) == "timeout"
        hasty.close()

    def test_other_bytes_than_were_published_are_not_opened(
        self, client, redis, redis_url, store, tmp_path
    ):
        known = json.loads(redis.hget(keys.key("versions", "echo"), "v1"))
        redis.hset(keys.key("versions", "echo"), "v1", json.dumps(known | {"digest": "0" * 64}))
        handle = client.submit("echo", instances=[[1.0]])
        with stock_worker(redis_url, store, tmp_path / "stock.log"):
            job = handle.wait(60)
        assert code_of(job) == "model_unavailable"

    def test_a_version_that_is_retired_and_empty_runs_no_more(
        self, client, redis, redis_url, store, tmp_path
    ):
        lifecycle.retire(redis, ModelRef("echo", "v1"), force=True)
        lifecycle.mark_drained(redis, [QUEUE])
        queue = Queue(QUEUE, connection=redis, serializer=JSONSerializer)
        job = queue.enqueue(TASK_NAME, instances=[[1.0]], result_ttl=60, failure_ttl=60)
        with stock_worker(redis_url, store, tmp_path / "stock.log"):
            wait_until(lambda: client.get(job.id).status.is_terminal, 60)
        assert code_of(client.get(job.id)) == "version_gone"
