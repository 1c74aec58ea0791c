"""Request ids: the caller's ``X-Request-Id`` if that is sane, else a new one.

The id is bound to the logger for as long as the request's task runs, so that each of its log lines
carries it, and the response returns it.
"""

from __future__ import annotations

import re

import structlog

from gateway.http import HttpResponse, RequestHead
from gateway.middleware.chain import Handler
from yard.contract import new_id

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


async def assign_request_id(request: RequestHead, call_next: Handler) -> HttpResponse:
    """Gives the request its id, and the response the same as ``X-Request-Id``."""
    given = request.fields.get("x-request-id", "")
    request_id = request.request_id = given if _SANE_ID.fullmatch(given) else new_id()
    structlog.contextvars.bind_contextvars(request_id=request_id)
    response = await call_next(request)
    return response.with_headers(("X-Request-Id", request_id))
