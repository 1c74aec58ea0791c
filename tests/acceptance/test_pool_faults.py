"""Pools whose workers die, hang or are stopped: real processes, real signals."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from functools import partial
from pathlib import Path

import pytest
from redis import Redis
from rq.command import send_shutdown_command, send_stop_job_command
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend
from rq.worker import Worker as RqWorker

from models.publish.publisher import publish
from models.store.repository import Repository
from producer import Client, Handle
from tests.helpers import estimators
from tests.helpers.pools import RunningPool, running_pool
from tests.helpers.waiting import ends_soon, wait_until
from yard.contract import keys
from yard.contract.values import Job, JobStatus
from yard.settings import Settings

QUEUE = "echo@v1"


def submit(client: Client, *numbers: float) -> list[Handle]:
    return [client.submit("echo", instances=[[number]]) for number in numbers]


def queued_together(client: Client, *numbers: float) -> list[Handle]:
    """Jobs that wait at the same time, so that a worker takes them as one batch."""
    suspend(client.redis)
    handles = submit(client, *numbers)
    resume(client.redis)
    return handles


def results(handles: list[Handle], timeout_s: float = 20) -> list[Job]:
    return [handle.wait(timeout_s) for handle in handles]


def codes(jobs: list[Job]) -> list[str]:
    return [job.error.code if job.error else job.status.value for job in jobs]


def is_empty(redis: Redis) -> bool:
    held = [keys.LEASES, keys.key("queue", QUEUE), keys.key("wip", QUEUE)]
    return not redis.exists(*held) and not list(redis.scan_iter("modelyard:batch:*"))


def wait_for_start(handle: Handle) -> Job:
    return wait_until(
        lambda: job if (job := handle.get()).status is JobStatus.STARTED else None, 20
    )


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (estimators.EXIT_0, "worker_crashed"),
        (estimators.EXIT_1, "worker_crashed"),
        (estimators.SEGFAULT, "worker_crashed"),
        (estimators.ABORT, "worker_crashed"),
        (estimators.KILL_GROUP, "worker_crashed"),
        (estimators.KILLED_FOR_MEMORY, "worker_crashed"),
        (estimators.OUT_OF_MEMORY, "predict_failed"),
        (estimators.SYS_EXIT, "predict_failed"),
        (estimators.RAISE, "predict_failed"),
    ],
    ids=[
        *("exits 0", "exits 1", "segfaults", "aborts", "kills its group", "killed for memory"),
        *("out of memory", "sys.exit", "raises"),
    ],
)
def test_one_that_kills_its_worker_fails_and_its_batch_mates_finish(
    client, redis, start, number, code
):
    start()
    good = [float(n) for n in range(8)]
    handles = queued_together(client, *good[:4], number, *good[4:])
    jobs = results(handles, 30)
    assert codes(jobs[:4] + jobs[5:]) == ["finished"] * 8
    assert [job["predictions"] for job in jobs[:4] + jobs[5:]] == [[n] for n in good]
    assert codes(jobs[4:5]) == [code]
    assert all(redis.xlen(keys.key("results", job.id)) == 1 for job in jobs)
    wait_until(lambda: is_empty(redis), what="nothing is left behind")


def test_a_killed_workers_jobs_are_taken_up_by_another(client, redis, start):
    pool = start(workers=2)
    submit(client, 1.0)[0].wait(60)
    (slow,) = submit(client, estimators.SLOW)
    worker = wait_for_start(slow)
    name = redis.hget(keys.key("job", worker.id), "worker_name").decode()
    os.kill(pool.workers(redis)[name], signal.SIGKILL)
    again = slow.wait(60)
    assert again["predictions"] == [estimators.SLOW]
    assert again.attempts == 2


def test_a_dead_worker_is_replaced(client, redis, start):
    pool = start()
    (name, pid), *_ = pool.workers(redis).items()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pool.workers(redis) and name not in pool.workers(redis), 60)
    assert submit(client, 5.0)[0].wait(60)["predictions"] == [5.0]


def test_a_hanging_job_fails_with_timeout_and_its_batch_mates_finish(client, redis, start):
    start()
    submit(client, 0.0)[0].wait(60)
    hasty = Client(client.url, settings=Settings.load({}, timeout_s=1))
    jobs = results(queued_together(hasty, 1.0, estimators.HANG, 2.0), 30)
    hasty.close()
    assert codes(jobs) == ["finished", "timeout", "finished"]
    wait_until(lambda: is_empty(redis))


def test_sigterm_drains_the_batch_and_leaves_the_rest_queued(client, redis, start):
    pool = start()
    submit(client, 0.0)[0].wait(60)
    (slow,) = submit(client, estimators.SLOW)
    wait_for_start(slow)
    rest = submit(client, 1.0, 2.0)
    assert pool.stop() == 0
    assert slow.get()["predictions"] == [estimators.SLOW]
    assert [handle.get().status for handle in rest] == [JobStatus.QUEUED] * 2
    assert [handle.get().attempts for handle in rest] == [0, 0]
    assert not redis.exists(keys.WORKERS, keys.LEASES)
    start()
    assert codes(results(rest)) == ["finished"] * 2


def test_an_idle_pool_stops_at_once_with_status_0(redis, start):
    pool = start(drain_s=600)
    assert pool.stop() == 0
    assert not redis.exists(keys.WORKERS)
    assert not redis.zrange(keys.PRESENCE, 0, -1)


def test_second_sigterm_gives_the_running_job_back(client, redis, start):
    pool = start(drain_s=600)
    (hanging,) = submit(client, estimators.HANG)
    wait_for_start(hanging)
    (pid,) = pool.workers(redis).values()
    suspend(redis)  # so that no worker takes it up again

    def is_gone() -> bool:
        """Signals that come together are one request to stop."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        return not is_alive(pid)

    wait_until(is_gone, what="it leaves", interval_s=0.5)
    wait_until(lambda: hanging.get().status is JobStatus.QUEUED)
    hanging.cancel()


