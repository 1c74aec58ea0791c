"""Flask's views for the event loop: a request of granian's as WSGI has it, run in a thread."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import Any

from granian.rsgi import Scope

from gateway.http.messages import Headers, HttpResponse

_Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

#: Fields that WSGI has under names of their own (PEP 3333).
_OWN_NAMES = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}


class WsgiBridge:
    """The application's views.

    Args:
        app: The application.
        threads: Where they run.
    """

    def __init__(self, app: _Wsgi, threads: Executor) -> None:
        self._app = app
        self._threads = threads

    async def answer(self, scope: Scope, body: bytes) -> HttpResponse:
        """What the application answers to a request."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._run, environ(scope, body))

    def _run(self, request: dict[str, Any]) -> HttpResponse:
        status, headers = 500, Headers()

        def start(line: str, given: Headers, _exc_info: Any = None) -> None:
            nonlocal status, headers
            status, headers = int(line[:3]), given

        pieces = self._app(request, start)
        return HttpResponse(status, headers, b"".join(pieces))


def environ(scope: Scope, body: bytes) -> dict[str, Any]:
    """A request as WSGI has it."""
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
