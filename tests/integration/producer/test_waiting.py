"""Waiting for a job's end: the client reads for each wait, a listener once for a whole process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis

from producer import completions
from producer.client import Client
from producer.completions import LOOK_S, CompletionListener
from producer.results import Raw, decode_job
from tests.helpers.redis_server import RedisServer
from tests.helpers.stand_ins import ROW, fail, finish, new_client, publish, start
from tests.helpers.waiting import ends_soon, wait_until
from yard.contract import keys
from yard.contract.values import Job, JobStatus, Request
from yard.errors import (
    InvalidInput,
    InvalidName,
    ModelUnavailable,
    Timeout,
    Unavailable,
    UnknownJob,
)

RESULT = {"predictions": ["setosa"]}


@pytest.fixture
def client(redis: Redis, redis_url: str) -> Iterator[Client]:
    publish(redis, "iris", "v1", active="v1")
    with new_client(redis_url) as made:
        yield made


class Told:
    """A thread's wait for one job."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self._event = threading.Event()
        self._raw: Raw | None = None

    def wait(self, timeout_s: float) -> Job | None:
        self._event.wait(timeout_s)
        return None if self._raw is None else decode_job(self.job_id, self._raw)

    def tell(self, raw: Raw) -> None:
        self._raw = raw
        self._event.set()


def new_listener(url: str) -> CompletionListener[Told]:
    """A completion listener for threads."""

    def tell(told: Sequence[tuple[Told, Raw]]) -> None:
        for waiter, raw in told:
            waiter.tell(raw)

    return CompletionListener(url, tell)


def ended_with(job: Job | None) -> Any:
    return None if job is None else job.result


@contextmanager
def expecting(listener: CompletionListener[Told], job_id: str) -> Iterator[Told]:
    waiter = Told(job_id)
    listener.expect(job_id, waiter)
    try:
        yield waiter
    finally:
        listener.forget(job_id, waiter)


@pytest.fixture
def listener(redis_url: str) -> Iterator[CompletionListener[Told]]:
    made = new_listener(redis_url)
    yield made
    made.close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as pool:
        yield pool


def submitted(client: Client) -> str:
    return client.submit("iris", instances=[ROW]).id


def is_blocked(redis: Redis, command: str) -> Callable[[], bool]:
    """True if a client sits in a blocking command, by the server's own account."""
    return lambda: any(c["cmd"] == command and "b" in c["flags"] for c in redis.client_list())


def is_subscribed(redis: Redis) -> Callable[[], bool]:
    return lambda: dict(redis.pubsub_numsub(keys.ENDED))[keys.ENDED.encode()] == 1


# The client


def test_a_job_that_has_ended_is_given_at_once(client: Client, redis: Redis):
    job_id = submitted(client)
    finish(redis, job_id, RESULT)
    with ends_soon():
        job = client.wait(job_id, 10)
    assert job.status is JobStatus.FINISHED
    assert job.result == RESULT
    assert job["predictions"] == ["setosa"]


def test_a_wait_ends_as_soon_as_the_job_does(
    client: Client,
    redis: Redis,
    redis_url: str,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
):
    """The stream wakes it: the read that it would otherwise wait for is longer than the test."""
    monkeypatch.setattr("producer.client._SLICE_S", 60.0)
    with new_client(redis_url) as patient:
        job_id = submitted(patient)
        waiting = threads.submit(patient.wait, job_id, 60)
        wait_until(is_blocked(redis, "xread"))
        start(redis, job_id)
        finish(redis, job_id, RESULT, is_told=False)
        assert waiting.result(20).result == RESULT


def test_a_failed_job_ends_the_wait_and_says_why(client: Client, redis: Redis):
    bad, gone = submitted(client), submitted(client)
    fail(redis, bad, "invalid_input", "instances[3]: no number", row=3)
    fail(redis, gone, "model_unavailable", "the artefact does not load")
    job = client.wait(bad, 5)
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert job.error.row == 3
    with pytest.raises(InvalidInput, match="no number"):
        job["predictions"]
    with pytest.raises(ModelUnavailable):
        client.wait(gone, 5).raise_if_failed()


def test_a_canceled_job_ends_the_wait(client: Client, redis: Redis, threads: ThreadPoolExecutor):
    job_id = submitted(client)
    waiting = threads.submit(client.wait, job_id, 10)
    wait_until(is_blocked(redis, "xread"))
    client.cancel(job_id)
    assert waiting.result(20).status is JobStatus.CANCELED


