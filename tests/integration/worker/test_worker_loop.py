"""One worker's loop, in this process, under errors that it does not expect."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from rq.suspension import suspend

from tests.helpers.waiting import wait_until
from worker.inference.executor import BatchExecutor
from worker.inference.loader import Loader
from worker.process.heartbeat import Heartbeat
from worker.process.registration import Registration
from worker.process.worker import _IDLE_S, Worker
from worker.queue.lease import Lease
from yard.contract import keys
from yard.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load({}, lease_s=0.5, attempts=3, store=str(tmp_path), drain_s=1.0)


@pytest.fixture
def work(redis_url: str, settings: Settings) -> Iterator[Callable[[], None]]:
    """Runs a worker in this process; a signal that comes after it has left does no harm."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield lambda: Worker(settings, redis_url, "w1").run()
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def work_until(work: Callable[[], None]) -> Callable[..., None]:
    """Runs a worker, and stops it when a condition is true."""

    def work_until(condition: Callable[[], object], timeout_s: float = 10) -> None:
        failed: list[AssertionError] = []

        def watch() -> None:
            try:
                wait_until(condition, timeout_s)
            except AssertionError as error:
                failed.append(error)
            os.kill(os.getpid(), signal.SIGTERM)

        watcher = threading.Thread(target=watch)
        watcher.start()
        work()
        watcher.join()
        assert not failed, failed

    return work_until


def raising(error: BaseException) -> Callable[..., Any]:
    def call(*_args: Any, **_kwargs: Any) -> Any:
        raise error

    return call


def test_a_file_that_cannot_be_read_is_no_outage(protocol, monkeypatch, work_until):
    """An OSError of the store's, taken for Redis' absence, would bring the job back for ever."""
    monkeypatch.setattr(BatchExecutor, "run", raising(PermissionError("no such luck")))
    (job_id,) = protocol.submit()
    work_until(lambda: protocol.client.get(job_id).status.is_terminal)
    assert protocol.outcome(job_id) == ("failed", "worker_crashed")


def test_what_may_be_needed_is_imported_when_nothing_was_to_do_for_a_while(
    protocol, monkeypatch, work_until
):
    """Imports can take a second: a job that comes right behind another is not to wait for them."""
    served, prepared = [], []
    run = BatchExecutor.run

    def noting(self: BatchExecutor, *arguments: Any) -> Any:
        ended = run(self, *arguments)
        served.append(time.monotonic())
        return ended

    monkeypatch.setattr(BatchExecutor, "run", noting)
    monkeypatch.setattr(Loader, "prepare", lambda *_: prepared.append(time.monotonic()))
    protocol.submit()
    work_until(lambda: prepared)
    assert prepared[0] - served[0] >= _IDLE_S


def test_an_error_in_claiming_ends_no_worker(client, redis, monkeypatch, work_until):
    calls: list[int] = []

    def claim(*_args: Any) -> int:
        calls.append(1)
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "rubbish")

    monkeypatch.setattr(Lease, "claim", claim)
    work_until(lambda: len(calls) > 3)
    assert not redis.exists(keys.WORKERS), "it left as it was told to"


def test_an_error_in_the_thread_that_keeps_the_lease_does_not_end_it(
    redis, protocol, monkeypatch, work_until
):
    done = threading.Event()
    monkeypatch.setattr(BatchExecutor, "run", lambda *_args: done.wait(5) and None)
    monkeypatch.setattr(Heartbeat, "_loaded", raising(RuntimeError("nobody thought of it")))
    protocol.submit()
    renewals: list[float] = []

    def has_renewed() -> bool:
        score = redis.zscore(keys.LEASES, "w1")
        if score is not None and score not in renewals:
            renewals.append(score)
        if len(renewals) > 3:
            done.set()
        return len(renewals) > 3

    work_until(has_renewed)


def test_a_claim_whose_answer_was_lost_when_the_worker_left_is_given_back_at_no_cost(
    redis, protocol, monkeypatch, work
):
    (job_id,) = protocol.submit()
    claim = Lease.claim

    def lost(self: Lease, queues: Any) -> Any:
        claim(self, queues)
        os.kill(os.getpid(), signal.SIGTERM)
        raise TimeoutError

    monkeypatch.setattr(Lease, "claim", lost)
    work()
    assert protocol.statuses([job_id]) == ["queued"]
    assert protocol.waiting() == [job_id]
    assert protocol.attempts([job_id]) == [0]
    assert not redis.exists(keys.LEASES, keys.WORKERS)


def test_a_redis_that_goes_away_while_workers_are_suspended_ends_none(
    client, redis, monkeypatch, work_until
):
    calls: list[str] = []

    def set_state(_registration: Registration, state: str) -> None:
        calls.append(state)
        raise RedisConnectionError

    monkeypatch.setattr(Registration, "set_state", set_state)
    client.submit("echo", instances=[[1.0]])
    suspend(redis)
    work_until(lambda: len(calls) > 2)
    assert set(calls) == {"suspended"}
    assert not redis.exists(keys.WORKERS), "it left as it was told to"
