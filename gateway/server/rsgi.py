"""The RSGI application, which granian calls for every request.

A request passes the middleware as a head, before its body is read. Then an async view answers it on
the event loop, or a view of Flask in a thread. One event loop serves the whole process: a call that
waits for its job costs no thread, and questions to Redis that come together travel together.
Nothing on the loop takes long: threads do that (`gateway.http.threads`), and other threads talk to
Redis (`gateway.services.redis_batcher`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from granian import rsgi
from werkzeug.exceptions import HTTPException

from gateway.api import ASYNC_VIEWS, AsyncView, AsyncViewIndex
from gateway.http import (
    BodyReader,
    DisconnectGuard,
    HttpRequest,
    HttpResponse,
    RequestHead,
    WsgiBridge,
    check_query,
)
from gateway.middleware import MiddlewareChain, problem
from gateway.services import Services, services_of

#: Large bodies that may come in at once: with the bound of 8 MiB they have 256 MiB.
_LARGE_BODIES = 32


@dataclass(slots=True, kw_only=True)
class _RsgiRequest(RequestHead):
    """A request of granian's.

    Attributes:
        scope: Its head in granian's form.
        protocol: Reads its body and sends the response.
        view: The async view that answers it; None for a view of Flask.
        path_parameters: For the async view.
        is_read: True if nothing of its body is left to read; None until it is read.
    """

    scope: rsgi.Scope
    protocol: rsgi.HTTPProtocol
    view: AsyncView | None = None
    path_parameters: Mapping[str, str]
    is_read: bool | None = None


class RsgiApp:
    """An application of granian's own interface (RSGI).

    Args:
        create: Makes the application of Flask for an event loop; called once, when that is known.
        on_start: Called then with the application's services.

    Attributes:
        bodies: Reads the bodies of requests.
    """

    bodies: BodyReader

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
        self.bodies = BodyReader(self._services.settings.body_bytes, _LARGE_BODIES)
        self._flask_views = WsgiBridge(app.wsgi_app, self._services.threads.views)
        self._async_views = AsyncViewIndex(ASYNC_VIEWS)
        self._chain = MiddlewareChain(self._services.middleware, self._answer)
        self._on_start(self._services)

    def __rsgi_del__(self, _loop: asyncio.AbstractEventLoop) -> None:
        """Called by granian when the last request is answered."""
        self._services.close()

    async def __rsgi__(self, scope: rsgi.Scope, protocol: rsgi.HTTPProtocol) -> None:
        """Answers one request."""
        request = self._request(scope, protocol)
        response = await self._chain(request)
        await self._send(request, response)

    def _request(self, scope: rsgi.Scope, protocol: rsgi.HTTPProtocol) -> _RsgiRequest:
        method, path = scope.method, scope.path
        view, parameters = self._async_views.find(method, path) or (None, {})
        request = _RsgiRequest(
            method,
            path,
            scope.query_string,
            _Fields(scope.headers),
            scope=scope,
            protocol=protocol,
            view=view,
            path_parameters=parameters,
            http_version=scope.http_version,
        )
        if view is not None:
            request.route = view.template
        return request

    async def _answer(self, request: _RsgiRequest) -> HttpResponse:
        """The endpoint of the middleware: reads the body and runs the view."""
        with DisconnectGuard(request, request.protocol):
            return await self._view_answer(request)
        return _GONE

    async def _view_answer(self, request: _RsgiRequest) -> HttpResponse:
        view = request.view
        if request.query_string and view is not None and view.query_names is not None:
            check_query(request.query_string, view.query_names)
        try:
            body = await self.bodies.read(request.fields, request.protocol, request.scope.client)
        except HTTPException:  # it came too slowly, or was cut off: no more is expected of it
            request.is_read = True
            raise
        request.is_read = body.is_whole
        if view is None:
            return await self._flask_views.answer(request.scope, request, body.read)
        call = HttpRequest(
            request.path_parameters,
            request.query_string,
            request.fields,
            body.read,
            request.annotations,
        )
        del body  # the view lets go of it before it waits
        return await view.handler(call, self._services)

    async def _send(self, request: _RsgiRequest, response: HttpResponse) -> None:
        """Sends the response, and reads what is left of the request behind it."""
        is_read = request.is_read
        if is_read is None:
            is_read = self.bodies.unread(request.fields).is_whole
        if is_read or request.is_abandoned:
            request.protocol.response_bytes(response.status, response.headers, response.body)
            return
        headers = [pair for pair in response.headers if pair[0] != "Content-Length"]
        headers.append(("Content-Length", str(len(response.body))))
        stream = request.protocol.response_stream(response.status, headers)
        with suppress(rsgi.ProtocolClosed):  # the client has gone
            await stream.send_bytes(response.body)
            await self.bodies.drop(request.fields, request.protocol, request.scope.client)


#: For the access log alone: the status that other servers log, too.
_GONE = problem(499, "client_closed_request", "The client has gone", "The connection was closed.")


#: The value of a field that has another than ASCII.
_NO_TEXT = "\ufffd"


class _Fields:
    """Header fields as granian gives them: it has no values for those that are not ASCII."""

    __slots__ = ("_given",)

    def __init__(self, given: rsgi.Headers) -> None:
        self._given = given

    def get(self, name: str, default: Any, /) -> Any:
        """As `gateway.http.messages.Fields`."""
        given = self._given
        if name not in given:
            return default
        return ",".join([value for field, value in given.items() if field == name] or [_NO_TEXT])