@pytest.mark.parametrize("timeout_s", [0, 0.05, -1])
def test_a_job_that_does_not_end_in_time_lives_on(client: Client, redis: Redis, timeout_s: float):
    job_id = submitted(client)
    with ends_soon(), pytest.raises(Timeout, match=job_id) as caught:
        client.wait(job_id, timeout_s)
    assert caught.value.job_id == job_id
    finish(redis, job_id, RESULT)
    assert client.wait(job_id, 5).result == RESULT


def test_a_wait_may_be_longer_than_one_blocking_read(
    client: Client, redis: Redis, threads: ThreadPoolExecutor
):
    def reads() -> int:
        counted: dict[str, Any] = redis.info("commandstats")
        return int(counted.get("cmdstat_xread", {}).get("calls", 0))

    job_id = submitted(client)
    redis.config_resetstat()
    waiting = threads.submit(client.wait, job_id, 10)
    wait_until(lambda: reads() >= 2)
    finish(redis, job_id, RESULT)
    assert waiting.result(20).result == RESULT


def test_an_end_without_a_message_of_its_own_is_found_by_the_look(
    client: Client, redis: Redis, threads: ThreadPoolExecutor
):
    """A job whose result stream was deleted: the hash says that it has ended."""
    job_id = submitted(client)
    waiting = threads.submit(client.wait, job_id, 10)
    wait_until(is_blocked(redis, "xread"))
    job = keys.key("job", job_id)
    redis.hset(job, "status", "canceled")
    redis.expire(job, 60)
    assert waiting.result(20).status is JobStatus.CANCELED


@pytest.mark.parametrize("job_id", ["bad id!", "", "a:b"])
def test_an_id_outside_the_alphabet_is_refused_before_redis_is_asked(client: Client, job_id: str):
    with pytest.raises(InvalidName):
        client.wait(job_id, 5)
    with pytest.raises(InvalidName):
        client.get(job_id)


def test_a_job_that_never_was_is_unknown(client: Client):
    with pytest.raises(UnknownJob, match="never was"):
        client.get("0" * 32)
    with pytest.raises(UnknownJob):
        client.wait("0" * 32, 10)


def test_a_job_whose_result_expires_during_the_wait_is_unknown(
    client: Client, redis: Redis, threads: ThreadPoolExecutor
):
    job_id = submitted(client)
    waiting = threads.submit(client.wait, job_id, 10)
    wait_until(is_blocked(redis, "xread"))
    redis.delete(keys.key("job", job_id))
    with pytest.raises(UnknownJob):
        waiting.result(20)


def test_a_redis_that_dies_during_a_wait_is_unavailable_and_the_client_works_again_after(
    client: Client, redis: Redis, redis_server: RedisServer, threads: ThreadPoolExecutor
):
    waiting = threads.submit(client.wait, submitted(client), 30)
    wait_until(is_blocked(redis, "xread"))
    redis_server.kill()
    with pytest.raises(Unavailable):
        waiting.result(20)
    redis_server.start()
    with redis_server.client() as fresh:
        publish(fresh, "iris", "v1", active="v1")
        job_id = submitted(client)
        finish(fresh, job_id, RESULT)
        assert client.wait(job_id, 5).result == RESULT


def test_a_wait_goes_on_while_its_connections_are_killed(
    client: Client, redis: Redis, threads: ThreadPoolExecutor
):
    job_id = submitted(client)
    waits = [threads.submit(client.wait, job_id, 30) for _ in range(4)]
    short = threads.submit(client.wait, job_id, 0.5)  # its last read is met, too
    for _ in range(100):
        wait_until(is_blocked(redis, "xread"))
        redis.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(Timeout):
        short.result(20)
    finish(redis, job_id, RESULT)
    assert [wait.result(20).result for wait in waits] == [RESULT] * 4


# The completion listener


def wait_in(listener: CompletionListener[Told], job_id: str, timeout_s: float = 10) -> Job | None:
    with expecting(listener, job_id) as waiter:
        return waiter.wait(timeout_s)


def all_wait(listener: CompletionListener[Told], count: int) -> None:
    wait_until(lambda: listener.waiting == count)