def test_a_killed_pool_leaves_no_worker_and_loses_no_job(client, redis, start):
    pool = start(workers=2)
    pids = list(pool.workers(redis).values())
    (slow,) = submit(client, estimators.SLOW)
    wait_for_start(slow)
    pool.kill()
    wait_until(lambda: not any(map(is_alive, pids)), 60, "its workers leave")
    start()
    assert slow.wait(60)["predictions"] == [estimators.SLOW]
    wait_until(lambda: is_empty(redis))


@pytest.mark.parametrize("number", [estimators.HANG, estimators.HOLD_FOR_EVER])
def test_a_worker_that_hangs_when_its_pool_is_killed_ends_and_its_job_fails_in_time(
    client, redis, start, number
):
    """Asleep it goes on renewing its lease; holding Python's lock it hears no signal."""
    pool = start(lease_s=0.5)
    hasty = Client(client.url, settings=Settings.load({}, timeout_s=1))
    (hanging,) = submit(hasty, number)
    wait_for_start(hanging)
    (pid,) = pool.workers(redis).values()
    pool.kill()
    start(lease_s=0.5)
    wait_until(lambda: not is_alive(pid), 60, "the kernel ends it")
    assert codes([hanging.wait(60)]) == ["timeout"]
    hasty.close()


def test_a_frozen_worker_loses_its_batch_and_writes_nothing_when_it_wakes(client, redis, start):
    pool = start(workers=2)
    submit(client, 0.0)[0].wait(60)
    (slow,) = submit(client, estimators.SLOW)
    job = wait_for_start(slow)
    name = redis.hget(keys.key("job", job.id), "worker_name").decode()
    pid = pool.workers(redis)[name]
    os.kill(pid, signal.SIGSTOP)
    try:
        done = slow.wait(60)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert done["predictions"] == [estimators.SLOW]
    assert done.attempts == 2
    assert codes(results(submit(client, *map(float, range(20))))) == ["finished"] * 20
    assert is_alive(pid), "it goes on after it woke"
    assert redis.xlen(keys.key("results", slow.id)) == 1


def test_an_empty_pool_starts_a_worker_for_a_job_and_lets_it_go_when_idle(
    client, redis, redis_url, store, tmp_path
):
    settings = {"pool_min": 0, "pool_max": 2, "idle_s": 1.0}
    with running_pool(redis_url, store, tmp_path, **settings) as pool:
        assert submit(client, 4.0)[0].wait(60)["predictions"] == [4.0]
        assert len(pool.workers(redis)) == 1
        wait_until(lambda: not pool.workers(redis), 60, "the idle worker leaves")
        assert submit(client, 5.0)[0].wait(60)["predictions"] == [5.0]


def test_jobs_that_come_while_the_last_worker_leaves_are_not_lost(
    client, redis, redis_url, store, tmp_path
):
    """Some come at zero workers, some just before or after one was asked to leave."""
    handles = []
    with running_pool(redis_url, store, tmp_path, pool_min=0, pool_max=2) as pool:
        for step in range(12):
            handles += submit(client, *map(float, range(1 + step % 3)))
            if step % 2:
                handles[-1].wait(60)
            else:
                wait_until(partial(has_worker_or_ended, pool, redis, handles[-1]), 60)
            handles += submit(client, float(step))
            for pid in pool.workers(redis).values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            handles += submit(client, float(step))
        jobs = results(handles)
        assert codes(jobs) == ["finished"] * len(jobs)
        assert {job.attempts for job in jobs} == {1}
        wait_until(lambda: is_empty(redis), what="nothing is left behind")
    assert len(set(re.findall(r"worker started .*worker=(\S+)", pool_log(tmp_path)))) > 3


