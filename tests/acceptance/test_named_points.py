"""Workers and pools that die, or get a SIGTERM, exactly between two steps of the protocol."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from producer import Client, Handle
from tests.chaos.points import Strikes
from tests.helpers import estimators
from tests.helpers.pools import RunningPool
from tests.helpers.waiting import wait_until
from yard.contract import keys
from yard.contract.values import JobStatus

QUEUE = "echo@v1"

#: Strikes of each kind; `make chaos` asks for more.
TIMES = int(os.environ.get("CHAOS_TIMES", "2"))


@pytest.fixture
def struck(start: Callable[..., RunningPool]) -> Callable[..., RunningPool]:
    """Starts a pool whose processes are hit; its workers may never all be there."""
    return lambda strikes, **settings: start(environ=strikes.environ, waits=False, **settings)


def nothing_is_left(redis: Redis) -> bool:
    held = [keys.LEASES, keys.key("queue", QUEUE), keys.key("wip", QUEUE)]
    return not redis.exists(*held) and not list(redis.scan_iter("modelyard:batch:*"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "point",
    [
        "claim:before",
        "claim:sent",
        "claim:after",
        "load:before",
        "predict:before",
        "predict:after",
        "send:before",
        "send:after",
        "receive:after",
    ],
)
def test_jobs_of_workers_that_die_at_a_point_end_once(
    client, redis, redis_url, struck, tmp_path, point
):
    # A version that kills its workers, without a predict that ends well, is held back ever longer.
    times = TIMES if point in ("claim:sent", "claim:after") else min(TIMES, 4)
    strikes = Strikes(tmp_path / "tokens", {point: ("KILL", 1.0)}, times)
    pool = struck(strikes, workers=2, attempts=100)
    handles = [client.submit("echo", instances=[[float(n)]]) for n in range(300)]
    jobs = [handle.wait(20 + 5 * times) for handle in handles]
    wait_until(lambda: strikes.count == times, 60, "all strikes have happened")
    assert [job.result for job in jobs] == [{"predictions": [float(n)]} for n in range(len(jobs))]
    assert all(redis.xlen(keys.key("results", job.id)) == 1 for job in jobs)
    assert pool.process.poll() is None
    wait_until(lambda: nothing_is_left(redis), 60)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("point", ["claim:before", "claim:sent", "claim:after", "send:after"])
def test_a_sigterm_at_a_point_strands_no_job_and_counts_no_crash(
    client, redis, struck, tmp_path, point
):
    """RQ strands a job whose worker gets a SIGTERM between taking and starting it (rq#2236)."""
    times = TIMES * 3
    strikes = Strikes(tmp_path / "tokens", {point: ("TERM", 1.0)}, times)
    struck(strikes, workers=2, batch_jobs=8)
    handles = [client.submit("echo", instances=[[float(n)]]) for n in range(40 * times)]
    wait_until(lambda: strikes.count == times, 10 * times)
    handles += [client.submit("echo", instances=[[float(n)]]) for n in range(20)]
    jobs = [handle.wait(60) for handle in handles]
    assert {job.status for job in jobs} == {JobStatus.FINISHED}
    assert all(redis.xlen(keys.key("results", job.id)) == 1 for job in jobs)
    crashes = [int(redis.hget(keys.key("job", job.id), "my_crashes") or 0) for job in jobs]
    assert sum(crashes) == 0
    wait_until(lambda: nothing_is_left(redis), 60)


@pytest.mark.parametrize("point", ["reap:before", "reap:sent", "reap:after"])
def test_a_pool_that_dies_burying_a_worker_loses_nothing(
    client, redis, start, struck, tmp_path, point
):
    dying = struck(Strikes(tmp_path / "tokens", {point: ("KILL", 1.0)}, 1))
    slow, pid = running_slowly(client, redis, dying)
    os.kill(pid, signal.SIGKILL)
    dying.process.wait(60)
    start()
    assert slow.wait(60)["predictions"] == [estimators.SLOW]
    assert redis.xlen(keys.key("results", slow.id)) == 1
    wait_until(lambda: nothing_is_left(redis), 60)


@pytest.mark.parametrize("point", ["sweep:before", "sweep:sent", "sweep:after"])
def test_a_pool_that_dies_sweeping_loses_nothing(client, redis, start, struck, tmp_path, point):
    first = start()
    slow, pid = running_slowly(client, redis, first)
    first.kill()
    os.kill(pid, signal.SIGKILL)
    redis.zadd(keys.LEASES, dict.fromkeys(redis.zrange(keys.LEASES, 0, -1), 1))
    redis.hset(keys.SWEPT, mapping={"at": redis.time()[0] * 1000, "spare_until": 0})
    dying = struck(Strikes(tmp_path / "tokens", {point: ("KILL", 1.0)}, 1))
    dying.process.wait(60)
    start()
    assert slow.wait(60)["predictions"] == [estimators.SLOW]
    assert redis.xlen(keys.key("results", slow.id)) == 1
    wait_until(lambda: nothing_is_left(redis), 60)


def running_slowly(client: Client, redis: Redis, pool: RunningPool) -> tuple[Handle, int]:
    """A job that is being run, and the worker's process."""
    pool.wait_for_workers(redis)
    handle = client.submit("echo", instances=[[estimators.SLOW]])
    wait_until(lambda: handle.get().status is JobStatus.STARTED, 60)
    worker: Any = redis.hget(keys.key("job", handle.id), "worker_name")
    return handle, pool.workers(redis)[worker.decode()]


def test_a_worker_that_dies_leaving_leaves_nothing_behind(client, redis, struck, tmp_path):
    strikes = Strikes(tmp_path / "tokens", {"leave:before": ("KILL", 1.0)}, 1)
    pool = struck(strikes)
    pool.wait_for_workers(redis)
    assert client.submit("echo", instances=[[1.0]]).wait(60)["predictions"] == [1.0]
    pool.stop()
    assert strikes.count == 1
    assert not redis.exists(keys.WORKERS, keys.LEASES)