def test_many_threads_wait_on_one_connection(
    client: Client, redis: Redis, listener: CompletionListener[Told], threads: ThreadPoolExecutor
):
    ids = [submitted(client) for _ in range(50)]
    waiting = [threads.submit(wait_in, listener, job_id) for job_id in ids]
    all_wait(listener, 50)
    wait_until(is_subscribed(redis))
    assert is_blocked(redis, "xread")() is False
    listeners = [c for c in redis.client_list() if int(c["sub"]) > 0]
    assert len(listeners) == 1
    for place, job_id in enumerate(ids):
        finish(redis, job_id, {"predictions": [place]})
    jobs = [future.result(20) for future in waiting]
    assert [job.result for job in jobs if job] == [{"predictions": [n]} for n in range(50)]
    assert listener.waiting == 0


def test_a_message_wakes_the_waiter_before_the_next_look(
    client: Client,
    redis: Redis,
    listener: CompletionListener[Told],
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
):
    """There is no next look: the mailbox's clock stands still."""
    monkeypatch.setattr("producer.completions.time", SimpleNamespace(monotonic=lambda: 1.0))
    wait_in(listener, "warm-up", 0)
    wait_until(is_subscribed(redis))
    for _ in range(3):
        job_id = submitted(client)
        waiting = threads.submit(wait_in, listener, job_id)
        all_wait(listener, 1)
        finish(redis, job_id, RESULT)
        assert waiting.result(20) is not None


def test_a_message_with_many_ids_wakes_all_of_them(
    client: Client, redis: Redis, listener: CompletionListener[Told], threads: ThreadPoolExecutor
):
    ids = [submitted(client) for _ in range(3)]
    waiting = [threads.submit(wait_in, listener, job_id) for job_id in ids]
    all_wait(listener, 3)
    for job_id in ids:
        finish(redis, job_id, RESULT, is_told=False)
    redis.publish(keys.ENDED, " ".join([*ids, "somebody-elses"]))
    assert all(future.result(20) for future in waiting)


def test_several_threads_may_wait_for_the_same_job(
    client: Client, redis: Redis, listener: CompletionListener[Told], threads: ThreadPoolExecutor
):
    job_id = submitted(client)
    waiting = [threads.submit(wait_in, listener, job_id) for _ in range(5)]
    all_wait(listener, 5)
    finish(redis, job_id, RESULT)
    assert [future.result(20) is not None for future in waiting] == [True] * 5


def test_a_lost_message_is_found_by_the_look(
    client: Client, redis: Redis, listener: CompletionListener[Told], threads: ThreadPoolExecutor
):
    job_id = submitted(client)
    waiting = threads.submit(wait_in, listener, job_id)
    all_wait(listener, 1)
    wait_until(is_subscribed(redis))
    finish(redis, job_id, RESULT, is_told=False)
    job = waiting.result(20)
    assert job is not None
    assert job.result == RESULT


def test_a_job_that_ended_before_the_wait_is_found(
    client: Client, redis: Redis, listener: CompletionListener[Told]
):
    job_id = submitted(client)
    finish(redis, job_id, RESULT)
    job = wait_in(listener, job_id, 5)
    assert job is not None
    assert job.result == RESULT


def test_a_job_submitted_after_the_wait_began_is_not_missed(
    client: Client, redis: Redis, listener: CompletionListener[Told]
):
    with expecting(listener, "chosen-id") as waiter:
        client.submit_request(Request("iris", [ROW]), "chosen-id")
        finish(redis, "chosen-id", RESULT)
        assert waiter.wait(5) is not None


def test_a_wait_that_times_out_gives_none_and_is_forgotten(
    client: Client, listener: CompletionListener[Told]
):
    assert wait_in(listener, submitted(client), 0.05) is None
    assert listener.waiting == 0


def test_failures_and_cancellations_wake_too(
    client: Client, redis: Redis, listener: CompletionListener[Told], threads: ThreadPoolExecutor
):
    failed, canceled = submitted(client), submitted(client)
    waiting = [threads.submit(wait_in, listener, job_id) for job_id in (failed, canceled)]
    all_wait(listener, 2)
    fail(redis, failed, "expired", "too late")
    client.cancel(canceled)
    jobs: list[Any] = [future.result(20) for future in waiting]
    assert [job.status for job in jobs] == [JobStatus.FAILED, JobStatus.CANCELED]


@pytest.mark.parametrize("garbage", [b"\xff\xfe\x00", b"", b" ", b"x" * 100_000, b"a b\nc\0d"])
def test_garbage_on_the_channel_stops_nobody(
    client: Client,
    redis: Redis,
    listener: CompletionListener[Told],
    threads: ThreadPoolExecutor,
    garbage: bytes,
):
    job_id = submitted(client)
    waiting = threads.submit(wait_in, listener, job_id)
    all_wait(listener, 1)
    wait_until(is_subscribed(redis))
    redis.publish(keys.ENDED, garbage)
    finish(redis, job_id, RESULT)
    assert waiting.result(20) is not None


