"""The bridge from the event loop to a WSGI application, which runs in threads.

The environment carries the request's head, so that views can annotate it, and the thread runs in a
copy of the request's context, so that its log lines carry the request's id.
"""

from __future__ import annotations

import asyncio
import contextvars
import io
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from typing import Any, cast

from granian.rsgi import Scope

from gateway.http.messages import Headers, HttpResponse, RequestHead

_Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

#: Fields that WSGI has under names of their own (PEP 3333).
_OWN_NAMES = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}

#: Key of the request's head in the environment.
_HEAD = "modelyard.head"


class WsgiBridge:
    """Calls a WSGI application from the event loop.

    Args:
        app: The application.
        threads: Run it.
    """

    def __init__(self, app: _Wsgi, threads: Executor) -> None:
        self._app = app
        self._threads = threads

    async def answer(self, scope: Scope, head: RequestHead, body: bytes) -> HttpResponse:
        """Returns the application's response.

        Raises:
            Exception: The application has raised it.
        """
        known = environ(scope, body) | {_HEAD: head}
        run = contextvars.copy_context().run
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, run, self._run, known)

    def _run(self, known: dict[str, Any]) -> HttpResponse:
        status, headers = 500, Headers()

        def start(line: str, given: Headers, _exc_info: Any = None) -> None:
            nonlocal status, headers
            status, headers = int(line[:3]), given

        try:
            body = _whole(self._app(known, start))
        except StopIteration as error:  # set on a future of asyncio, it would never arrive
            raise RuntimeError("a view raised StopIteration") from error
        return HttpResponse(status, headers, body)


def head_in(known: Mapping[str, Any]) -> RequestHead:
    """Returns the request's head from the environment of a WSGI application."""
    return cast("RequestHead", known[_HEAD])


def _whole(pieces: Iterable[bytes]) -> bytes:
    try:
        return b"".join(pieces)
    finally:
        if hasattr(pieces, "close"):
            pieces.close()


def environ(scope: Scope, body: bytes) -> dict[str, Any]:
    """Returns a request in WSGI's form."""
    host, _, port = scope.server.rpartition(":")
    known = {
        "REQUEST_METHOD": scope.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": scope.path.encode().decode("latin-1"),  # PEP 3333: bytes in disguise
        "QUERY_STRING": scope.query_string,
        "SERVER_NAME": host,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "REMOTE_ADDR": scope.client.rpartition(":")[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.scheme,
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in scope.headers.items():
        key = _OWN_NAMES.get(name) or "HTTP_" + name.upper().replace("-", "_")
        known[key] = f"{known[key]},{value}" if key in known else value
    return known
