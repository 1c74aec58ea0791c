"""The seam that every request passes: order, early answers, headers, and exceptions of members."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from gateway.app import create_app
from gateway.http import HttpResponse, RequestHead, WsgiBridge
from gateway.middleware import Handler, Middleware, MiddlewareChain, problem
from gateway.server.rsgi import RsgiApp
from gateway.services import attach, services_of
from producer.client import Client
from tests.helpers.rsgi import FakeProtocol, FakeScope
from yard.errors import QueueFull
from yard.settings import Settings

#: One call for each kind of view, neither of which needs Redis.
ASYNC, FLASK = "/healthz", "/docs"
BOTH = pytest.mark.parametrize("path", [ASYNC, FLASK])


class BodyReadTooSoon(FakeProtocol):
    """A body that fails where it is read before the response has been sent."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        assert self.response is not None, "the body was read before there was a response"
        async for piece in super().__aiter__():
            yield piece


class Gateway:
    """The application without a server and without Redis.

    Args:
        members: Middleware behind the usual ones.
        before: Middleware before them.
    """

    def __init__(self, *members: Middleware, before: tuple[Middleware, ...] = ()) -> None:
        self.members = members
        self.before = before

    def call(
        self, method: str, path: str, *body: bytes, **fields: str
    ) -> tuple[HttpResponse, FakeProtocol]:
        sent = sum(map(len, body))
        length = {"content-length": str(sent)} if sent else {}
        scope: Any = FakeScope(method, path, fields={"host": "x"} | length | fields)
        protocol: Any = BodyReadTooSoon(*body) if body else FakeProtocol()
        asyncio.run(self._call(scope, protocol))
        return protocol.response, protocol

    async def _call(self, scope: Any, protocol: Any) -> None:
        loop = asyncio.get_running_loop()
        served = RsgiApp(self._create, lambda _services: None)
        served.__rsgi_init__(loop)
        try:
            await served.__rsgi__(scope, protocol)
        finally:
            served.__rsgi_del__(loop)

    def _create(self, loop: asyncio.AbstractEventLoop) -> Any:
        settings = Settings.load({}, redis_url="redis://127.0.0.1:1/0")
        app = create_app(settings, Client(settings=settings), loop)
        services = services_of(app)
        members = (*self.before, *services.middleware, *self.members)
        attach(app, replace(services, middleware=members))
        return app


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with capture_logs() as lines:
        yield lines


async def refuse(_request: RequestHead, _call_next: Handler) -> HttpResponse:
    return problem(403, "forbidden", "Forbidden", "not for you")


async def fail(_request: RequestHead, _call_next: Handler) -> HttpResponse:
    raise RuntimeError("a cause that callers must not see")


async def reply(_request: RequestHead) -> HttpResponse:
    return HttpResponse(200, [], b"")


def head() -> RequestHead:
    fields: Any = {}
    return RequestHead("GET", "/", "", fields)


def test_members_run_from_the_first_to_the_last_and_back():
    steps: list[str] = []

    def member(name: str) -> Middleware:
        async def run(request: RequestHead, call_next: Handler) -> HttpResponse:
            steps.append(f"{name} before")
            response = await call_next(request)
            steps.append(f"{name} after")
            return response

        return run

    async def endpoint(_request: RequestHead) -> HttpResponse:
        steps.append("endpoint")
        return HttpResponse(200, [], b"")

    async def test() -> None:
        await MiddlewareChain((member("a"), member("b")), endpoint)(head())

    asyncio.run(test())
    assert steps == ["a before", "b before", "endpoint", "b after", "a after"]


def test_a_chain_without_members_is_its_endpoint():
    async def test() -> None:
        assert await MiddlewareChain((), reply)(head()) == HttpResponse(200, [], b"")

    asyncio.run(test())


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/models/iris/predict"), ("PUT", "/v1/models/iris/route"), ("POST", "/nowhere")],
)
@pytest.mark.parametrize("size", [10, 100_000])
def test_an_early_answer_is_sent_before_a_byte_of_the_body_is_read(method, path, size, logged):
    response, protocol = Gateway(refuse).call(method, path, b"x" * size)
    assert (response.status, json.loads(response.body)["code"]) == (403, "forbidden")
    assert protocol.pieces_read == 1, "the rest of the request is read behind the answer"
    (line,) = logged
    assert (line["event"], line["status"]) == ("request", 403)


