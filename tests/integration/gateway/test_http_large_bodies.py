"""Large bodies: read by other processes, so that no request holds this one's lock for long."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from multiprocessing import active_children
from typing import Any

import pytest
from redis import Redis

from gateway.http import SMALL_BYTES
from gateway.services import body_processes
from tests.helpers.gateways import RESULT, stand_in_worker
from tests.helpers.live_gateways import LiveGateway, live_gateway
from tests.helpers.stand_ins import ROW, publish, queued
from tests.helpers.waiting import wait_until
from yard.contract import wire
from yard.errors import InvalidInput, ModelyardError, QueueFull, TooLarge, Unavailable

ROWS = [ROW] * 9_000


@pytest.fixture
def gateway(redis: Redis, redis_url: str) -> Iterator[LiveGateway]:
    publish(redis, "iris", "v1", "v2", active="v1")
    with live_gateway(redis_url, queue_bound=3) as running:
        yield running


def call(
    gateway: LiveGateway, body: Any, path: str = "jobs", *fields: str
) -> tuple[int, dict[str, Any]]:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert len(sent) > SMALL_BYTES
    head = [
        f"POST /v1/models/iris/{path} HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {len(sent)}",
        *fields,
    ]
    head_, _, answer = gateway.answers("\r\n".join([*head, "", ""]).encode() + sent).partition(
        b"\r\n\r\n"
    )
    return int(head_.split(b" ")[1]), json.loads(answer)


#: Bodies that are made to take long, of 6 MB -> the refusal.
HARD = {
    "unknown members": (
        b"{" + b",".join(b'"k%d":1' % i for i in range(500_000)) + b"}",
        (422, "invalid_input"),
    ),
    "a colon in a string": (
        json.dumps({"instances": ROWS, "routing_key": "a:b", "outputs": ["x" * 50] * 90_000}),
        (422, "invalid_input"),
    ),
    "two million lists": (
        b'{"instances":[' + b",".join([b"[]"] * 2_000_000) + b"]}",
        (413, "too_large"),
    ),
    "a key twice": (b'{"a":1,' + b" " * 70_000 + b'"a":2}', (400, "invalid_json")),
    "broken": (b"[" * 100_000, (400, "invalid_json")),
}


@pytest.fixture
def nothing_large_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process parses nothing large."""
    loads = wire.loads

    def small_only(raw: bytes | str) -> Any:
        assert len(raw) <= SMALL_BYTES, "a large body is parsed in the gateway's own process"
        return loads(raw)

    monkeypatch.setattr(wire, "loads", small_only)


@pytest.mark.parametrize(("body", "refusal"), HARD.values(), ids=HARD)
@pytest.mark.usefixtures("nothing_large_here")
def test_a_body_that_takes_long_is_refused_by_another_process(
    redis: Redis, gateway: LiveGateway, body: bytes | str, refusal: tuple[int, str]
):
    sent = body if isinstance(body, bytes) else body.encode()
    status, problem = call(gateway, sent)
    assert (status, problem["code"]) == refusal
    assert len(problem.get("errors", [])) <= 20
    assert not redis.keys("rq:job:*")


@pytest.mark.usefixtures("nothing_large_here")
def test_a_large_body_becomes_a_job_as_a_small_one_does(
    redis: Redis, redis_url: str, gateway: LiveGateway
):
    status, job = call(gateway, {"instances": ROWS}, "jobs?version=v2")
    assert (status, job["version"], queued(redis, "iris@v2")) == (202, "v2", [job["id"]])
    with stand_in_worker(redis_url, "iris@v1"):
        status, job = call(gateway, {"instances": ROWS}, "predict")
        assert (status, job["status"], job["result"]) == (200, "finished", RESULT)
        status, job = call(gateway, {"instances": ROWS}, "jobs", "Prefer: wait=20")
        assert (status, job["result"]) == (200, RESULT)


def test_the_refusals_of_large_bodies_are_those_of_small_ones(redis: Redis, gateway: LiveGateway):
    status, problem = call(gateway, {"instances": [*ROWS, ["x"] * 4]})
    assert (status, problem["errors"][0]["loc"]) == (422, ["instances", 9_000, 0])
    status, problem = call(gateway, {"instances": ROWS, "version": "v9"})
    assert (status, problem["code"]) == (404, "unknown_version")
    assert not redis.keys("rq:job:*")
    key = "Idempotency-Key: k"
    first = call(gateway, {"instances": ROWS}, "jobs", key)
    again = call(gateway, {"instances": ROWS}, "jobs", key)
    assert (first[0], again[0], first[1]["id"]) == (202, 202, again[1]["id"])
    status, problem = call(gateway, {"instances": ROWS[1:]}, "jobs", key)
    assert (status, problem["code"]) == (422, "idempotency_mismatch")
    for _ in range(2):
        assert call(gateway, {"instances": ROWS})[0] == 202
    assert call(gateway, {"instances": ROWS})[1]["code"] == "queue_full"


def test_a_process_that_dies_costs_its_bodies_and_no_others(gateway: LiveGateway):
    assert call(gateway, {"instances": ROWS})[0] == 202
    for child in active_children():
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
    answers = wait_until(
        lambda: [
            answer
            for answer in [call(gateway, {"instances": ROWS})]
            if answer[0] == 202 or answer[1]["code"] != "unavailable"
        ],
        20,
    )
    assert answers[0][0] == 202


def test_too_many_large_bodies_are_refused(gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(body_processes, "_MOST_BODIES", 0)
    status, problem = call(gateway, {"instances": ROWS})
    assert (status, problem["code"]) == (503, "unavailable")
    assert "job_id" not in problem  # nothing was sent


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput.at(["instances", 3, 1], "must be a number"),
        TooLarge("too large"),
        QueueFull("full", 7),
        Unavailable("away", ["a"]),
    ],
    ids=lambda error: error.code,
)
def test_an_error_crosses_processes_whole(error: ModelyardError):
    import pickle

    crossed = pickle.loads(pickle.dumps(error))  # our own
    assert type(crossed) is type(error)
    assert vars(crossed) == vars(error)
