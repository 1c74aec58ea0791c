"""Workers that are forked are like spawned ones in all but how they come to be."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
from redis import Redis

from tests.helpers import estimators
from tests.helpers.pools import RunningPool
from tests.helpers.waiting import wait_until


def fork_server(pool: RunningPool, redis: Redis) -> psutil.Process | None:
    """The pool's child that is no worker, once it runs as the fork server."""
    workers = pool.workers(redis).values()
    for child in psutil.Process(pool.process.pid).children():
        with suppress(psutil.Error):
            if (
                child.pid not in workers
                and "-I" not in child.cmdline()[:2]
                and is_forked(child.pid)
            ):
                return child
    return None


def is_forked(pid: int) -> bool:
    return "worker.pool.fork_server" in psutil.Process(pid).cmdline()


def is_gone(pool: RunningPool, redis: Redis, pid: int) -> bool:
    return pid not in pool.workers(redis).values()


def a_worker(pool: RunningPool, redis: Redis) -> int:
    pool.wait_for_workers(redis)
    return next(iter(pool.workers(redis).values()))


def test_a_worker_is_forked_and_is_the_pools_child_in_a_group_of_its_own(redis, start, client):
    pool = start()
    pid = a_worker(pool, redis)
    assert is_forked(pid)
    assert psutil.Process(pid).ppid() == pool.process.pid
    assert os.getpgid(pid) == pid
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    assert client.submit("echo", instances=[[3.0]]).wait(60)["predictions"] == [3.0]


def test_the_fork_server_holds_no_model_no_connection_and_one_thread(redis, start, client):
    pool = start()
    client.submit("echo", instances=[[3.0]]).wait(60)
    server = fork_server(pool, redis)
    assert server is not None
    assert server.num_threads() == 1
    assert not server.net_connections("tcp")
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    assert "sklearn" in maps


def test_forked_workers_draw_numbers_of_their_own(redis, start, client):
    """Model code that asks NumPy's own generator gets the same in no two workers."""
    pool = start(pool_min=3, pool_max=3, batch_jobs=1)
    pool.wait_for_workers(redis, 3)
    drawn = []
    for pid in pool.workers(redis).values():
        assert is_forked(pid)
        drawn.append(client.submit("echo", instances=[[estimators.DRAW]]).wait(60))
        os.kill(pid, signal.SIGKILL)
        wait_until(partial(is_gone, pool, redis, pid), 60)
    assert len({tuple(job["predictions"]) for job in drawn}) == 3


def test_a_worker_is_started_all_the_same_while_the_fork_server_hangs(redis, start, client):
    pool = start()
    a_worker(pool, redis)
    server = fork_server(pool, redis)
    assert server is not None
    server.suspend()
    (pid,) = pool.workers(redis).values()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pool.workers(redis) and pid not in pool.workers(redis).values(), 60)
    assert not is_forked(a_worker(pool, redis))
    assert client.submit("echo", instances=[[3.0]]).wait(60)["predictions"] == [3.0]
    assert "without the fork server" in pool.log.read_text()
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


def test_a_killed_fork_server_takes_no_worker_along_and_another_takes_its_place(
    redis, start, client
):
    pool = start()
    pid = a_worker(pool, redis)
    server = fork_server(pool, redis)
    assert server is not None
    server.kill()
    wait_until(lambda: fork_server(pool, redis) not in (None, server), 60, "another fork server")
    assert pid in pool.workers(redis).values()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pool.workers(redis) and pid not in pool.workers(redis).values(), 60)
    assert is_forked(a_worker(pool, redis))
    assert client.submit("echo", instances=[[3.0]]).wait(60)["predictions"] == [3.0]


def test_threads_that_come_with_the_libraries_make_the_pool_spawn(redis, start, client):
    """OpenBLAS starts as many as the operator asks for, and none of them would be in a fork."""
    environ = {"OPENBLAS_NUM_THREADS": "3", "OMP_NUM_THREADS": "3"}
    pool = start(environ=environ)
    assert not is_forked(a_worker(pool, redis))
    assert "threads; for good" in pool.log.read_text()


def test_a_fork_server_that_cannot_start_is_done_without(redis, start, client, tmp_path):
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "sitecustomize.py").write_text(
        "import os, sys\nif 'worker.pool.fork_server' in sys.orig_argv: os._exit(3)\n"
    )
    pool = start(environ={"PYTHONPATH": str(tmp_path / "hooks")})
    assert not is_forked(a_worker(pool, redis))
    said = pool.log.read_text()
    assert "workers are started without the fork server" in said
    assert "another one is started in 1 s" in said
    assert client.submit("echo", instances=[[3.0]]).wait(60)["predictions"] == [3.0]


def test_without_a_fork_server_workers_are_spawned(redis, start, client):
    pool = start(fork_server=False)
    pid = a_worker(pool, redis)
    assert not is_forked(pid)
    assert [child.pid for child in psutil.Process(pool.process.pid).children()] == [pid]


def test_what_a_worker_leaves_behind_is_collected_by_the_pool(redis, start, client):
    pool = start()
    a_worker(pool, redis)
    job = client.submit("echo", instances=[[estimators.ORPHAN]]).wait(60)
    left = psutil.Process(int(job["predictions"][0]))
    wait_until(lambda: left.ppid() == pool.process.pid, 60, "it is the pool's")
    left.kill()
    wait_until(lambda: not left.is_running(), 60, "no zombie stays")


def test_a_killed_pool_takes_its_fork_server_and_its_workers_along(redis, start):
    pool = start(pool_min=2, pool_max=2)
    pool.wait_for_workers(redis, 2)
    family = psutil.Process(pool.process.pid).children(recursive=True)
    pool.kill()
    gone, alive = psutil.wait_procs(family, 10)
    assert not alive
    assert len(gone) >= 3
