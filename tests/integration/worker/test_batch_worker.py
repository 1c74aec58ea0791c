"""RQ's own command line with our worker class: ``rq worker -w worker.BatchWorker``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq import Worker as RqWorker
from rq.command import send_shutdown_command, send_stop_job_command
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend

from models.publish.publisher import publish
from models.store.repository import Repository
from producer import Client
from tests.helpers import ROOT, estimators
from tests.helpers.redis_server import patient
from tests.helpers.waiting import wait_until
from tests.helpers.yards import clean_environ
from worker import BatchWorker
from yard.contract import keys
from yard.contract.values import TASK_NAME, JobStatus
from yard.platform import pdeathsig


class Started:
    """A command of RQ's that runs; `said` is what it has printed so far."""

    def __init__(self, argv: list[str], store: Path, log: Path) -> None:
        environ = clean_environ() | {"MODELYARD_STORE": str(store), "MODELYARD_LEASE_S": "1"}
        environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), environ.get("PYTHONPATH", "")])
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                pdeathsig.command(argv, signal.SIGKILL),
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
            )

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self) -> int:
        return self.process.wait(60)


@pytest.fixture
def store(tmp_path: Path, redis: Redis) -> Path:
    store = tmp_path / "store"
    echo = estimators.Echo().fit([[1.0]])
    for version in ("v1", "v2"):
        publish(Repository(store), redis, echo, "echo", version, [[1.0], [2.0]], activate=True)
    return store


@pytest.fixture
def client(redis: Redis, redis_url: str) -> Iterator[Client]:
    client = Client(patient(redis_url))
    yield client
    client.close()


