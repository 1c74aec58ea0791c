"""Callers that leave: what a request holds for them goes when they go, and their jobs live on."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from redis import Redis
from structlog.testing import capture_logs

from tests.helpers.gateways import RESULT, announce_pool
from tests.helpers.live_gateways import LiveGateway, hang_up, live_gateway, read_all, reset
from tests.helpers.stand_ins import ROW, finish, publish, queued
from tests.helpers.waiting import wait_until

BODY = json.dumps({"instances": [ROW]}).encode()
CALLERS = 5
LEAVING = pytest.mark.parametrize("leave", [reset, hang_up], ids=["rudely", "politely"])


@pytest.fixture
def gateway(redis: Redis, redis_url: str) -> Iterator[LiveGateway]:
    publish(redis, "iris", "v1", "v2", active="v1")
    announce_pool(redis, looked_s=0.0)
    with live_gateway(redis_url) as running:
        yield running


def request(method: str, path: str, *fields: str, body: bytes = b"", length: int = -1) -> bytes:
    """A request; ``length`` is that of a body which does not come whole."""
    head = [f"{method} {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *fields]
    if body or length >= 0:
        head.append(f"Content-Length: {length if length >= 0 else len(body)}")
    return "\r\n".join([*head, "", ""]).encode() + body


def threads_in_views() -> int:
    """Threads that sleep in a view of Flask for a caller."""
    count = 0
    for frame in sys._current_frames().values():
        names, inner = set(), frame
        while inner is not None:
            names.add(inner.f_code.co_name)
            inner = inner.f_back  # type: ignore[assignment]  # None at the outermost
        count += "sleep_for_caller" in names or "warm" in names
    return count


#: Everything that a request can hold -> the number that is held now.
HELD: dict[str, Callable[[LiveGateway], int]] = {
    "requests": lambda gateway: gateway.app.running,
    "slots of waits": lambda gateway: gateway.services.async_client.waits,
    "waiters": lambda gateway: gateway.services.async_client.completions.waiting,
    "places for large bodies": lambda gateway: gateway.app.bodies.large,
    "threads": lambda _gateway: threads_in_views(),
}


def held(gateway: LiveGateway) -> dict[str, int]:
    return {name: count(gateway) for name, count in HELD.items() if count(gateway)}


LARGE = request("POST", "/v1/models/iris/jobs", body=b"{", length=1_000_000)
CHUNKED = request("POST", "/v1/models/iris/jobs", "Transfer-Encoding: chunked") + b"1\r\n{\r\n"

#: Calls that take long -> the request, and what it holds.
CALLS: dict[str, tuple[bytes, set[str]]] = {
    "predict": (
        request("POST", "/v1/models/iris/predict?timeout=60", body=BODY),
        {"slots of waits", "waiters"},
    ),
    "predict with a large body": (
        request("POST", "/v1/models/iris/predict?timeout=60", body=b" " * 300_000 + BODY),
        {"slots of waits", "waiters"},
    ),
    "jobs with Prefer": (
        request("POST", "/v1/models/iris/jobs", "Prefer: wait=60", body=BODY),
        {"slots of waits", "waiters"},
    ),
    "a long poll": (
        request("GET", "/v1/jobs/known?wait=60"),
        {"slots of waits", "waiters"},
    ),
    "a slow small body": (
        request("POST", "/v1/models/iris/jobs", body=b"{", length=100),
        set(),
    ),
    "a slow large body": (LARGE, {"places for large bodies"}),
    "a slow chunked body": (CHUNKED, {"places for large bodies"}),
    "a flip that waits for a pool": (
        request("PUT", "/v1/models/iris/route?wait=60", body=b'{"active": "v2"}'),
        {"threads"},
    ),
}


def submitted(gateway: LiveGateway) -> str:
    """The id of a job that waits."""
    answer = gateway.answers(request("POST", "/v1/models/iris/jobs", body=BODY))
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["id"])


@LEAVING
@pytest.mark.parametrize(("sent", "holds"), CALLS.values(), ids=CALLS)
def test_what_is_held_for_a_caller_goes_with_the_caller(
    redis: Redis, gateway: LiveGateway, sent: bytes, holds: set[str], leave
):
    redis.set("modelyard:pool:here", json.dumps({"host": "h", "pid": 1, "warms": True}), ex=60)
    sent = sent.replace(b"/known?", f"/{submitted(gateway)}?".encode())
    wait_until(lambda: not held(gateway), 5, "nothing is held")
    callers = [gateway.connect(sent) for _ in range(CALLERS)]
    wait_until(
        lambda: held(gateway) == dict.fromkeys({"requests", *holds}, CALLERS), 10, "all are held"
    )
    for caller in callers:
        leave(caller)
    wait_until(lambda: not held(gateway), 5, "all is given back")
    assert gateway.answers(request("GET", "/healthz")).startswith(b"HTTP/1.1 200")


@LEAVING
def test_the_job_of_a_caller_that_left_lives_on(redis: Redis, gateway: LiveGateway, leave):
    callers = [gateway.connect(CALLS["predict"][0]) for _ in range(CALLERS)]
    wait_until(lambda: len(queued(redis, "iris@v1")) == CALLERS, 10)
    ids = queued(redis, "iris@v1")
    for caller in callers:
        leave(caller)
    wait_until(lambda: not held(gateway), 5)
    for job_id in ids:
        finish(redis, job_id, RESULT)
        answer = gateway.answers(request("GET", f"/v1/jobs/{job_id}"))
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["result"] == RESULT


@LEAVING
def test_a_caller_of_several_calls_is_missed_in_each(gateway: LiveGateway, leave):
    caller = gateway.connect(request("GET", "/healthz"))
    assert read_all(caller).startswith(b"HTTP/1.1 200")
    for _ in range(2):
        caller.sendall(CALLS["predict"][0].replace(b"timeout=60", b"timeout=0.3"))
        assert read_all(caller).startswith(b"HTTP/1.1 504")
    caller.sendall(CALLS["predict"][0])
    wait_until(lambda: held(gateway).get("waiters"), 5)
    leave(caller)
    wait_until(lambda: not held(gateway), 5)


def test_a_call_that_waits_does_not_hold_its_body(redis: Redis, gateway: LiveGateway):
    size = 2_000_000
    sent = request("POST", "/v1/models/iris/predict?timeout=60", body=b" " * size + BODY)
    small = CALLS["predict"][0]
    tracemalloc.start()
    try:
        callers = [gateway.connect(sent) for _ in range(CALLERS)]
        # The threads that send keep what they sent last.
        wait_until(lambda: len(queued(redis, "iris@v1")) == CALLERS, 20)
        callers.append(gateway.connect(small))
        wait_until(lambda: len(queued(redis, "iris@v1")) == CALLERS + 1, 20)
        wait_until(lambda: tracemalloc.get_traced_memory()[0] < 2 * size, 5, "the bodies are gone")
    finally:
        tracemalloc.stop()
        for caller in callers:
            with suppress(OSError):
                caller.close()


def test_the_access_log_has_a_caller_that_left(gateway: LiveGateway):
    with capture_logs() as lines:
        caller = gateway.connect(CALLS["predict"][0])
        wait_until(lambda: held(gateway).get("waiters"), 5)
        reset(caller)
        wait_until(lambda: not held(gateway), 5)
        wait_until(lambda: any(line.get("status") == 499 for line in lines), 5)