def has_worker_or_ended(pool: RunningPool, redis: Redis, handle: Handle) -> bool:
    return bool(pool.workers(redis)) or handle.get().status is JobStatus.FINISHED


def pool_log(folder: Path) -> str:
    return (folder / "pool.log").read_text()


def test_waiting_jobs_bring_a_second_worker(client, redis, redis_url, store, tmp_path):
    with running_pool(redis_url, store, tmp_path, pool_min=1, pool_max=2, batch_jobs=1) as pool:
        pool.wait_for_workers(redis)
        handles = submit(client, *[estimators.SLOW] * 6)
        assert len(pool.wait_for_workers(redis, 2)) == 2
        assert codes(results(handles, 30)) == ["finished"] * 6


def test_a_leaking_worker_is_replaced_between_batches(client, redis, start):
    pool = start(worker_bytes=400 * 2**20)
    (pid,) = pool.workers(redis).values()
    jobs = []
    for _ in range(14):  # together they leave more behind than a worker may have
        jobs += results(submit(client, estimators.LEAK))
    assert codes(jobs) == ["finished"] * 14
    assert all(job.attempts == 1 for job in jobs)
    wait_until(lambda: not is_alive(pid), 60)


def test_jobs_of_a_model_that_does_not_load_fail_soon_and_others_go_on(client, redis, start, store):
    broken = Repository(store)
    publish(broken, redis, estimators.Echo().fit([[1.0]]), "broken", "v1", [[1.0]], activate=True)
    artefact = next((store / "broken" / "v1").glob("*.joblib"))
    artefact.chmod(0o644)
    artefact.write_bytes(b"nothing that loads")
    start()
    submit(client, 1.0)[0].wait(60)
    with ends_soon():
        failed = client.submit("broken", instances=[[1.0]]).wait(60)
    assert codes([failed]) == ["model_unavailable"]
    assert codes(results(submit(client, 1.0))) == ["finished"]


def test_jobs_of_a_version_that_was_taken_away_fail_with_version_gone(client, redis, start, store):
    gone = submit(client, 1.0)
    redis.hdel(keys.key("versions", "echo"), "v1")
    start()
    assert codes(results(gone)) == ["version_gone"]


def test_a_store_that_holds_other_bytes_than_were_published_is_not_opened(
    client, redis, start, store, tmp_path
):
    other = Repository(tmp_path / "other")
    swapped = estimators.Echo(str(tmp_path / "elsewhere")).fit([[1.0]])
    publish(other, None, swapped, "echo", "v1", [[1.0]])
    (store / "echo" / "v1").rename(tmp_path / "aside")
    (tmp_path / "other" / "echo" / "v1").rename(store / "echo" / "v1")
    start()
    (job,) = results(submit(client, 1.0))
    assert codes([job]) == ["model_unavailable"]
    assert job.error is not None
    assert "published was" in job.error.message


class TestRqTools:
    def test_rq_lists_the_worker_and_its_shutdown_command_drains_it(self, client, redis, start):
        pool = start()
        (worker,) = RqWorker.all(connection=redis)
        assert (worker.get_state(), QUEUE in worker.queue_names()) == ("idle", True)
        (pid,) = pool.workers(redis).values()
        send_shutdown_command(redis, worker.name)
        wait_until(lambda: not is_alive(pid), 60)
        wait_until(lambda: pool.workers(redis), 60, "another one takes its place")

    def test_rubbish_on_the_command_channel_does_not_deafen_the_worker(self, redis, start):
        pool = start()
        ((name, pid),) = pool.workers(redis).items()
        wait_until(lambda: redis.publish(keys.key("pubsub", name), b"\xff not json"), 60)
        redis.publish(keys.key("pubsub", name), b'{"command": 5}')
        send_shutdown_command(redis, name)
        wait_until(lambda: not is_alive(pid), 60)

    def test_stopping_a_job_cancels_it_and_keeps_its_worker(self, client, redis, start):
        pool = start()
        submit(client, 0.0)[0].wait(60)
        (pid,) = pool.workers(redis).values()
        (slow,) = submit(client, estimators.SLOW)
        wait_for_start(slow)
        send_stop_job_command(redis, slow.id, serializer=JSONSerializer)
        assert slow.wait(60).status is JobStatus.CANCELED
        assert codes(results(submit(client, 1.0))) == ["finished"]
        assert is_alive(pid)

    def test_suspended_workers_say_so_and_go_on_when_resumed(self, client, redis, start):
        start()
        suspend(redis)
        (handle,) = submit(client, 3.0)
        wait_until(lambda: RqWorker.all(connection=redis)[0].get_state() == "suspended", 60)
        assert handle.get().status is JobStatus.QUEUED
        resume(redis)
        assert handle.wait(60)["predictions"] == [3.0]
        wait_until(lambda: RqWorker.all(connection=redis)[0].get_state() == "idle", 60)


def is_alive(pid: int) -> bool:
    """True if the process runs, and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
