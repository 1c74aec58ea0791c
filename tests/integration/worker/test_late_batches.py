"""A worker is killed for one batch, and only that batch is charged with it."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from producer.client import Client
from tests.helpers.versions import register
from tests.helpers.waiting import wait_until
from worker.pool.monitor import WorkerMonitor
from worker.pool.worker_handle import WorkerHandle
from worker.queue.lease import Batch, Lease
from worker.queue.outcomes import EndedJob
from yard.cluster import metrics
from yard.cluster.crash_loops import held_back
from yard.contract import keys
from yard.contract.values import JobStatus
from yard.settings import Settings

QUEUE = "echo@v1"


class Process:
    """A process that runs until it is killed, and notes what it is sent."""

    pid = 2**22 + 1  # beyond what Linux gives

    def __init__(self) -> None:
        self.returncode: int | None = None
        self.got: list[str] = []

    def poll(self) -> int | None:
        return self.returncode

    def wait(self) -> int:
        return -9

    def terminate(self) -> None:
        self.got.append("TERM")

    def kill(self) -> None:
        self.got.append("KILL")
        self.returncode = -9


class Scene:
    """A pool's watch over one worker, whose clock goes when it is told to."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.now = 0.0
        self.redis = redis
        self.process: Any = Process()
        self.lease = Lease(redis, "w1", settings)
        self.watch = WorkerMonitor(redis, settings, clock=lambda: self.now)
        self.watch.workers["w1"] = WorkerHandle("w1", self.process, 0.0)

    def claim(self) -> Batch:
        batch = self.lease.claim([QUEUE])
        assert isinstance(batch, Batch)
        return batch

    def look(self, after_s: float = 0.5) -> None:
        """A look, so much later by the pool's clock."""
        self.now += after_s
        self.watch.look()

    def end(self) -> None:
        """The last second of a worker that has been found late."""
        self.watch.end_late()
        self.look(1.1)
        self.watch.end_late()
        self.watch.collect_exited()


@pytest.fixture
def settings() -> Settings:
    return Settings.load({}, batch_jobs=1)


@pytest.fixture
def client(redis: Redis, redis_url: str, settings: Settings):
    register(redis)
    with_short = Settings.load({}, batch_jobs=1, timeout_s=1)
    client = Client(redis_url, settings=with_short)
    yield client
    client.close()


@pytest.fixture
def scene(redis: Redis, settings: Settings) -> Scene:
    return Scene(redis, settings)


def submit(client: Client) -> str:
    return client.submit("echo", instances=[[1.0]]).id


def crashes(redis: Redis) -> Any:
    labels = {"model": "echo", "model_version": "v1"}
    return redis.hget(keys.METRICS, metrics.field("worker_crashes_total", labels))


def test_the_batch_that_is_late_fails(client, redis, scene):
    late = submit(client)
    scene.claim()
    scene.look()
    scene.look(1.1)
    scene.end()
    assert scene.process.got == ["TERM", "KILL"]
    failed = client.get(late)
    assert (failed.status, failed.error and failed.error.code) == (JobStatus.FAILED, "timeout")
    assert crashes(redis) == b"1"


def test_the_batch_after_the_late_one_is_not_charged(client, redis, scene):
    late, next_one = submit(client), submit(client)
    batch = scene.claim()
    scene.look()
    scene.look(1.1)
    scene.lease.finish(batch, [EndedJob(late, {"predictions": [1.0]}, 60)])
    scene.claim()
    scene.end()
    assert scene.process.got == ["TERM", "KILL"]
    job = client.get(next_one)
    assert (job.status, job.attempts, job.error) == (JobStatus.QUEUED, 0, None)
    assert redis.hget(keys.key("job", next_one), "my_crashes") == b"0"
    assert crashes(redis) is None, "its version did not kill the worker"
    assert not held_back(redis)


def test_a_batch_that_is_claimed_after_a_late_load_is_not_charged(client, redis, scene):
    redis.hset(keys.key("worker", "w1"), mapping={"state": "busy", "my_load": "1"})
    scene.look()
    for _ in range(61):
        scene.look(1.0)
    job_id = submit(client)
    scene.watch.end_late()
    scene.claim()
    scene.end()
    assert scene.process.got == ["TERM", "KILL"]
    assert client.get(job_id).status is JobStatus.QUEUED
    assert redis.hget(keys.key("job", job_id), "my_crashes") == b"0"


def test_a_step_of_redis_clock_makes_no_batch_late(client, redis, scene):
    """Redis' clock passes the deadline; by the pool's, hardly any time has passed."""
    submit(client)
    batch = scene.claim()
    scene.look()
    due_ms: Any = redis.hget(keys.key("batch", "w1"), "deadline_ms")
    wait_until(lambda: redis.time()[0] * 1000 > int(due_ms))
    scene.look(0.1)
    scene.watch.end_late()
    assert scene.process.got == []
    scene.lease.finish(batch, [])


def test_a_batch_that_was_claimed_before_the_step_is_not_late_when_first_seen(client, redis, scene):
    submit(client)
    scene.look()
    batch = scene.claim()
    due_ms: Any = redis.hget(keys.key("batch", "w1"), "deadline_ms")
    wait_until(lambda: redis.time()[0] * 1000 > int(due_ms))
    scene.look(0.1)
    scene.watch.end_late()
    assert scene.process.got == []
    scene.lease.finish(batch, [])
