"""What a caller asks and what it is answered, as plain values.

They stand between what serves HTTP (granian's event loop, Flask in a thread) and what is asked for,
so that a call is answered by the same code whichever way it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, overload
from urllib.parse import parse_qsl

Headers = list[tuple[str, str]]

_JSON: Headers = [("Content-Type", "application/json")]


class Fields(Protocol):
    """The header fields of a request, by name in lower case."""

    @overload
    def get(self, name: str, default: str, /) -> str: ...
    @overload
    def get(self, name: str, default: None, /) -> str | None: ...
    def get(self, name: str, default: str | None, /) -> str | None:
        """The field's value; several of one name are one list (RFC 9110, section 5.2)."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What a caller asks.

    Attributes:
        names: What the path names: ``model``, ``version``, ``job_id``.
        query_string: The query, without its question mark.
        fields: The header fields.
        body: The body; where it is over the bound, at least one byte more than that, or nothing.
        noted: What the request's line in the log says beside the usual.
    """

    names: Mapping[str, str]
    query_string: str
    fields: Fields
    body: bytes
    noted: dict[str, Any] = field(default_factory=dict)

    def query(self, name: str) -> str | None:
        """A parameter of the query; the first one of several."""
        if not self.query_string:
            return None
        pairs = parse_qsl(self.query_string, keep_blank_values=True)
        return next((value for key, value in pairs if key == name), None)


class HttpResponse(NamedTuple):
    """What a caller is answered."""

    status: int
    headers: Headers
    body: bytes


def json_response(body: bytes, status: int = 200, headers: Headers | None = None) -> HttpResponse:
    """An answer in JSON."""
    return HttpResponse(status, _JSON + headers if headers else _JSON, body)
