"""Async views: operations that the event loop answers itself, without Flask and without a thread.

An async view is a coroutine function from an `HttpRequest` to an `HttpResponse`.
`gateway.server.rsgi` finds it by method and path. Flask has each as a view, too, which lets the
event loop answer: so the OpenAPI document has it, and Flask answers other methods of its
path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from gateway.api.flask_views import current_request, flask_response, path_template
from gateway.api.openapi import query_names
from gateway.http import HttpRequest, HttpResponse
from gateway.services import Services, services

AsyncHandler = Callable[[HttpRequest, Services], Coroutine[Any, Any, HttpResponse]]


@dataclass(frozen=True, slots=True)
class AsyncView:
    """One async view, with a path that has at most one parameter.

    Attributes:
        method: The HTTP method.
        template: The path as the OpenAPI document writes it.
        prefix: The path up to its parameter; all of it without one.
        parameter: The parameter's name; empty without one.
        suffix: The path behind the parameter.
        handler: Answers requests.
        query_names: Members that its query may have; None for any.
    """

    method: str
    template: str
    prefix: str
    parameter: str
    suffix: str
    handler: AsyncHandler
    query_names: frozenset[str] | None = None

    @classmethod
    def of(cls, method: str, rule: str, handler: AsyncHandler) -> AsyncView:
        """Makes a view of a rule of Flask with at most one placeholder: ``/v1/jobs/<job_id>``."""
        prefix, _, rest = rule.partition("<")
        parameter, _, suffix = rest.partition(">")
        return cls(method, path_template(rule), prefix, parameter, suffix, handler)

    def match(self, path: str) -> dict[str, str] | None:
        """Returns the path's parameters; None if the path is not this view's."""
        if not self.parameter:
            return {} if path == self.prefix else None
        if not path.startswith(self.prefix) or not path.endswith(self.suffix):
            return None
        value = path[len(self.prefix) : len(path) - len(self.suffix)]
        return {self.parameter: value} if value and "/" not in value else None


class AsyncViews:
    """Registers the async views of one blueprint; a decorator factory.

    Attributes:
        views: Those that are registered.
    """

    def __init__(self, blueprint: APIBlueprint) -> None:
        self._blueprint = blueprint
        self.views: list[AsyncView] = []

    def __call__(
        self, method: str, rule: str, **described: Any
    ) -> Callable[[AsyncHandler], AsyncHandler]:
        """Registers a coroutine function; ``described`` goes into the OpenAPI document."""

        def register(handler: AsyncHandler) -> AsyncHandler:
            getattr(self._blueprint, method.lower())(rule, **described)(_flask_view(handler))
            view = AsyncView.of(method, rule, handler)
            names = query_names([self._blueprint]).get((method, view.template))
            self.views.append(replace(view, query_names=names))
            return handler

        return register


class AsyncViewIndex:
    """The async views of an application, by method."""

    def __init__(self, views: Iterable[AsyncView]) -> None:
        self._by_method: dict[str, list[AsyncView]] = {}
        for view in views:
            self._by_method.setdefault(view.method, []).append(view)

    def find(self, method: str, path: str) -> tuple[AsyncView, dict[str, str]] | None:
        """Returns the view of a request and the path's parameters; None leaves it to Flask."""
        # HEAD is GET (RFC 9110, section 9.3.2); granian drops the body.
        for view in self._by_method.get("GET" if method == "HEAD" else method, ()):
            parameters = view.match(path)
            if parameters is not None:
                return view, parameters
        return None


def _flask_view(handler: AsyncHandler) -> Callable[[], Response]:
    """Returns a view of Flask whose thread waits for the event loop's answer."""

    @wraps(handler)
    def view() -> Response:
        answered = asyncio.run_coroutine_threadsafe(
            handler(current_request(), services()), services().loop
        )
        return flask_response(answered.result())

    del view.__wrapped__  # flask-openapi would read its signature
    return view
