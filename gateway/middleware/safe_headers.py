"""Headers that keep browsers from doing more with a response than it is for."""

from __future__ import annotations

from gateway.http import Headers, HttpResponse, RequestHead
from gateway.middleware.chain import Handler

#: The API serves no pages but /docs, and that needs nothing from other origins.
_HEADERS: Headers = [
    ("Content-Security-Policy", "default-src 'self'; base-uri 'none'; frame-ancestors 'none'"),
    ("Cache-Control", "no-store"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
]
_NAMES = frozenset(name for name, _ in _HEADERS)


async def add_safe_headers(request: RequestHead, call_next: Handler) -> HttpResponse:
    """Adds those headers that the response does not set itself."""
    response = await call_next(request)
    present = {name for name, _ in response.headers}
    if _NAMES.isdisjoint(present):  # the usual case, and twice as fast
        return response.with_headers(*_HEADERS)
    return response.with_headers(*[pair for pair in _HEADERS if pair[0] not in present])
