"""Flask's side of the gateway: the current request of a view, and its response.

`gateway.http.wsgi` leaves the request's head in the WSGI environment. What views add to it here,
its route and its annotations, is read by the middleware when the view has answered. Exceptions pass
through Flask to the middleware, which makes problems of them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping
from functools import cache

from flask import Flask, Response, request

from gateway.http import HttpRequest, HttpResponse, check_query, declared_bytes, head_in
from gateway.services import services
from yard.errors import Unavailable

_PLACEHOLDER = re.compile(r"<(?:\w+:)?(\w+)>")


def configure_flask(app: Flask, names: Mapping[tuple[str, str], Collection[str]]) -> None:
    """Makes ``app`` record routes, check queries, and raise exceptions, also those of Flask itself.

    Args:
        app: The application.
        names: The query's members by method and path template; others, such as pages, ignore it.
    """
    app.config["TRAP_HTTP_EXCEPTIONS"] = app.config["PROPAGATE_EXCEPTIONS"] = True

    def check() -> None:
        template, query = _record_route(), request.query_string
        method = "GET" if request.method == "HEAD" else request.method
        if query and (method, template) in names:
            check_query(query.decode("latin-1"), names[method, template])

    app.before_request(check)


def current_request() -> HttpRequest:
    """Returns the request that the current view of Flask answers."""
    most_bytes = services().settings.body_bytes
    is_over = (declared_bytes(request.headers) or 0) > most_bytes
    return HttpRequest(
        request.view_args or {},
        request.query_string.decode("latin-1"),
        request.headers,
        b"" if is_over else request.stream.read(most_bytes + 1),
        head_in(request.environ).annotations,
    )


def sleep_for_caller(seconds: float) -> None:
    """Sleeps in a view of Flask, for a caller who waits: a thread must not outlive its caller.

    Raises:
        Unavailable: The caller has gone; nobody sees the error.
    """
    if head_in(request.environ).is_abandoned:
        raise Unavailable("the caller has gone")
    time.sleep(seconds)


def annotate(**context: str | None) -> None:
    """Puts ``job``, ``model`` and ``version`` on the current request's line in the access log."""
    head_in(request.environ).annotations |= context


def flask_response(response: HttpResponse) -> Response:
    """Returns a response in Flask's form."""
    return Response(response.body, response.status, response.headers)


@cache
def path_template(rule: str) -> str:
    """Returns a rule of Flask as the OpenAPI document writes it: ``/v1/jobs/{job_id}``."""
    return _PLACEHOLDER.sub(r"{\1}", rule)


def _record_route() -> str:
    rule = request.url_rule
    if rule is None:
        return ""
    template = head_in(request.environ).route = path_template(rule.rule)
    return template
