"""What granian hands every request to: direct calls are answered here, Flask's views in threads.

One event loop serves the whole process, so that a call that waits for its job costs no thread, and
what many calls ask of Redis at once goes there together. It runs nothing that takes long: that is
done in threads (`gateway.http.threads`), and Redis is asked by others
(`gateway.services.redis_batcher`).
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from granian import rsgi

from gateway.api import ASYNC_VIEWS, AsyncView, AsyncViewIndex
from gateway.http import Body, BodyReader, HttpRequest, HttpResponse, WsgiBridge
from gateway.middleware import UNMATCHED, RequestRecord, problem_of
from gateway.services import Services, services_of
from yard.errors import Unavailable

#: Large bodies that may come in at once: with the bound of 8 MiB they have 256 MiB.
_LARGE_BODIES = 32

_UNREAD = Body(b"", is_whole=False)


class RsgiApp:
    """An application of granian's own interface (RSGI).

    Args:
        create: Makes the application of Flask for an event loop; called once, when that is known.
        on_start: Called then with the application's services.
    """

    def __init__(
        self,
        create: Callable[[asyncio.AbstractEventLoop], Any],
        on_start: Callable[[Services], None],
    ) -> None:
        self._create = create
        self._on_start = on_start

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called by granian before the loop runs."""
        app = self._create(loop)
        self._services = services_of(app)
        self._bodies = BodyReader(self._services.settings.body_bytes, _LARGE_BODIES)
        self._views = WsgiBridge(app, self._services.threads.views)
        self._directory = AsyncViewIndex(ASYNC_VIEWS)
        self._on_start(self._services)
        # What is here now stays: collections pass it over, each of which would take 10 ms or more.
        gc.collect()
        gc.freeze()

    def __rsgi_del__(self, _loop: asyncio.AbstractEventLoop) -> None:
        """Called by granian when the last request is answered."""
        self._services.close()

    async def __rsgi__(self, scope: rsgi.Scope, protocol: rsgi.HTTPProtocol) -> None:
        """Answer one request."""
        fields = _Fields(scope.headers)
        found = self._directory.find(scope.method, scope.path)
        if found is None:
            await self._by_view(scope, fields, protocol)
        else:
            await self._directly(*found, scope, fields, protocol)

    async def _directly(
        self,
        direct: AsyncView,
        names: dict[str, str],
        scope: rsgi.Scope,
        fields: _Fields,
        protocol: rsgi.HTTPProtocol,
    ) -> None:
        observed, body = self._begin(scope, fields), _UNREAD
        try:
            body = await self._bodies.read(fields, protocol)
            call = HttpRequest(names, scope.query_string, fields, body.read, observed.noted)
            reply = await direct.answer(call, self._services)
        except Exception as error:
            reply = problem_of(error)
        reply = observed.end(direct.template, reply)
        await self._send(reply, body, fields, protocol)

    async def _by_view(
        self, scope: rsgi.Scope, fields: _Fields, protocol: rsgi.HTTPProtocol
    ) -> None:
        body = _UNREAD
        try:
            body = await self._bodies.read(fields, protocol)
            reply = await self._views.answer(scope, body.read)  # observed there
        except Unavailable as error:
            reply = self._begin(scope, fields).end(UNMATCHED, problem_of(error))
        await self._send(reply, body, fields, protocol)

    def _begin(self, scope: rsgi.Scope, fields: _Fields) -> RequestRecord:
        given_id = fields.get("x-request-id", "")
        return self._services.observer.begin(scope.method, given_id)

    async def _send(
        self, reply: HttpResponse, body: Body, fields: _Fields, protocol: rsgi.HTTPProtocol
    ) -> None:
        """Send the answer, and read the rest of the request behind it."""
        if body.is_whole:
            protocol.response_bytes(reply.status, reply.headers, reply.body)
            return
        headers = [pair for pair in reply.headers if pair[0] != "Content-Length"]
        headers.append(("Content-Length", str(len(reply.body))))
        stream = protocol.response_stream(reply.status, headers)
        with suppress(rsgi.ProtocolClosed):  # the client has gone
            await stream.send_bytes(reply.body)
            await self._bodies.drop(fields, protocol)


class _Fields:
    """Header fields as granian gives them: one that is not ASCII is there, and has no value."""

    __slots__ = ("_given",)

    def __init__(self, given: rsgi.Headers) -> None:
        self._given = given

    def get(self, name: str, default: Any, /) -> Any:
        """As `gateway.http.messages.Fields`."""
        given = self._given
        if name not in given:
            return default
        return ",".join([value for field, value in given.items() if field == name])
