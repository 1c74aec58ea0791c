"""What every request leaves behind: an id, one line in the log, one observation, safe headers.

Stands around Flask as WSGI middleware, where it costs a third of what Flask's hooks cost and sees
everything that leaves. The id is the caller's ``X-Request-Id`` if that is sane, and on every log
line of the request. Labels of the observation are templates and fixed sets, never what a caller
sent.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import structlog
from flask import Flask, request
from prometheus_client import CollectorRegistry, Histogram

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"})
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_PLACEHOLDER = re.compile(r"<(?:\w+:)?(\w+)>")

#: Upper bounds in seconds, from an answer out of memory to the longest wait.
_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

#: Nothing here is a page but /docs, and that needs nothing from elsewhere.
_HEADERS = (
    ("Content-Security-Policy", "default-src 'self'; base-uri 'none'; frame-ancestors 'none'"),
    ("Cache-Control", "no-store"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
)

# What others leave for us in the request's environ.
_NOTED = "modelyard.noted"
_ROUTE = "modelyard.route"
_READ = "modelyard.read"

_Environ = dict[str, Any]
_Headers = list[tuple[str, str]]
_Drop = Callable[[_Environ], None]
_Wsgi = Callable[[_Environ, Callable[..., Any]], Iterable[bytes]]

_log = structlog.get_logger("gateway.access")


def install(app: Flask, registry: CollectorRegistry | None, drop: _Drop) -> None:
    """Observe every request of ``app``.

    Args:
        app: The application.
        registry: Where requests are counted; None where the processes' files are the registry.
        drop: Reads the rest of a request's body, once the answer is out.
    """
    latency = Histogram(
        "http_request_duration_seconds",
        "How long requests took, waits included.",
        ("route", "method", "status"),
        buckets=_BOUNDS,
        registry=registry,
    )

    def keep_route() -> None:
        rule = request.url_rule
        if rule is not None:
            request.environ[_ROUTE] = template(rule.rule)

    app.before_request(keep_route)
    app.wsgi_app = Observer(app.wsgi_app, latency, drop)  # type: ignore[method-assign]  # as Flask has it


def note(**context: str | None) -> None:
    """Put ``job``, ``model`` and ``version`` on the request's line in the log."""
    request.environ[_NOTED] |= context


def note_read() -> None:
    """Say that the request's body was read to its end."""
    request.environ[_READ] = True


@cache
def template(rule: str) -> str:
    """A rule of Flask as the OpenAPI document writes it: ``/v1/jobs/{job_id}``."""
    return _PLACEHOLDER.sub(r"{\1}", rule)


class Observer:
    """The middleware."""

    def __init__(self, app: _Wsgi, latency: Histogram, drop: _Drop) -> None:
        self._app = app
        self._latency = latency
        self._drop = drop

    def __call__(self, environ: _Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request; the whole body at once, as granian sends that fastest."""
        began = time.perf_counter()
        noted: dict[str, Any] = {}
        environ[_NOTED] = noted
        given = environ.get("HTTP_X_REQUEST_ID", "")
        request_id = given if _SANE_ID.fullmatch(given) else secrets.token_hex(16)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        status = ""

        def start(line: str, headers: _Headers, *exc_info: Any) -> Any:
            nonlocal status
            status = line[:3]
            present = {name for name, _ in headers}
            headers += [pair for pair in _HEADERS if pair[0] not in present]
            headers.append(("X-Request-Id", request_id))
            return start_response(line, headers, *exc_info)

        body = _whole(self._app(environ, start))
        self._tell(environ, status, time.perf_counter() - began, noted)
        return _and_then(body, self._drop, environ) if _has_more(environ) else [body]

    def _tell(self, environ: _Environ, status: str, seconds: float, noted: dict[str, Any]) -> None:
        route = environ.get(_ROUTE, "unmatched")
        method = environ["REQUEST_METHOD"]
        method = method if method in _METHODS else "other"
        self._latency.labels(route, method, status).observe(seconds)
        ms = round(seconds * 1000, 3)
        _log.info("request", method=method, route=route, status=int(status), ms=ms, **noted)


def _whole(pieces: Iterable[bytes]) -> bytes:
    try:
        return b"".join(pieces)
    finally:
        if hasattr(pieces, "close"):
            pieces.close()


def _has_more(environ: _Environ) -> bool:
    """Whether the request has a body that nobody has read to its end."""
    if _READ in environ:
        return False
    declared = environ.get("CONTENT_LENGTH") or "0"
    return declared != "0" or "HTTP_TRANSFER_ENCODING" in environ


def _and_then(body: bytes, drop: _Drop, environ: _Environ) -> Iterator[bytes]:
    """The answer, and then an end to the request.

    Most clients send first and read then. Where the rest of a refused request is not read, they
    find their connection reset, and may never see why.
    """
    yield body
    drop(environ)
