"""What operators do with RQ's tools shows to those who wait: removed jobs, a suspended yard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job
from rq.suspension import resume, suspend

from tests.helpers.gateways import announce_pool
from tests.helpers.live_gateways import LiveGateway, live_gateway, read_all
from tests.helpers.stand_ins import ROW, publish, queued
from tests.helpers.waiting import ends_soon, wait_until

BODY = json.dumps({"instances": [ROW]}).encode()


@pytest.fixture
def gateway(redis: Redis, redis_url: str) -> Iterator[LiveGateway]:
    publish(redis, "iris", "v1", active="v1")
    with live_gateway(redis_url) as running:
        yield running


def request(line: str, *fields: str, body: bytes = b"") -> bytes:
    head = [f"{line} HTTP/1.1", "Host: x", "Content-Type: application/json", *fields]
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*head, *length, "", ""]).encode() + body


def parsed(answer: bytes) -> tuple[int, Any]:
    return int(answer.split(b" ", 2)[1]), json.loads(answer.partition(b"\r\n\r\n")[2])


def empty(redis: Redis, _job_id: str) -> None:
    Queue("iris@v1", connection=redis).empty()  # type: ignore[no-untyped-call]


def delete(redis: Redis, job_id: str) -> None:
    Job(job_id, connection=redis).delete()


CALLS = {
    "predict": request("POST /v1/models/iris/predict?timeout=60", body=BODY),
    "Prefer": request("POST /v1/models/iris/jobs", "Prefer: wait=60", body=BODY),
    "a large body": request("POST /v1/models/iris/predict", body=b" " * 100_000 + BODY),
    "wait": b"",
}


@pytest.mark.parametrize("remove", [empty, delete])
@pytest.mark.parametrize("sent", CALLS.values(), ids=CALLS)
def test_a_job_that_is_removed_ends_the_wait_for_it(
    redis: Redis, gateway: LiveGateway, sent: bytes, remove
):
    if not sent:
        _, job = parsed(gateway.answers(request("POST /v1/models/iris/jobs", body=BODY)))
        sent = request(f"GET /v1/jobs/{job['id']}?wait=60")
    with gateway.connect(sent) as waiting:
        (job_id,) = wait_until(lambda: queued(redis, "iris@v1"), 20)
        completions = gateway.services.async_client.completions
        wait_until(lambda: completions.waiting == 1, 5)
        remove(redis, job_id)
        with ends_soon(9):
            status, problem = parsed(read_all(waiting))
    assert (status, problem["code"]) == (404, "unknown_job")


def test_a_suspended_yard_says_so_with_the_way_back(redis: Redis, gateway: LiveGateway):
    announce_pool(redis)
    assert "rq resume" not in str(parsed(gateway.answers(request("GET /readyz"))))
    suspend(redis)
    status, ready = parsed(gateway.answers(request("GET /readyz")))
    assert status == 200
    assert "rq resume" in ready["checks"]["jobs"]
    assert "rq resume" in parsed(gateway.answers(request("GET /v1/models")))[1]["suspended"]
    resume(redis)
    assert "jobs" not in parsed(gateway.answers(request("GET /readyz")))[1]["checks"]
    assert "suspended" not in parsed(gateway.answers(request("GET /v1/models")))[1]
