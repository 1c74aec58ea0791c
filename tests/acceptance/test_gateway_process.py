"""The gateway as real processes: slow clients, signals, a Redis that comes and goes, metrics."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from tests.helpers.gateways import (
    RESULT,
    Answer,
    RunningGateway,
    running_gateway,
    stand_in_worker,
)
from tests.helpers.redis_server import RedisServer
from tests.helpers.stand_ins import ROW, publish, queued
from tests.helpers.waiting import ends_soon, wait_until
from tests.helpers.yards import clean_environ
from yard.contract import keys
from yard.settings import Settings

JOBS = "/v1/models/iris/jobs"
PREDICT = "/v1/models/iris/predict"
ROUTE = "/v1/models/iris/route"
BODY = {"instances": [ROW]}


@pytest.fixture
def gateway(redis: Redis, redis_url: str, tmp_path: Path) -> Iterator[RunningGateway]:
    publish(redis, "iris", "v1", active="v1")
    with running_gateway(redis_url, tmp_path) as running:
        yield running


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(128) as pool:
        yield pool


def is_alive(pid: int) -> bool:
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def connected(gateway: RunningGateway, sent: bytes) -> socket.socket:
    """A connection on which something was sent."""
    connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
    connection.sendall(sent)
    return connection


def head(length: str = "") -> bytes:
    """The head of a submission."""
    fields = ["Host: x", "Content-Type: application/json", length]
    return "\r\n".join([f"POST {JOBS} HTTP/1.1", *filter(None, fields), "", ""]).encode()


def reply(connection: socket.socket) -> bytes:
    """The first line of the answer."""
    with connection:
        return connection.makefile("rb").readline().strip()


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where gateways make their temporary folders; those of the machine's others are elsewhere."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


# Start and stop


def test_it_serves_a_prediction_and_leaves_nothing_behind(
    redis: Redis, redis_url: str, tmp_path: Path, scratch: Path
):
    publish(redis, "iris", "v1", active="v1")
    with running_gateway(redis_url, tmp_path) as gateway:
        with stand_in_worker(redis_url, "iris@v1"):
            answer = gateway.call("POST", PREDICT, BODY)
        assert (answer.status, answer.json["result"]) == (200, RESULT)
        assert answer.headers["x-request-id"]
        workers = gateway.workers()
        assert workers
        with ends_soon():
            assert gateway.stop() == 0
        assert not any(map(is_alive, workers))
        events = [event["event"] for event in gateway.events()]
    assert events[0] == "gateway is listening"
    assert events[-1] == "gateway has stopped"
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_every_signal_to_stop_stops_it(gateway: RunningGateway, signum):
    workers = gateway.workers()
    gateway.process.send_signal(signum)
    assert gateway.process.wait(60) == 0
    assert not any(map(is_alive, workers))


def test_a_killed_gateway_leaves_no_process_and_its_metrics_go_with_the_next(
    scratch: Path, gateway: RunningGateway, redis_url: str, tmp_path: Path
):
    workers = gateway.workers()
    gateway.process.kill()
    gateway.process.wait()
    wait_until(lambda: not any(map(is_alive, workers)), 60, "its workers have left")
    (left,) = scratch.iterdir()
    assert left.name.startswith(f"modelyard-metrics-{gateway.process.pid}-")
    with running_gateway(redis_url, tmp_path):
        assert not left.exists()


def test_a_worker_that_dies_is_replaced(gateway: RunningGateway):
    (first,) = gateway.workers()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: gateway.workers() not in ([], [first]), 60, "another worker")
    gateway.wait_until_serving()
    assert gateway.call("POST", JOBS, BODY).status == 202


def run(**settings: Any) -> subprocess.CompletedProcess[str]:
    """A gateway that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "modelyard.cli", "gateway"],
        env=clean_environ() | Settings.load({}, **settings).environ(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_taken_port_is_one_line_and_status_1(gateway: RunningGateway, redis_url: str):
    ended = run(redis_url=redis_url, port=gateway.port)
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert str(gateway.port) in line
    assert gateway.call("GET", "/healthz").status == 200


@pytest.mark.parametrize("url", ["redis:/nowhere", "http://x", "redis://h:port/0"])
def test_a_url_that_is_none_is_one_line_and_status_1(url):
    ended = run(redis_url=url)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1, ended.stderr


# Waits


def test_many_long_polls_do_not_hold_up_a_short_request(
    redis: Redis, redis_url: str, tmp_path: Path, threads: ThreadPoolExecutor
):
    publish(redis, "iris", "v1", active="v1")
    with running_gateway(redis_url, tmp_path, gateway_waits=96) as gateway:
        job_id = gateway.call("POST", JOBS, BODY).json["id"]
        path = f"/v1/jobs/{job_id}"
        polls = [threads.submit(gateway.call, "GET", f"{path}?wait=30") for _ in range(96)]
        wait_until(lambda: dict(redis.pubsub_numsub(keys.ENDED))[keys.ENDED.encode()] == 1, 60)
        # Once the bound is reached, one more wait is answered at once.
        wait_until(lambda: gateway.call("GET", f"{path}?wait=0.2").json["status"] == "queued", 10)
        with ends_soon(15):
            for _ in range(50):
                assert gateway.call("GET", "/healthz").status == 200
        with stand_in_worker(redis_url, "iris@v1"):
            assert {poll.result(20).json["status"] for poll in polls} <= {"finished", "queued"}
        assert sum(poll.result().json["status"] == "finished" for poll in polls) >= 90


def test_sigterm_ends_waits_within_a_bound_and_their_jobs_live_on(
    gateway: RunningGateway, redis: Redis, threads: ThreadPoolExecutor
):
    predicting = threads.submit(gateway.call, "POST", PREDICT, BODY)
    (job_id,) = wait_until(lambda: queued(redis, "iris@v1"), 60)
    polling = threads.submit(gateway.call, "GET", f"/v1/jobs/{job_id}?wait=60")
    preferring = threads.submit(gateway.call, "POST", JOBS, BODY, {"Prefer": "wait=60"})
    wait_until(lambda: len(queued(redis, "iris@v1")) == 2, 60)
    assert gateway.stop() == 0
    answer = predicting.result(5)
    assert (answer.status, answer.json["job_id"]) == (504, job_id)
    assert (polling.result(5).status, polling.result(5).json["status"]) == (200, "queued")
    assert preferring.result(5).status == 202
    assert len(queued(redis, "iris@v1")) == 2


def test_a_job_that_ends_while_the_gateway_stops_still_reaches_its_client(
    gateway: RunningGateway, redis: Redis, redis_url: str, threads: ThreadPoolExecutor
):
    predicting = threads.submit(gateway.call, "POST", PREDICT, BODY)
    wait_until(lambda: queued(redis, "iris@v1"), 60)
    gateway.process.terminate()
    with stand_in_worker(redis_url, "iris@v1"):
        assert predicting.result(20).json["result"] == RESULT
    assert gateway.process.wait(60) == 0


# Redis


def test_it_starts_without_redis_and_serves_when_redis_comes_and_comes_back(
    redis: Redis, redis_server: RedisServer, tmp_path: Path
):
    redis_server.kill()
    with running_gateway(redis_server.url, tmp_path) as gateway:
        (worker,) = gateway.workers()
        for _ in range(2):
            for method, path in (("GET", "/v1/models"), ("POST", JOBS), ("POST", PREDICT)):
                with ends_soon():
                    answer = gateway.call(method, path, BODY if method == "POST" else None)
                assert (answer.status, answer.json["code"]) == (503, "unavailable")
            assert gateway.call("GET", "/healthz").status == 200
            assert gateway.call("GET", "/readyz").status == 503
            redis_server.start()
            publish(redis, "iris", "v1", active="v1")
            with stand_in_worker(redis_server.url, "iris@v1"):
                assert gateway.call("POST", PREDICT, BODY).json["result"] == RESULT
            redis_server.kill()
        assert gateway.workers() == [worker]


def test_a_wait_survives_a_restart_of_redis(tmp_path: Path, threads: ThreadPoolExecutor):
    with tempfile.TemporaryDirectory(prefix="modelyard-test-") as folder:
        server = RedisServer(Path(folder), appendfsync="always")
        server.start()
        try:
            with server.client() as redis, running_gateway(server.url, tmp_path) as gateway:
                publish(redis, "iris", "v1", active="v1")
                predicting = threads.submit(gateway.call, "POST", PREDICT, BODY)
                wait_until(lambda: queued(redis, "iris@v1"), 60)
                server.kill()
                server.start()
                with stand_in_worker(server.url, "iris@v1"):
                    for _ in range(2):  # the bell rang before there was a worker to hear it
                        redis.rpush(keys.key("bell", "iris@v1"), "1")
                    assert predicting.result(20).json["result"] == RESULT
        finally:
            server.kill()


# Bodies


def test_a_body_over_the_bound_is_refused_before_it_is_read(gateway: RunningGateway, redis: Redis):
    connection = connected(gateway, head("Content-Length: 1073741824"))
    assert reply(connection) == b"HTTP/1.1 413 Payload Too Large"
    assert not redis.keys("rq:job:*")


def test_a_client_that_sends_all_of_too_large_a_body_sees_why(gateway: RunningGateway):
    for _ in range(5):
        answer = gateway.call("POST", JOBS, b" " * (9 * 2**20))
        assert (answer.status, answer.json["code"]) == (413, "too_large")


def test_a_chunked_body_is_cut_off_at_the_bound(gateway: RunningGateway, redis: Redis):
    connection = connected(gateway, head("Transfer-Encoding: chunked"))
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    with suppress(OSError):
        for _ in range(200):  # 13 MB, and it never ends
            connection.sendall(chunk)
    assert reply(connection) == b"HTTP/1.1 413 Payload Too Large"
    assert not redis.keys("rq:job:*")


@pytest.mark.parametrize("path", ["/nowhere", "/v1/models/NOBODY/predict", "/healthz"])
def test_a_refusal_reaches_a_client_that_sends_its_body_after_the_head(
    gateway: RunningGateway, path
):
    start = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n".encode()
    for _ in range(20):
        connection = connected(gateway, start)
        for _ in range(2):
            connection.sendall(b" " * 10_000)
        assert reply(connection).split()[1] in (b"404", b"405")


def test_a_body_that_ends_too_soon_makes_no_job(gateway: RunningGateway, redis: Redis):
    whole = b'{"instances": [[5.1, 3.5, 1.4, 0.2]]}'
    connection = connected(gateway, head(f"Content-Length: {len(whole) + 5}") + whole)
    connection.shutdown(socket.SHUT_WR)
    assert reply(connection).split()[1] == b"400"
    assert not redis.keys("rq:job:*")


@pytest.mark.parametrize("length", [100, 1_000_000])
def test_clients_that_send_nothing_hold_up_nobody(gateway: RunningGateway, length):
    stalled = [connected(gateway, head(f"Content-Length: {length}") + b"{") for _ in range(300)]
    try:
        for _ in range(20):
            with ends_soon():
                assert gateway.call("GET", "/healthz").status == 200
                assert gateway.call("GET", "/v1/models/iris").status == 200
                assert gateway.call("POST", JOBS, BODY).status == 202
    finally:
        for connection in stalled:
            connection.close()


def test_large_bodies_come_in_a_few_at_once(gateway: RunningGateway):
    large = b" " * 100_000 + json.dumps(BODY).encode()
    assert gateway.call("POST", JOBS, large).status == 202
    stalled = [connected(gateway, head("Content-Length: 1000000") + b"{") for _ in range(40)]
    try:
        refused = wait_until(lambda: one_with(503, gateway.call("POST", JOBS, large)), 60)
        assert refused.json["code"] == "unavailable"
        assert refused.headers["retry-after"] == "1"
        wait_until(lambda: one_with(503, gateway.call("PUT", ROUTE, large)), 60)
    finally:
        for connection in stalled:
            connection.close()
    wait_until(lambda: one_with(202, gateway.call("POST", JOBS, large)), 60)


def one_with(status: int, answer: Answer) -> Answer | None:
    """The answer, if it has the status."""
    return answer if answer.status == status else None


def test_it_stops_although_clients_are_in_the_middle_of_a_body(gateway: RunningGateway):
    stalled = [connected(gateway, head("Content-Length: 100") + b"{") for _ in range(10)]
    workers = gateway.workers()
    assert gateway.stop() == 0
    assert not any(map(is_alive, workers))
    for connection in stalled:
        connection.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        head("Content-Length: -1"),
        head("Content-Length: 2\r\nContent-Length: 3") + b"{}",
        head("X-Bad: a\x00b"),
        head("X-Request-Id: " + "x" * 70_000),
    ],
    ids=["TLS", "version", "negative length", "two lengths", "NUL", "long header"],
)
def test_what_is_no_http_harms_nobody(gateway: RunningGateway, sent):
    with connected(gateway, sent) as connection, suppress(OSError):
        connection.recv(1000)
    assert gateway.call("GET", "/healthz").status == 200