def test_an_early_answer_to_a_request_without_a_body_is_whole():
    response, protocol = Gateway(refuse).call("GET", ASYNC)
    assert response.status == 403
    assert "Content-Length" not in dict(response.headers), "granian says it"
    assert protocol.pieces_read == 0


@pytest.mark.parametrize("path", [ASYNC, FLASK, "/nowhere"])
def test_every_answer_has_the_headers_that_members_add(path):
    async def add(request: RequestHead, call_next: Handler) -> HttpResponse:
        return (await call_next(request)).with_headers(("X-Added", request.path))

    response, _ = Gateway(add).call("GET", path, **{"x-request-id": "r-1"})
    headers = dict(response.headers)
    assert len(headers) == len(response.headers), "none is there twice"
    assert (headers["X-Added"], headers["X-Request-Id"]) == (path, "r-1")
    assert headers["X-Content-Type-Options"] == "nosniff"


@BOTH
def test_a_header_of_the_view_is_not_replaced(path):
    response, _ = Gateway().call("GET", path)
    (policy,) = [value for name, value in response.headers if name == "Content-Security-Policy"]
    assert ("img-src" in policy) == (path == FLASK)


@BOTH
@pytest.mark.parametrize("place", ["first", "last"])
def test_an_exception_in_a_member_is_a_problem_and_in_the_log(path, place, logged):
    gateway = Gateway(fail) if place == "last" else Gateway(before=(fail,))
    response, _ = gateway.call("GET", path)
    assert (response.status, json.loads(response.body)["code"]) == (500, "internal")
    assert b"a cause" not in response.body
    (error,) = [line for line in logged if line["log_level"] == "error"]
    assert str(error["exc_info"]) == "a cause that callers must not see"


def test_a_member_refuses_by_raising_an_error_of_ours():
    async def limit(_request: RequestHead, _call_next: Handler) -> HttpResponse:
        raise QueueFull("too many", 7)

    response, _ = Gateway(limit).call("POST", "/v1/models/iris/jobs", b"{")
    assert (response.status, dict(response.headers)["Retry-After"]) == (429, "7")


@pytest.mark.parametrize(
    ("path", "status"), [("/nowhere", 404), ("/v1/models/NOBODY/route", 404), ("/v1/jobs/*", 404)]
)
def test_members_see_a_response_where_a_view_raises(path, status):
    seen: list[int] = []

    async def look(request: RequestHead, call_next: Handler) -> HttpResponse:
        response = await call_next(request)
        seen.append(response.status)
        return response

    Gateway(look).call("GET", path)
    assert seen == [status]


def test_what_flask_refuses_by_itself_is_a_problem():
    response, _ = Gateway().call("DELETE", "/docs")
    assert (response.status, json.loads(response.body)["code"]) == (405, "method_not_allowed")
    assert "GET" in dict(response.headers)["Allow"]


@pytest.mark.parametrize(
    ("path", "route"),
    [(ASYNC, ASYNC), (FLASK, FLASK), ("/v1/jobs/*", "/v1/jobs/{job_id}"), ("/x", "unmatched")],
)
def test_the_log_has_the_route_of_either_kind(path, route, logged):
    Gateway().call("GET", path)
    assert [line["route"] for line in logged if line["event"] == "request"] == [route]


# The bridge to Flask's threads


def bridged(app: Any) -> HttpResponse:
    async def test() -> HttpResponse:
        structlog.contextvars.bind_contextvars(request_id="r-3")
        scope: Any = FakeScope("GET", "/")
        return await WsgiBridge(app, threads).answer(scope, head(), b"")

    with ThreadPoolExecutor(1) as threads:
        return asyncio.run(asyncio.wait_for(test(), 10))


def test_a_view_in_a_thread_logs_under_the_requests_id():
    def app(_environ: Any, start: Any) -> list[bytes]:
        start("200 OK", [])
        return [str(structlog.contextvars.get_contextvars()["request_id"]).encode()]

    assert bridged(app) == HttpResponse(200, [], b"r-3")


@pytest.mark.parametrize("kind", [ValueError, StopIteration])
def test_an_exception_in_a_view_arrives(kind):
    def app(_environ: Any, _start: Any) -> list[bytes]:
        raise kind("a fault")

    with pytest.raises((ValueError, RuntimeError)):
        bridged(app)
