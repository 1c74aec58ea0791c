"""Requests that are no sound HTTP, or ask for what is not known: refused with a word."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from tests.helpers.live_gateways import LiveGateway, live_gateway
from tests.helpers.stand_ins import ROW, publish, queued

BODY = json.dumps({"instances": [ROW]}).encode()
JOBS = "/v1/models/iris/jobs"
PREDICT = "/v1/models/iris/predict"
CHUNKS = f"{len(BODY):x}\r\n".encode() + BODY + b"\r\n0\r\n\r\n"


@pytest.fixture
def gateway(redis: Redis, redis_url: str) -> Iterator[LiveGateway]:
    publish(redis, "iris", "v1", "v2", active="v1")
    with live_gateway(redis_url) as running:
        yield running


def sent(line: str, *fields: str, body: bytes = b"", host: str = "Host: x") -> bytes:
    head = [line, *([host] if host else []), *fields]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def submission(target: str = JOBS, *fields: str, body: bytes = BODY, **more: str) -> bytes:
    kind = "Content-Type: application/json"
    length = f"Content-Length: {len(body)}"
    return sent(f"POST {target} HTTP/1.1", kind, length, *fields, body=body, **more)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def value(answer: bytes) -> dict[str, Any]:
    known: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return known


CASES: dict[str, tuple[bytes, int]] = {
    "a method in lower case": (submission().replace(b"POST", b"post"), 501),
    "get": (sent("get /v1/models HTTP/1.1"), 501),
    "put": (sent("put /v1/models/iris/route HTTP/1.1"), 501),
    "a method of others": (sent("PURGE /v1/models HTTP/1.1"), 501),
    "TRACE": (sent("TRACE / HTTP/1.1"), 501),
    "a method that is not here": (sent("PATCH /v1/models HTTP/1.1"), 405),
    "two slashes": (sent("GET //v1/models HTTP/1.1"), 404),
    "two slashes before a host": (sent("GET //evil.example/docs HTTP/1.1"), 404),
    "an encoded slash in front": (sent("GET /%2fv1/models HTTP/1.1"), 404),
    "two slashes before health": (sent("GET //healthz HTTP/1.1"), 404),
    "no host": (submission(host=""), 400),
    "two hosts": (submission(JOBS, "Host: y"), 400),
    "a host that is no text": (submission(host="Host: caf\xe9"), 400),
    "gzip, chunked": (
        sent(f"POST {JOBS} HTTP/1.1", "Transfer-Encoding: gzip, chunked", body=CHUNKS),
        501,
    ),
}


@pytest.mark.parametrize(("request_", "expected"), CASES.values(), ids=CASES)
def test_what_is_no_sound_http_is_refused(
    redis: Redis, gateway: LiveGateway, request_: bytes, expected: int
):
    answer = gateway.answers(request_)
    assert status(answer) == expected
    if b"\r\ncontent-type: application/problem+json" in answer.lower():
        assert value(answer)["detail"]
        assert b"\r\nx-request-id: " in answer.lower()
    else:
        assert expected == 400  # by the server below the gateway
    assert not redis.keys("rq:job:*")


def test_http_1_0_needs_no_host(gateway: LiveGateway):
    assert status(gateway.answers(sent("GET /healthz HTTP/1.0", host=""))) == 200


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (submission(f"{PREDICT}?model_version=v2"), "model_version"),
        (submission(f"{JOBS}?wait=5"), "wait"),
        (submission(f"{JOBS}?%76ersionn=v2"), "versionn"),
        (sent("GET /v1/jobs/x?timeout=1 HTTP/1.1"), "timeout"),
        (sent("GET /v1/jobs/x?wait=1&wait=2 HTTP/1.1"), "wait"),
        (sent("GET /v1/models?x HTTP/1.1"), "x"),
        (sent("HEAD /v1/scaling?models=iris HTTP/1.1", "Connection: close"), ""),
        (sent("GET /v1/models/iris/route?wait=1 HTTP/1.1"), "wait"),
        (sent("DELETE /v1/jobs/x?force=1 HTTP/1.1"), "force"),
        (
            sent("PUT /v1/models/iris/route?warm=0 HTTP/1.1", "Content-Length: 2", body=b"{}"),
            "warm",
        ),
    ],
)
def test_a_query_member_that_is_not_known_is_named(
    redis: Redis, gateway: LiveGateway, call: bytes, name: str
):
    answer = gateway.answers(call)
    assert status(answer) == 422
    if name:
        assert value(answer)["errors"][0]["loc"] == [name]
    assert not redis.keys("rq:job:*")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"])
def test_a_probe_may_add_what_it_likes(gateway: LiveGateway, path: str):
    assert status(gateway.answers(sent(f"GET {path}?at=5 HTTP/1.1"))) in (200, 503)


def test_the_query_may_name_the_version(redis: Redis, gateway: LiveGateway):
    assert value(gateway.answers(submission(f"{JOBS}?version=v2")))["version"] == "v2"
    assert len(queued(redis, "iris@v2")) == 1
    assert status(gateway.answers(submission(f"{PREDICT}?version=v2&timeout=0.05"))) == 504
    assert len(queued(redis, "iris@v2")) == 2
    both = json.dumps({"instances": [ROW], "version": "v1"}).encode()
    refused = gateway.answers(submission(f"{JOBS}?version=v2", body=both))
    assert (status(refused), value(refused)["errors"][0]["loc"]) == (422, ["version"])
    assert status(gateway.answers(submission(f"{JOBS}?version=v1", body=both))) == 202
    assert status(gateway.answers(submission(f"{JOBS}?version=V%202"))) == 422
    assert status(gateway.answers(submission(f"{JOBS}?version=v9"))) == 404


@pytest.mark.parametrize("wait", ["1e-05", "1E-2", "0.000000000001", "0.0", "1e0"])
def test_a_number_of_seconds_is_one_as_json_writes_it(gateway: LiveGateway, wait: str):
    assert status(gateway.answers(submission(f"{PREDICT}?timeout={wait}"))) == 504
    job = value(gateway.answers(submission()))["id"]
    assert status(gateway.answers(sent(f"GET /v1/jobs/{job}?wait={wait} HTTP/1.1"))) == 200


@pytest.mark.parametrize("wait", ["61", "1e2", "1e999", "-1", "NaN", "inf", "1e", "0x1", ""])
def test_what_is_no_number_of_seconds_is_refused(gateway: LiveGateway, wait: str):
    assert status(gateway.answers(submission(f"{PREDICT}?timeout={wait}"))) == 422


def test_an_idempotency_key_that_is_not_ascii_is_told_so(redis: Redis, gateway: LiveGateway):
    answer = gateway.answers(submission(JOBS, "Idempotency-Key: caf\xe9"))
    assert status(answer) == 422
    assert value(answer)["errors"] == [{"loc": ["Idempotency-Key"], "msg": "must be ASCII"}]
    assert not redis.keys("rq:job:*")


# The root


def test_a_browser_is_led_to_the_docs_and_a_program_gets_links(gateway: LiveGateway):
    browser = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    led = gateway.answers(sent("GET / HTTP/1.1", browser, host="Host: evil.example"))
    assert status(led) == 303
    assert b"\r\nlocation: /docs\r\n" in led.lower()
    assert b"evil" not in led
    for accept in ("Accept: */*", "Accept: application/json", "X-No: accept"):
        links = value(gateway.answers(sent("GET / HTTP/1.1", accept)))["links"]
        for path in links.values():
            assert status(gateway.answers(sent(f"GET {path} HTTP/1.1"))) in (200, 503)


def test_health_is_healthz(gateway: LiveGateway):
    assert value(gateway.answers(sent("GET /health HTTP/1.1"))) == {"status": "ok"}
