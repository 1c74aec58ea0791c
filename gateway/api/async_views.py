"""Calls that the event loop answers itself, without Flask and without a thread.

Such a call is a coroutine from a `HttpRequest` to a `HttpResponse`. `gateway.server.rsgi` finds it
by its method and path; Flask has it, too, as a view that lets the event loop answer: so it stands
in the OpenAPI document, and is found whatever form a path comes in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from gateway.api.parameters import asked
from gateway.http import HttpRequest, HttpResponse
from gateway.middleware import template
from gateway.services import Services, services

Answer = Callable[[HttpRequest, Services], Coroutine[Any, Any, HttpResponse]]


@dataclass(frozen=True, slots=True)
class AsyncView:
    """One call.

    Attributes:
        method: Its HTTP method.
        template: Its path, as the OpenAPI document writes it.
        before: The path up to what it names,
        name: what that is called; empty where the path names nothing,
        after: and the path behind that.
        answer: What answers it.
    """

    method: str
    template: str
    before: str
    name: str
    after: str
    answer: Answer

    @classmethod
    def of(cls, method: str, rule: str, answer: Answer) -> AsyncView:
        """From a rule of Flask with at most one placeholder: ``/v1/jobs/<job_id>``."""
        before, _, rest = rule.partition("<")
        name, _, after = rest.partition(">")
        return cls(method, template(rule), before, name, after, answer)

    def names(self, path: str) -> dict[str, str] | None:
        """What the path names; None if it is not this call's."""
        if not self.name:
            return {} if path == self.before else None
        if not path.startswith(self.before) or not path.endswith(self.after):
            return None
        named = path[len(self.before) : len(path) - len(self.after)]
        return {self.name: named} if named and "/" not in named else None


class AsyncViews:
    """The direct calls of one blueprint."""

    def __init__(self, blueprint: APIBlueprint) -> None:
        self._blueprint = blueprint
        self.calls: list[AsyncView] = []

    def __call__(self, method: str, rule: str, **described: Any) -> Callable[[Answer], Answer]:
        """Register a coroutine; ``described`` is what the OpenAPI document says of it."""

        def register(answer: Answer) -> Answer:
            self.calls.append(AsyncView.of(method, rule, answer))
            getattr(self._blueprint, method.lower())(rule, **described)(_view(answer))
            return answer

        return register


class AsyncViewIndex:
    """All direct calls of an application, by method."""

    def __init__(self, calls: Iterable[AsyncView]) -> None:
        self._by_method: dict[str, list[AsyncView]] = {}
        for call in calls:
            self._by_method.setdefault(call.method, []).append(call)

    def find(self, method: str, path: str) -> tuple[AsyncView, dict[str, str]] | None:
        """The call that is meant, and what its path names; None leaves it to Flask."""
        # HEAD is GET (RFC 9110, section 9.3.2); granian keeps the body to itself.
        for call in self._by_method.get("GET" if method == "HEAD" else method, ()):
            names = call.names(path)
            if names is not None:
                return call, names
        return None


def _view(answer: Answer) -> Callable[[], Response]:
    """The same as a view: its thread waits for the event loop."""

    @wraps(answer)
    def view() -> Response:
        told = asyncio.run_coroutine_threadsafe(answer(asked(), services()), services().loop)
        return response(told.result())

    del view.__wrapped__  # flask-openapi would read its signature
    return view


def response(reply: HttpResponse) -> Response:
    """A reply as Flask has it."""
    return Response(reply.body, reply.status, reply.headers)
