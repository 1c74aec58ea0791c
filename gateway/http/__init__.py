"""Requests and responses, independent of framework: messages, bodies, threads, WSGI."""

from gateway.http.body_reader import Body, BodyReader, declared_bytes
from gateway.http.disconnects import DisconnectGuard
from gateway.http.messages import (
    Headers,
    HttpRequest,
    HttpResponse,
    RequestHead,
    check_query,
    json_response,
)
from gateway.http.threads import SMALL_BYTES, Threads
from gateway.http.wsgi import WsgiBridge, head_in

__all__ = [
    "SMALL_BYTES",
    "Body",
    "BodyReader",
    "DisconnectGuard",
    "Headers",
    "HttpRequest",
    "HttpResponse",
    "RequestHead",
    "Threads",
    "WsgiBridge",
    "check_query",
    "declared_bytes",
    "head_in",
    "json_response",
]