# Calls on the event loop, and calls of views


def test_a_call_is_answered_the_same_whichever_way_its_path_is_written(gateway: RunningGateway):
    for path in (JOBS, "/v1/models/%69ris/jobs", "/v1/models/iris/jobs?version=v1"):
        answer = gateway.call("POST", path, BODY, {"X-Request-Id": "r-1"})
        assert (answer.status, answer.headers["x-request-id"]) == (202, "r-1")
        asked = gateway.call("HEAD", answer.json["url"])
        shown = gateway.call("GET", answer.json["url"])
        assert (asked.status, asked.body, shown.status) == (200, b"", 200)
        assert asked.headers["content-length"] == str(len(shown.body))
        differ = {"date", "x-request-id"}
        assert asked.headers.keys() == shown.headers.keys()
        assert {k: v for k, v in asked.headers.items() if k not in differ} == {
            k: v for k, v in shown.headers.items() if k not in differ
        }


def test_views_get_their_bodies_queries_and_fields(gateway: RunningGateway):
    put = gateway.call("PUT", ROUTE + "?wait=0", {"active": "v1"})
    assert (put.status, put.json["warm"]["state"]) == (200, "skipped")
    assert gateway.call("PUT", ROUTE, {"active": "v1"}, {"If-Match": '"99"'}).status == 412
    assert gateway.call("PUT", ROUTE, b" " * (9 * 2**20)).status == 413
    assert gateway.call("PUT", ROUTE, b"{", {"Content-Type": "text/plain"}).status == 415
    assert gateway.call("POST", ROUTE, BODY).headers["allow"]


