"""The access log and the metric of requests: one line and one observation for each.

Labels of the metric are path templates and fixed sets, never text that a caller sent, so that
callers cannot make series.
"""

from __future__ import annotations

import time

import structlog
from prometheus_client import CollectorRegistry, Histogram

from gateway.http import HttpResponse, RequestHead
from gateway.middleware.chain import Handler

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"})

#: Upper bounds in seconds, from a response out of memory to the longest wait.
_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class RequestLog:
    """Counts and logs requests, with their `RequestHead.annotations`.

    Args:
        registry: Registers the metric; None if prometheus_client keeps it in files.
    """

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self._log = structlog.get_logger("gateway.access").bind()  # once: each binding costs 10 us
        self._latency = Histogram(
            "http_request_duration_seconds",
            "How long requests took, waits included.",
            ("route", "method", "status"),
            buckets=_BOUNDS,
            registry=registry,
        )
        self._series: dict[tuple[str, str, int], Histogram] = {}

    async def __call__(self, request: RequestHead, call_next: Handler) -> HttpResponse:
        """Records a request when it is answered."""
        began = time.perf_counter()
        response = await call_next(request)
        seconds = time.perf_counter() - began
        method = request.method if request.method in _METHODS else "other"
        route, status = request.route, response.status
        self._count(route, method, status, seconds)
        ms, more = round(seconds * 1000, 3), request.annotations
        self._log.info("request", method=method, route=route, status=status, ms=ms, **more)
        return response

    def _count(self, route: str, method: str, status: int, seconds: float) -> None:
        labels = (route, method, status)
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = self._latency.labels(*labels)
        series.observe(seconds)