@pytest.fixture
def rq(redis_url: str, store: Path, tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts ``rq COMMAND -w worker.BatchWorker`` with options."""
    started: list[Started] = []

    def start(command: str, *options: str) -> Started:
        argv = [sys.executable, "-m", "rq.cli", command, "-w", "worker.BatchWorker"]
        argv += ["--url", redis_url, *options]
        started.append(Started(argv, store, tmp_path / f"rq-{len(started)}.log"))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.terminate()
            try:
                one.wait()
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.wait()


def submit(client: Client, count: int = 1, version: str = "v2") -> list[Any]:
    rows = [[[float(place)]] for place in range(count)]
    return [client.submit("echo", instances=row, version=version) for row in rows]


def workers(redis: Redis) -> list[Any]:
    return RqWorker.all(connection=redis, serializer=JSONSerializer)


def wait_for_workers(redis: Redis, started: Started, count: int = 1) -> list[Any]:
    wait_until(
        lambda: len(workers(redis)) >= count or started.process.poll() is not None,
        60,
        f"{count} workers report",
    )
    assert started.process.poll() is None, started.said
    return workers(redis)


def test_a_burst_runs_what_waits_in_batches_and_ends(client, redis, rq):
    handles = submit(client, 20)
    worker = rq("worker", "echo@v2", "--burst", "--name", "ours")
    assert worker.wait() == 0, worker.said
    jobs = [handle.get() for handle in handles]
    assert [job["predictions"] for job in jobs] == [[float(place)] for place in range(20)]
    assert max(job.batch_size for job in jobs) == 20
    assert redis.hget(keys.key("job", handles[0].id), "worker_name") == b"ours"
    assert not workers(redis)


def test_only_the_given_queues_are_served(client, redis, rq):
    (other,) = submit(client, version="v1")
    (mine,) = submit(client, version="v2")
    worker = rq("worker", "echo@v2", "--burst")
    assert worker.wait() == 0, worker.said
    assert mine.get().status is JobStatus.FINISHED
    assert other.get().status is JobStatus.QUEUED


def test_a_models_name_stands_for_all_its_queues(client, redis, rq):
    redis.set(keys.key("active", "echo"), "v2")
    handles = [*submit(client, version="v1"), *submit(client, version="v2")]
    pushed = Queue("echo", connection=redis, serializer=JSONSerializer).enqueue(
        TASK_NAME, instances=[[7.0]]
    )
    worker = rq("worker", "echo", "--burst")
    assert worker.wait() == 0, worker.said
    assert all(handle.get().status is JobStatus.FINISHED for handle in handles)
    assert pushed.return_value() == {"predictions": [7.0]}


def test_most_jobs_are_exact_and_the_rest_stays_queued(client, redis, rq):
    handles = submit(client, 10)
    worker = rq("worker", "echo@v2", "--max-jobs", "7")
    assert worker.wait() == 0, worker.said
    statuses = Counter(handle.get().status.value for handle in handles)
    assert statuses == {"finished": 7, "queued": 3}


def test_it_leaves_after_its_idle_time(redis, rq):
    worker = rq("worker", "echo@v2", "--max-idle-time", "1")
    assert worker.wait() == 0, worker.said
    assert not workers(redis)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_batch_end(client, redis, rq, number):
    worker = rq("worker", "echo@v2")
    wait_for_workers(redis, worker)
    slow = client.submit("echo", instances=[[estimators.SLOW]], version="v2")
    wait_until(lambda: slow.get().status is JobStatus.STARTED, 60)
    worker.process.send_signal(number)
    assert worker.wait() == 0, worker.said
    assert slow.get()["predictions"] == [estimators.SLOW]
    assert not workers(redis)


def test_a_second_signal_gives_the_batch_back(client, redis, rq):
    worker = rq("worker", "echo@v2")
    wait_for_workers(redis, worker)
    stuck = client.submit("echo", instances=[[estimators.HANG]], version="v2")
    wait_until(lambda: stuck.get().status is JobStatus.STARTED, 60)

    def ended() -> bool:  # signals that come together count as one
        worker.process.terminate()
        return worker.process.poll() is not None

    wait_until(ended, 60, interval_s=0.3)
    job = stuck.get()
    assert (job.status, job.attempts) == (JobStatus.QUEUED, 0)
    stuck.cancel()


def test_rq_suspends_commands_and_shuts_it_down(client, redis, rq):
    worker = rq("worker", "echo@v2", "--name", "ours")
    wait_for_workers(redis, worker)
    suspend(redis)
    (handle,) = submit(client)
    wait_until(lambda: workers(redis)[0].get_state() == "suspended", 60)
    assert handle.get().status is JobStatus.QUEUED
    resume(redis)
    assert handle.wait(60).status is JobStatus.FINISHED
    slow = client.submit("echo", instances=[[estimators.SLOW]], version="v2")
    wait_until(lambda: slow.get().status is JobStatus.STARTED, 60)
    send_stop_job_command(redis, slow.id, serializer=JSONSerializer)
    assert slow.wait(60).status is JobStatus.CANCELED
    send_shutdown_command(redis, "ours")
    assert worker.wait() == 0, worker.said


def test_rqs_pool_runs_and_stops_it(client, redis, rq):
    pool = rq("worker-pool", "echo@v2", "-n", "2")
    wait_for_workers(redis, pool, 2)
    Queue("echo@v2", connection=redis, serializer=JSONSerializer).enqueue_in(
        timedelta(seconds=0), TASK_NAME, instances=[[5.0]], job_id="later"
    )
    handles = submit(client, 50)
    assert all(handle.wait(60).status is JobStatus.FINISHED for handle in handles)
    assert client.wait("later", 20)["predictions"] == [5.0], pool.said
    pool.process.send_signal(signal.SIGINT)
    assert pool.wait() == 0, pool.said
    assert not workers(redis)


def test_a_dead_workers_batch_is_recovered_without_a_pool_of_ours(client, redis, rq):
    first = rq("worker", "echo@v2", "--name", "first")
    wait_for_workers(redis, first)
    slow = client.submit("echo", instances=[[estimators.SLOW]], version="v2")
    wait_until(lambda: slow.get().status is JobStatus.STARTED, 60)
    first.process.kill()
    first.wait()
    second = rq("worker", "echo@v2", "--name", "second")
    job = slow.wait(60)
    assert (job["predictions"], job.attempts) == ([estimators.SLOW], 2), second.said


def test_a_name_that_is_active_is_refused(redis, rq):
    first = rq("worker", "echo@v2", "--name", "ours")
    wait_for_workers(redis, first)
    second = rq("worker", "echo@v2", "--name", "ours")
    assert second.wait() == 1
    assert "'ours' is active" in second.said


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["default@"], "is no queue of a model"),
        (["echo@v2", "--serializer", "pickle"], "--serializer pickle is not honoured"),
        (["echo@v2", "--worker-ttl", "99"], "--worker-ttl is not honoured"),
        (["echo@v2", "--maintenance-interval", "9"], "--maintenance-interval is not honoured"),
        (["echo@v2", "--job-monitoring-interval", "9"], "--job-monitoring-interval is not"),
        (["echo@v2", "--dequeue-strategy", "random"], "--dequeue-strategy is not honoured"),
        (["echo@v2", "--log-format", "x"], "--log-format and --date-format are not honoured"),
        (["echo@v2", "-d"], "exception handlers are not run"),
        (["echo@v2", "--max-jobs", "0"], "--max-jobs must be above zero"),
        (["echo@v2", "--results-ttl", "-1"], "MODELYARD_RESULT_TTL_S"),
        (["echo@v2", "--name", "a/b"], "--name takes"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_honoured_is_refused_in_one_line(redis_url, capfd, options, reason):
    """In this process, by the command's own function: a process each would take long."""
    from rq.cli.cli import main

    with pytest.raises(SystemExit) as left:
        main(
            ["worker", "-w", "worker.BatchWorker", "--url", redis_url, *options],
            standalone_mode=False,
        )
    assert "worker.BatchWorker: " in str(left.value)
    assert reason in str(left.value)
    assert "\n" not in str(left.value)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))


def test_rqs_tools_read_workers_of_the_class(redis, rq):
    worker = rq("worker", "echo@v2", "--name", "ours")
    wait_for_workers(redis, worker)
    (found,) = BatchWorker.all(connection=redis)
    assert (found.name, found.queue_names()) == ("ours", ["echo@v2"])