def test_clients_that_leave_while_they_wait_harm_nobody(
    redis: Redis, redis_url: str, tmp_path: Path
):
    publish(redis, "iris", "v1", active="v1")
    body = json.dumps(BODY).encode()
    sent = head(f"Content-Length: {len(body)}").replace(JOBS.encode(), PREDICT.encode()) + body
    with running_gateway(redis_url, tmp_path) as gateway:
        gone = [connected(gateway, sent) for _ in range(20)]
        wait_until(lambda: len(queued(redis, "iris@v1")) == 20, 10)
        for connection in gone:
            connection.close()
        with stand_in_worker(redis_url, "iris@v1"):
            assert gateway.call("POST", PREDICT, BODY).json["result"] == RESULT
        assert gateway.stop() == 0
        assert {event["level"] for event in gateway.events()} == {"info"}


def test_a_field_that_is_no_text_is_not_taken_for_none(gateway: RunningGateway, redis: Redis):
    body = json.dumps(BODY).encode()
    sent = head(f"Idempotency-Key: caf\u00e9\r\nContent-Length: {len(body)}")
    assert reply(connected(gateway, sent + body)).split()[1] == b"422"
    assert not redis.keys("rq:job:*")


def test_a_large_body_is_as_good_as_a_small_one(gateway: RunningGateway, redis_url: str):
    rows = [ROW] * 10_000
    with stand_in_worker(redis_url, "iris@v1", result={"predictions": ["x" * 50] * 10_000}):
        answer = gateway.call("POST", PREDICT, {"instances": rows})
    assert (answer.status, len(answer.json["result"]["predictions"])) == (200, 10_000)
    wrong = gateway.call("POST", JOBS, {"instances": [*rows[1:], ["x"] * 4]})
    assert (wrong.status, wrong.json["errors"][0]["loc"]) == (422, ["instances", 9_999, 0])


