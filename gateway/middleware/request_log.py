"""What every request leaves behind: an id, one line in the log, one observation, safe headers.

Calls that the event loop answers are observed by `gateway.server.rsgi`, all others by a WSGI
middleware around Flask, where it costs a third of what Flask's hooks cost and sees everything that
leaves. The id is the caller's ``X-Request-Id`` if that is sane, and on every log line of the
request. Labels of the observation are templates and fixed sets, never what a caller sent.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import structlog
from flask import Flask, request
from prometheus_client import CollectorRegistry, Histogram

from gateway.http import Headers, HttpResponse
from yard.contract import new_id

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"})
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_PLACEHOLDER = re.compile(r"<(?:\w+:)?(\w+)>")

#: Upper bounds in seconds, from an answer out of memory to the longest wait.
_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

#: Nothing here is a page but /docs, and that needs nothing from elsewhere.
_HEADERS: Headers = [
    ("Content-Security-Policy", "default-src 'self'; base-uri 'none'; frame-ancestors 'none'"),
    ("Cache-Control", "no-store"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
]

# What others leave for us in the environ of Flask's requests.
_NOTED = "modelyard.noted"
_ROUTE = "modelyard.route"

#: The route of a request that no rule matches.
UNMATCHED = "unmatched"

_Environ = dict[str, Any]
_Wsgi = Callable[[_Environ, Callable[..., Any]], Iterable[bytes]]


class RequestRecord:
    """One request, from when this is made; see `RequestLog.begin`.

    Attributes:
        request_id: The caller's, or a new one.
        noted: What its line in the log says beside the usual.
    """

    __slots__ = ("_began", "_method", "_observer", "noted", "request_id")

    def __init__(self, observer: RequestLog, method: str, given_id: str) -> None:
        self._began = time.perf_counter()
        self._observer = observer
        self._method = method if method in _METHODS else "other"
        self.noted: dict[str, Any] = {}
        self.request_id = given_id if _SANE_ID.fullmatch(given_id) else new_id()
        structlog.contextvars.bind_contextvars(request_id=self.request_id)

    def headers(self, own: Headers) -> Headers:
        """All headers of an answer that has some of its own."""
        present = {name for name, _ in own}
        safe = [pair for pair in _HEADERS if pair[0] not in present]
        return [*own, *safe, ("X-Request-Id", self.request_id)]

    def end(self, route: str, reply: HttpResponse) -> HttpResponse:
        """The answer with all its headers, after it was counted and logged."""
        self.tell(route, reply.status)
        return reply._replace(headers=self.headers(reply.headers))

    def tell(self, route: str, status: int) -> None:
        """Count it, and log it."""
        seconds = time.perf_counter() - self._began
        self._observer.count(route, self._method, status, seconds)
        ms = round(seconds * 1000, 3)
        log = self._observer.log
        log.info("request", method=self._method, route=route, status=status, ms=ms, **self.noted)


class RequestLog:
    """Where requests are counted and logged.

    Args:
        registry: Where they are counted; None where the processes' files are the registry.
    """

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self.log = structlog.get_logger("gateway.access").bind()  # once: each binding costs 10 us
        self._latency = Histogram(
            "http_request_duration_seconds",
            "How long requests took, waits included.",
            ("route", "method", "status"),
            buckets=_BOUNDS,
            registry=registry,
        )
        self._series: dict[tuple[str, str, int], Histogram] = {}

    def begin(self, method: str, given_id: str) -> RequestRecord:
        """Observe a request from now on; its id may be the one that the caller gave."""
        return RequestRecord(self, method, given_id)

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request."""
        labels = (route, method, status)
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = self._latency.labels(*labels)
        series.observe(seconds)


def install(app: Flask, observer: RequestLog) -> None:
    """Observe every request of ``app``."""

    def keep_route() -> None:
        rule = request.url_rule
        if rule is not None:
            request.environ[_ROUTE] = template(rule.rule)

    app.before_request(keep_route)
    app.wsgi_app = _Middleware(app.wsgi_app, observer)  # type: ignore[method-assign]  # as Flask has it


def noted() -> dict[str, Any]:
    """What the line in the log of Flask's present request says beside the usual."""
    found: dict[str, Any] = request.environ[_NOTED]
    return found


def note(**context: str | None) -> None:
    """Put ``job``, ``model`` and ``version`` on that line."""
    request.environ[_NOTED] |= context


@cache
def template(rule: str) -> str:
    """A rule of Flask as the OpenAPI document writes it: ``/v1/jobs/{job_id}``."""
    return _PLACEHOLDER.sub(r"{\1}", rule)


class _Middleware:
    def __init__(self, app: _Wsgi, observer: RequestLog) -> None:
        self._app = app
        self._observer = observer

    def __call__(self, environ: _Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request; the whole body at once."""
        given_id = environ.get("HTTP_X_REQUEST_ID", "")
        observed = self._observer.begin(environ["REQUEST_METHOD"], given_id)
        environ[_NOTED] = observed.noted
        status = 0

        def start(line: str, headers: Headers, *exc_info: Any) -> Any:
            nonlocal status
            status = int(line[:3])
            return start_response(line, observed.headers(headers), *exc_info)

        body = _whole(self._app(environ, start))
        observed.tell(environ.get(_ROUTE, UNMATCHED), status)
        return [body]


def _whole(pieces: Iterable[bytes]) -> bytes:
    try:
        return b"".join(pieces)
    finally:
        if hasattr(pieces, "close"):
            pieces.close()
