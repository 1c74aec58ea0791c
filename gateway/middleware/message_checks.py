"""Refuses requests that are no sound HTTP, so that nothing behind it has to wonder about them.

Two readers of one request must never see different ones: a proxy in front and this gateway, or the
event loop and Flask. What could be read in two ways is refused (RFC 9110 and RFC 9112).
"""

from __future__ import annotations

from werkzeug.exceptions import BadRequest, NotFound
from werkzeug.exceptions import NotImplemented as HttpNotImplemented

from gateway.http import HttpResponse, RequestHead, declared_bytes
from gateway.middleware.chain import Handler

#: Methods that some resource might have; others are 501 (RFC 9110, section 9.1: case matters).
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


async def check_message(request: RequestHead, call_next: Handler) -> HttpResponse:
    """Passes requests whose method, path, host and framing are sound.

    Raises:
        HttpNotImplemented: No resource has the method, or the coding is not `chunked` alone.
        NotFound: The path begins with two slashes.
        BadRequest: The host is missing or given twice, or the body has no clear length.
    """
    if request.method not in METHODS:
        known = ", ".join(sorted(METHODS))
        raise HttpNotImplemented(f"no resource has the method; there are {known}, in upper case")
    if request.path.startswith("//"):
        raise NotFound("no path begins with '//'")
    _check_host(request)
    _check_framing(request)
    return await call_next(request)


def _check_host(request: RequestHead) -> None:
    host = request.fields.get("host", None)
    if host is None and request.http_version == "1":
        return
    if host is None:
        raise BadRequest("HTTP/1.1 needs a Host field")
    if "," in host or not host.isascii():
        raise BadRequest("there must be one Host field, in ASCII")


def _check_framing(request: RequestHead) -> None:
    fields = request.fields
    length, coding = fields.get("content-length", None), fields.get("transfer-encoding", None)
    if length is not None and declared_bytes(fields) is None:
        raise BadRequest("the Content-Length is no length")
    if coding is None:
        return
    if length is not None:
        raise BadRequest("a body has a Content-Length or a Transfer-Encoding, not both")
    if coding.strip().lower() != "chunked":
        raise HttpNotImplemented("the only transfer coding is 'chunked'")
