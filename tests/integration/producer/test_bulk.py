"""`as_completed` and `map`: nothing lost, nothing twice, in the promised order, within bounds."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from redis import Redis

from producer.client import Client
from tests.helpers.stand_ins import ROW, fail, finish, new_client, publish, queued
from yard.contract import keys, wire
from yard.errors import InvalidInput, JobFailed, QueueFull, Timeout, UnknownJob


@pytest.fixture
def client(redis: Redis, redis_url: str) -> Iterator[Client]:
    publish(redis, "iris", "v1", active="v1")
    with new_client(redis_url) as made:
        yield made


def rows_of_job(redis: Redis, job_id: str) -> Any:
    return wire.loads(redis.hget(keys.key("job", job_id), "data") or b"")[3]["instances"]


def echo(redis: Redis, job_id: str) -> None:
    """Answers each row with its first value."""
    finish(redis, job_id, {"predictions": [row[0] for row in rows_of_job(redis, job_id)]})


@contextmanager
def worker(redis: Redis, end: Callable[[Redis, str], None], batch: int = 8) -> Iterator[list[int]]:
    """Ends jobs, of some that wait a random one first; yields how many waited at each look."""
    depths: list[int] = []
    is_over = threading.Event()

    def run() -> None:
        while not is_over.wait(0.001):
            waiting = queued(redis, "iris@v1")
            depths.append(len(waiting))
            for job_id in random.sample(waiting, min(len(waiting), batch)):
                redis.lrem(keys.key("queue", "iris@v1"), 1, job_id)
                end(redis, job_id)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield depths
    finally:
        is_over.set()
        thread.join()


def test_jobs_come_as_they_end_each_once(client: Client, redis: Redis):
    handles = [client.submit("iris", instances=[ROW]) for _ in range(4)]
    seen: list[tuple[int, int | None]] = []
    ending = client.as_completed(
        [*handles, handles[0].id], 20, progress=lambda done, of: seen.append((done, of))
    )
    for place in (2, 0):
        finish(redis, handles[place].id, {"predictions": [place]})
        assert next(ending).id == handles[place].id
    fail(redis, handles[3].id, "expired", "too late")
    assert next(ending).error.code == "expired"  # type: ignore[union-attr]
    client.cancel(handles[1].id)
    assert next(ending).status == "canceled"
    assert list(ending) == []
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_jobs_beyond_what_one_read_waits_for_come_too(client: Client, redis: Redis):
    handles = [client.submit("iris", instances=[ROW]) for _ in range(300)]
    for handle in handles[260:]:
        finish(redis, handle.id, {"predictions": [0]})
    ending = client.as_completed(handles, 30)
    assert {next(ending).id for _ in range(40)} == {handle.id for handle in handles[260:]}


def test_those_that_do_not_end_in_time_are_counted(client: Client, redis: Redis):
    handles = [client.submit("iris", instances=[ROW]) for _ in range(3)]
    finish(redis, handles[1].id, {"predictions": [0]})
    ending = client.as_completed(handles, 0.05)
    assert next(ending).id == handles[1].id
    with pytest.raises(Timeout, match="2 of 3 jobs"):
        next(ending)
    with pytest.raises(UnknownJob):
        list(client.as_completed(["no-such-job"]))


def test_rows_are_answered_in_their_order_with_a_bounded_number_in_flight(
    client: Client, redis: Redis
):
    def rows() -> Iterator[Any]:
        for number in range(500):
            yield np.array([number, 0.0, 0.0, 0.0])

    done: list[tuple[int, int | None]] = []
    with worker(redis, echo) as depths:
        answers = client.map(
            "iris", rows(), in_flight=32, progress=lambda n, of: done.append((n, of))
        )
        assert [answer["predictions"] for answer in answers] == list(range(500))
    assert max(depths) <= 32
    assert done[-1] == (500, None)


def test_several_rows_make_a_job(client: Client, redis: Redis):
    table = np.arange(40.0).reshape(10, 4)
    with worker(redis, echo):
        answers = list(client.map("iris", table, rows_per_job=4))
    assert [answer["predictions"] for answer in answers] == table[:, 0].tolist()


def test_a_full_queue_is_waited_for_and_the_order_stays(redis: Redis, redis_url: str):
    publish(redis, "iris", "v1", active="v1")
    with new_client(redis_url, queue_bound=5) as client, worker(redis, echo, batch=2):
        rows = [[float(number), 0.0, 0.0, 0.0] for number in range(20)]
        answers = list(client.map("iris", rows, timeout_s=30))
    assert [answer["predictions"] for answer in answers] == [row[0] for row in rows]


def test_a_queue_that_stays_full_is_told(redis: Redis, redis_url: str):
    publish(redis, "iris", "v1", active="v1")
    with new_client(redis_url, queue_bound=1) as client:
        client.submit("iris", instances=[ROW])
        with pytest.raises(QueueFull):
            next(client.map("iris", [ROW], timeout_s=0.1))


def test_a_row_that_fails_raises_or_stands_in_its_place(client: Client, redis: Redis):
    def end(redis: Redis, job_id: str) -> None:
        (row,) = rows_of_job(redis, job_id)
        if row[0] == 1:
            fail(redis, job_id, "predict_failed", "no")
        else:
            echo(redis, job_id)

    rows = [[0, 0, 0, 0], [1, 0, 0, 0], ["x"], [3, 0, 0, 0]]
    with worker(redis, end):
        found = list(client.map("iris", rows, return_errors=True))
        assert found[0] == {"predictions": 0}
        assert isinstance(found[1], JobFailed)
        assert isinstance(found[2], InvalidInput)
        assert found[3] == {"predictions": 3}
        ending = client.map("iris", rows)
        assert next(ending) == {"predictions": 0}
        with pytest.raises(JobFailed):
            next(ending)


def test_arrays_are_submitted_as_lists_are(client: Client, redis: Redis):
    table = np.array([[5.1, 3.5, 1.4, 0.2]], dtype=np.float64)
    for rows in (table, list(table), [list(table[0])], [tuple(table[0])]):
        handle = client.submit("iris", instances=rows, idempotency_key="one")
        assert rows_of_job(redis, handle.id) == table.tolist()
    assert len(queued(redis, "iris@v1")) == 1