# The check of a container


def check(port: int) -> tuple[int, str]:
    """The exit status of `modelyard gateway --check`, and what it says."""
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "modelyard.cli", "gateway", "--check", "--port", str(port)],
        env=clean_environ() | {"MODELYARD_HOST": "0.0.0.0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ran.returncode, ran.stdout + ran.stderr


def test_the_check_tells_a_gateway_that_serves_from_one_that_does_not(gateway: RunningGateway):
    assert check(gateway.port) == (0, "")
    gateway.process.send_signal(signal.SIGSTOP)
    for pid in gateway.workers():
        os.kill(pid, signal.SIGSTOP)
    try:
        status, said = check(gateway.port)
        assert (status, "does not answer" in said) == (1, True)
    finally:
        for pid in [*gateway.workers(), gateway.process.pid]:
            os.kill(pid, signal.SIGCONT)
    gateway.stop()
    assert check(gateway.port)[0] == 1


# Metrics


def counted(gateway: RunningGateway, route: str, status: str) -> float:
    """Requests that the gateway has counted, over all its processes."""
    text = gateway.call("GET", "/metrics").body.decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "http_request_duration_seconds_count"
        and (sample.labels["route"], sample.labels["status"]) == (route, status)
    )


def test_the_metrics_of_several_processes_add_up_and_outlive_them(
    redis: Redis, redis_url: str, tmp_path: Path, threads: ThreadPoolExecutor
):
    publish(redis, "iris", "v1", active="v1")
    with running_gateway(redis_url, tmp_path, gateway_processes=2) as gateway:
        wait_until(lambda: len(gateway.workers()) == 2, 60)
        calls = [threads.submit(gateway.call, "POST", JOBS, BODY) for _ in range(60)]
        assert {call.result(20).status for call in calls} == {202}
        assert counted(gateway, "/v1/models/{model}/jobs", "202") == 60
        first, second = gateway.workers()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: set(gateway.workers()) - {first, second}, 60, "another worker")
        gateway.wait_until_serving()
        assert counted(gateway, "/v1/models/{model}/jobs", "202") == 60