def test_a_waiter_that_cannot_be_told_costs_no_other_and_not_the_thread(
    client: Client, redis: Redis, redis_url: str
):
    def tell(told: Sequence[tuple[Told, Raw]]) -> None:
        if any(waiter.job_id == bad for waiter, _ in told):
            raise ZeroDivisionError
        for waiter, raw in told:
            waiter.tell(raw)

    bad, good, later = (submitted(client) for _ in range(3))
    listener: CompletionListener[Told] = CompletionListener(redis_url, tell)
    try:
        with expecting(listener, bad), expecting(listener, good) as told:
            wait_until(is_subscribed(redis))
            finish(redis, bad, RESULT, is_told=False)
            finish(redis, good, RESULT, is_told=False)
            redis.publish(keys.ENDED, f"{bad} {good}")
            assert ended_with(told.wait(10)) == RESULT
        with expecting(listener, later) as told:
            finish(redis, later, RESULT)
            assert ended_with(told.wait(10)) == RESULT
    finally:
        listener.close()


@pytest.mark.parametrize("step", ["read_raw", "Subscription"])
def test_whatever_is_raised_the_listener_goes_on(
    client: Client, redis: Redis, redis_url: str, step: str, monkeypatch: pytest.MonkeyPatch
):
    raised = threading.Event()
    whole = getattr(completions, step)

    def once(*arguments: Any) -> Any:
        if raised.is_set():
            return whole(*arguments)
        raised.set()
        raise ZeroDivisionError

    monkeypatch.setattr(completions, step, once)
    listener = new_listener(redis_url)
    job_id = submitted(client)
    try:
        with expecting(listener, job_id) as told:
            finish(redis, job_id, RESULT)
            assert ended_with(told.wait(10)) == RESULT
    finally:
        listener.close()
    assert raised.is_set()


def test_a_message_about_a_job_that_goes_on_wakes_nobody(
    client: Client, redis: Redis, listener: CompletionListener[Told], threads: ThreadPoolExecutor
):
    job_id = submitted(client)
    waiting = threads.submit(wait_in, listener, job_id, 2 * LOOK_S)
    all_wait(listener, 1)
    wait_until(is_subscribed(redis))
    redis.publish(keys.ENDED, job_id)
    assert waiting.result(20) is None


def test_waits_survive_a_restart_of_redis(
    client: Client, redis: Redis, listener: CompletionListener[Told], redis_server: RedisServer
):
    """The server forgets everything; what counts is that the same waits end when jobs do."""
    results: list[Future[Job | None]] = []
    with ThreadPoolExecutor(10) as threads:
        ids = [f"job-{n}" for n in range(10)]
        results = [threads.submit(wait_in, listener, job_id, 20) for job_id in ids]
        all_wait(listener, 10)
        wait_until(is_subscribed(redis))
        redis_server.kill()
        redis_server.start()
        with redis_server.client() as fresh:
            for job_id in ids:
                fresh.hset(keys.key("job", job_id), mapping={"origin": "iris@v1"})
                finish(fresh, job_id, RESULT)
            jobs = [future.result(20) for future in results]
    assert [job.result for job in jobs if job] == [RESULT] * 10


def test_a_mailbox_may_be_made_while_redis_is_away(
    redis: Redis, redis_url: str, redis_server: RedisServer
):
    redis_server.kill()
    listener = new_listener(redis_url)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(wait_in, listener, "the-job", 20)
        all_wait(listener, 1)
        redis_server.start()
        with redis_server.client() as fresh:
            fresh.hset(keys.key("job", "the-job"), mapping={"origin": "iris@v1"})
            finish(fresh, "the-job", RESULT)
            assert waiting.result(20) is not None
    listener.close()


def test_a_closed_mailbox_leaves_no_thread_and_no_connection(
    client: Client, redis: Redis, redis_url: str
):
    before = set(threading.enumerate())
    listener = new_listener(redis_url)
    wait_in(listener, submitted(client), 0)
    wait_until(is_subscribed(redis))
    listener.close()
    assert set(threading.enumerate()) <= before
    wait_until(lambda: not [c for c in redis.client_list() if int(c["sub"]) > 0])


def test_a_mailbox_nobody_waits_in_has_no_thread(redis_url: str):
    before = threading.active_count()
    listener = new_listener(redis_url)
    assert threading.active_count() == before
    listener.close()
