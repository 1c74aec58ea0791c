"""Requests and responses as plain values, independent of what serves HTTP.

A request is first a `RequestHead`, which passes the middleware; its body is read after that, and an
async view gets both as an `HttpRequest`. Views of Flask make one for themselves, so that the same
code reads parameters and answers on both ways.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, Protocol, overload
from urllib.parse import parse_qsl

from yard.contract import MAX_INPUT_ERRORS
from yard.errors import InvalidInput

Headers = list[tuple[str, str]]

#: The route of a request that no rule matches.
UNMATCHED = "unmatched"

_JSON: Headers = [("Content-Type", "application/json")]


class Fields(Protocol):
    """The header fields of a request, by name in lower case."""

    @overload
    def get(self, name: str, default: str, /) -> str: ...
    @overload
    def get(self, name: str, default: None, /) -> str | None: ...
    def get(self, name: str, default: str | None, /) -> str | None:
        """Returns a field's value; several of one name are one list (RFC 9110, section 5.2)."""


@dataclass(slots=True)
class RequestHead:
    """A request whose body has not been read; middleware sees and amends it.

    Attributes:
        method: The HTTP method.
        path: The path, percent-decoded.
        query_string: The query, without its question mark.
        fields: The header fields.
        route: The template of the path, ``/v1/jobs/{job_id}``; that of a Flask view is known when
            Flask has matched it, after the middleware has passed the request on.
        request_id: The request's id, once it is assigned.
        annotations: More members of the request's line in the access log: ``job``, ``model``, ...
        is_abandoned: True once the client has gone: nobody will read the response.
        http_version: ``1.1``, or ``1`` for HTTP/1.0.
    """

    method: str
    path: str
    query_string: str
    fields: Fields
    route: str = UNMATCHED
    request_id: str = ""
    annotations: dict[str, Any] = field(default_factory=dict)
    is_abandoned: bool = False
    http_version: str = "1.1"


@dataclass(slots=True)
class HttpRequest:
    """A request as views read it.

    Attributes:
        path_parameters: Parts of the path by name: ``model``, ``version``, ``job_id``.
        query_string: The query, without its question mark.
        fields: The header fields.
        body: The body; if it is over the bound, at least one byte more than that, or nothing. Empty
            again once a view has taken it.
        annotations: As `RequestHead.annotations`.
    """

    path_parameters: Mapping[str, str]
    query_string: str
    fields: Fields
    body: bytes
    annotations: dict[str, Any] = field(default_factory=dict)

    def take_body(self) -> bytes:
        """Returns the body and lets go of it: a request that waits must not hold its memory."""
        body, self.body = self.body, b""
        return body

    def query(self, name: str) -> str | None:
        """Returns a parameter of the query, the first of several; None if it is not there."""
        if not self.query_string:
            return None
        pairs = parse_qsl(self.query_string, keep_blank_values=True)
        return next((value for key, value in pairs if key == name), None)


class HttpResponse(NamedTuple):
    """A response, with its whole body."""

    status: int
    headers: Headers
    body: bytes

    def with_headers(self, *more: tuple[str, str]) -> HttpResponse:
        """Returns the same response with more headers; lists of headers may be shared."""
        return HttpResponse(self.status, [*self.headers, *more], self.body)


def check_query(query_string: str, names: Collection[str]) -> None:
    """Checks that a query has no members but some, and each at most once.

    Raises:
        InvalidInput: Names those that are unknown, or given twice.
    """
    given = Counter(key for key, _ in parse_qsl(query_string, keep_blank_values=True))
    there = f"there are {', '.join(sorted(names))}" if names else "there are none"
    faults = [
        {"loc": [key[:80]], "msg": "is given twice" if key in names else f"unknown member; {there}"}
        for key, count in islice(given.items(), MAX_INPUT_ERRORS)
        if key not in names or count > 1
    ]
    if faults:
        raise InvalidInput.of(faults)


def json_response(body: bytes, status: int = 200, headers: Headers | None = None) -> HttpResponse:
    """Returns a response whose body is JSON."""
    return HttpResponse(status, _JSON + headers if headers else _JSON, body)
