"""Granian's part in tests: an application of RSGI, called with requests in memory or over WSGI."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

from gateway.http import Headers, HttpResponse
from gateway.server.rsgi import RsgiApp


class FakeHeaders:
    """The header fields of a request, by name in lower case."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = fields

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def items(self) -> list[tuple[str, str]]:
        return list(self._fields.items())


class FakeScope:
    """The head of a request, as granian has it."""

    http_version, scheme = "1.1", "http"
    server, client = "127.0.0.1:8000", "127.0.0.1:5555"

    def __init__(
        self, method: str, path: str, query: str = "", fields: Mapping[str, str] | None = None
    ) -> None:
        self.method = method
        self.path = path
        self.query_string = query
        self.headers = FakeHeaders(fields or {})


class FakeProtocol:
    """Gives a body and takes the response.

    Args:
        body: Its pieces, each of which is counted when it is read.
    """

    def __init__(self, *body: bytes) -> None:
        self._body = body
        self.pieces_read = 0
        self.response: HttpResponse | None = None

    async def __call__(self) -> bytes:
        return b"".join([piece async for piece in self])

    async def client_disconnect(self) -> None:
        await asyncio.Event().wait()  # the client stays

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._body:
            self.pieces_read += 1
            yield piece

    def response_bytes(self, status: int, headers: Headers, body: bytes) -> None:
        assert self.response is None, "one response for each request"
        self.response = HttpResponse(status, headers, body)

    def response_stream(self, status: int, headers: Headers) -> FakeProtocol:
        self.response_bytes(status, headers, b"")
        return self

    async def send_bytes(self, piece: bytes) -> None:
        assert self.response is not None
        self.response = self.response._replace(body=self.response.body + piece)


class RsgiOverWsgi:
    """An application of RSGI as one of WSGI, for Flask's test client.

    Args:
        app: The application.
        loop: Runs it, on another thread.
    """

    def __init__(self, app: RsgiApp, loop: asyncio.AbstractEventLoop) -> None:
        self._app = app
        self._loop = loop

    def __call__(
        self, environ: Mapping[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        scope: Any = FakeScope(
            environ["REQUEST_METHOD"],
            environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace"),
            environ.get("QUERY_STRING", ""),
            dict(_fields(environ)),
        )
        protocol: Any = FakeProtocol(*_pieces(environ))
        running = asyncio.run_coroutine_threadsafe(self._app.__rsgi__(scope, protocol), self._loop)
        running.result()
        response: HttpResponse = protocol.response
        start_response(f"{response.status} ", response.headers)
        return [b"" if scope.method == "HEAD" else response.body]


def _fields(environ: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for key, value in environ.items():
        if key in ("CONTENT_TYPE", "CONTENT_LENGTH") or key.startswith("HTTP_"):
            yield key.removeprefix("HTTP_").lower().replace("_", "-"), value


def _pieces(environ: Mapping[str, Any]) -> Sequence[bytes]:
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    pieces = io.BytesIO(body)
    return list(iter(lambda: pieces.read(65_536), b""))
