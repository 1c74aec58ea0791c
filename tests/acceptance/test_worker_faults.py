"""Workers that hold on, freeze or are cut off, ids that come twice, and masses of cancellations."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from producer import Client, Handle
from tests.chaos.points import hooked
from tests.helpers import estimators
from tests.helpers.waiting import wait_until
from yard.contract import keys
from yard.contract.values import JobStatus, Request
from yard.errors import JobEnded
from yard.platform import extras

QUEUE = "echo@v1"


def submit(client: Client, *numbers: float) -> list[Handle]:
    return [client.submit("echo", instances=[[number]]) for number in numbers]


def started(handle: Handle) -> None:
    wait_until(lambda: handle.get().status is JobStatus.STARTED, 60)


def worker_of(redis: Redis, handle: Handle) -> str:
    name: Any = redis.hget(keys.key("job", handle.id), "worker_name")
    return str(name.decode())


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


class TestHoldingOn:
    def test_code_that_keeps_pythons_lock_beyond_a_lease_is_no_death(self, client, redis, start):
        """Its worker cannot renew; its pool can, for it sees that the process runs."""
        start(workers=2, lease_s=1.0)
        submit(client, 0.0)[0].wait(60)
        (holding,) = submit(client, estimators.HOLD)
        job = holding.wait(60)
        assert job["predictions"] == [estimators.HOLD]
        assert job.attempts == 1

    def test_code_that_keeps_it_for_ever_is_killed_at_its_deadline(self, client, redis, start):
        pool = start(lease_s=1.0)
        workers = pool.workers(redis)
        hasty = Client(client.url, settings=client.settings.model_copy(update={"timeout_s": 2}))
        (holding,) = submit(hasty, estimators.HOLD_FOR_EVER)
        job = holding.wait(60)
        assert job.error is not None
        assert job.error.code == "timeout"
        assert submit(client, 1.0)[0].wait(60)["predictions"] == [1.0]
        assert not set(pool.workers(redis)) & set(workers)
        hasty.close()

    def test_a_worker_that_froze_and_lost_its_batch_is_replaced_all_the_same(
        self, client, redis, start
    ):
        pool = start(workers=2, lease_s=1.0)
        hasty = Client(client.url, settings=client.settings.model_copy(update={"timeout_s": 4}))
        (slow,) = submit(hasty, estimators.SLOW)
        started(slow)
        name = worker_of(redis, slow)
        pid = pool.workers(redis)[name]
        os.kill(pid, signal.SIGSTOP)
        assert slow.wait(60)["predictions"] == [estimators.SLOW]
        wait_until(lambda: not is_alive(pid), 60, "it is killed, though it has no batch any more")
        wait_until(lambda: len(pool.workers(redis)) == 2, 60, "another one takes its place")
        hasty.close()


def test_a_batch_that_a_draining_pool_cuts_off_counts_no_crash(client, redis, start):
    pool = start(drain_s=1.0)
    (hanging,) = submit(client, estimators.HANG)
    started(hanging)
    assert pool.stop() == 0
    job = hanging.get()
    assert (job.status, job.attempts) == (JobStatus.QUEUED, 0)
    assert int(redis.hget(keys.key("job", job.id), "my_crashes") or 0) == 0
    hanging.cancel()


def test_an_id_pushed_before_during_and_after_its_run_runs_once(client, redis, start, journal):
    pool = start(workers=2)
    queue = keys.key("queue", QUEUE)
    numbers = [float(n) for n in range(100, 140)]
    handles = submit(client, *numbers, estimators.SLOW)
    for handle in handles:
        redis.rpush(queue, *[handle.id] * 3)
    started(handles[-1])
    redis.rpush(queue, *[handle.id for handle in handles])
    for handle in handles:
        handle.wait(60)
    redis.rpush(queue, *[handle.id for handle in handles])
    wait_until(lambda: not redis.exists(queue), 60)
    pool.stop()
    runs = Counter(journal.read_text().split())  # with what the model was tried on when it loaded
    assert {runs[f"{number:.10g}"] for number in (*numbers, estimators.SLOW)} == {1}
    assert all(redis.xlen(keys.key("results", handle.id)) == 1 for handle in handles)


def test_a_storm_of_cancellations_ends_each_job_once(client, redis, start):
    start(workers=2, batch_jobs=8)
    requests = [Request("echo", [[float(n)]]) for n in range(1000)]
    handles = [one for one in client.submit_many(requests) if isinstance(one, Handle)]
    canceled: list[str] = []

    def cancel(some: list[Handle]) -> None:
        for handle in some:
            with contextlib.suppress(JobEnded):
                handle.cancel()
                canceled.append(handle.id)

    threads = [threading.Thread(target=cancel, args=(handles[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    jobs = {handle.id: handle.wait(60) for handle in handles}
    ended = Counter(job.status for job in jobs.values())
    assert ended[JobStatus.CANCELED] == len(canceled)
    assert ended[JobStatus.FINISHED] == 1000 - len(canceled)
    assert all(jobs[job_id].status is JobStatus.CANCELED for job_id in canceled)
    assert all(redis.xlen(keys.key("results", job_id)) == 1 for job_id in jobs)
    wait_until(lambda: not redis.exists(keys.LEASES, keys.key("wip", QUEUE)), 60)


class TestClocks:
    @pytest.mark.parametrize("wrong_s", [3600, -3600])
    def test_a_clock_that_is_wrong_by_an_hour_has_no_effect(self, client, redis, start, wrong_s):
        start(workers=2)
        pool = start(workers=1, environ=hooked(CHAOS_CLOCK=str(wrong_s)))
        handles = [
            client.submit("echo", instances=[[float(n)]], deadline_ms=30_000) for n in range(100)
        ]
        handles += submit(client, *[estimators.SLOW] * 3)
        jobs = [handle.wait(60) for handle in handles]
        assert {job.status for job in jobs} == {JobStatus.FINISHED}
        assert {job.attempts for job in jobs} == {1}
        assert pool.process.poll() is None

    def test_no_lease_and_no_deadline_goes_by_a_clock_but_that_of_redis(self):
        """The wall clock is read where times are written for people, and nowhere else."""
        reads = re.compile(r"time\.time\b|datetime\.now|utcnow|time_ns")
        found = {
            path.name
            for package in ("worker", "yard")
            for path in (extras.root() / package).rglob("*.py")
            if reads.search(path.read_text().replace("monotonic_ns", ""))
        }
        # An id begins with the time at which it was made.
        assert found == {"timestamps.py", "ids.py"}
