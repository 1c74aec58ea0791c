"""Bodies that come slowly, in parts or not at all: a deadline, and places that nobody keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from redis import Redis

from gateway.http import BodyReader
from tests.helpers.live_gateways import LiveGateway, live_gateway, read_all, reset
from tests.helpers.stand_ins import ROW, publish
from tests.helpers.waiting import wait_until

BODY = json.dumps({"instances": [ROW]}).encode()
PLACES = 8


@pytest.fixture
def gateway(redis: Redis, redis_url: str) -> Iterator[LiveGateway]:
    publish(redis, "iris", "v1", active="v1")
    with live_gateway(redis_url) as running:
        yield running


def start(*fields: str, body: bytes = b"") -> bytes:
    head = ["POST /v1/models/iris/jobs HTTP/1.1", "Host: x", "Content-Type: application/json"]
    return "\r\n".join([*head, *fields, "", ""]).encode() + body


def problem(answer: bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return value


@pytest.mark.parametrize(
    "sent",
    [
        start("Content-Length: 100", body=b"{"),
        start("Content-Length: 100000", body=b"{"),
        start("Transfer-Encoding: chunked", body=b"1\r\n{\r\n"),
        start("Content-Length: 100"),
    ],
    ids=["small", "large", "chunked", "nothing"],
)
def test_a_body_that_does_not_come_is_refused_at_its_deadline(
    redis: Redis, gateway: LiveGateway, sent: bytes
):
    gateway.app.bodies = BodyReader(8 * 2**20, PLACES, body_s=0.2)
    answer = gateway.answers(sent)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert (problem(answer)["status"], problem(answer)["code"]) == (408, "request_timeout")
    assert gateway.app.bodies.large == 0
    assert not redis.keys("rq:job:*")


def test_a_body_that_goes_on_coming_has_more_time(gateway: LiveGateway):
    gateway.app.bodies = BodyReader(8 * 2**20, PLACES, body_s=0.5)
    large = b" " * 1_000_000 + BODY
    with gateway.connect(start(f"Content-Length: {len(large)}")) as slow:
        pieces = [large[i : i + 50_000] for i in range(0, len(large), 50_000)]
        for piece in pieces:  # each brings more time than it takes
            wait_until(lambda: gateway.answers(HEALTH).startswith(b"HTTP/1.1 200"), 5)
            slow.sendall(piece)
        assert read_all(slow).startswith(b"HTTP/1.1 202")


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def test_one_client_never_has_all_places_of_large_bodies(gateway: LiveGateway):
    gateway.app.bodies = BodyReader(8 * 2**20, PLACES)
    large = b" " * 100_000 + BODY
    whole = start(f"Content-Length: {len(large)}", body=large)
    stalled = [gateway.connect(start("Content-Length: 100000", body=b"{")) for _ in range(20)]
    try:
        wait_until(lambda: gateway.app.bodies.large == PLACES * 3 // 4, 5)
        assert problem(gateway.answers(whole))["code"] == "unavailable"
        with gateway.connect(whole, source="127.0.0.2") as other:
            assert read_all(other).startswith(b"HTTP/1.1 202")
    finally:
        for connection in stalled:
            reset(connection)
    wait_until(lambda: gateway.app.bodies.large == 0, 5)
    assert gateway.answers(whole).startswith(b"HTTP/1.1 202")


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_chunked_body_that_is_cut_off_makes_no_job(redis: Redis, gateway: LiveGateway, size: int):
    body = b" " * (size - 1) + BODY
    chunk = f"{len(body):x}\r\n".encode() + body + b"\r\n"
    with gateway.connect(start("Transfer-Encoding: chunked", body=chunk)) as connection:
        connection.shutdown(1)  # the last chunk never comes
        assert read_all(connection).startswith(b"HTTP/1.1 400")
    assert not redis.keys("rq:job:*")
    whole = start("Transfer-Encoding: chunked", body=chunk + b"0\r\n\r\n")
    assert gateway.answers(whole).startswith(b"HTTP/1.1 202")


@pytest.mark.parametrize("digits", [20, 5001])
@pytest.mark.parametrize("more", [(), ("Transfer-Encoding: chunked",)], ids=["alone", "chunked"])
def test_a_length_that_is_none_is_400(redis: Redis, gateway: LiveGateway, digits: int, more):
    sent = start("Content-Length: " + "9" * digits, *more, body=b"0\r\n\r\n")
    with suppress(OSError):
        assert gateway.answers(sent).startswith(b"HTTP/1.1 400")
    assert not redis.keys("rq:job:*")
