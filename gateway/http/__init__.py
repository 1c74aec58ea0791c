"""Requests and responses, independent of framework: messages, bodies, threads."""

from gateway.http.body_reader import Body, BodyReader
from gateway.http.messages import Headers, HttpRequest, HttpResponse, json_response
from gateway.http.threads import SMALL_BYTES, Threads
from gateway.http.wsgi import WsgiBridge

__all__ = [
    "SMALL_BYTES",
    "Body",
    "BodyReader",
    "Headers",
    "HttpRequest",
    "HttpResponse",
    "Threads",
    "WsgiBridge",
    "json_response",
]
