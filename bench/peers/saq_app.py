"""saq on Redis, predicting on the event loop; publish and subscribe notify the client."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import orjson
from saq import Queue

from bench.peers import iris

queue = Queue.from_url(iris.redis_url(), name="bench", dump=orjson.dumps, load=orjson.loads)


async def predict(context: Any, *, instances: list[list[float]]) -> dict[str, Any]:
    """One job."""
    return iris.predict(instances)


settings = {"queue": queue, "functions": [predict], "concurrency": 8}


async def submit(row: list[float]) -> Any:
    """Queue a job; a second try, for a worker that starts may give up the jobs that it finds."""
    return await queue.enqueue("predict", instances=[row], ttl=3600, timeout=60, retries=2)


async def result(ticket: Any) -> Any:
    """Its result; a wait may end too early, or miss the message, so it is repeated."""
    while not ticket.completed:
        with suppress(asyncio.TimeoutError):
            await ticket.refresh(until_complete=0.05)
    if ticket.error:
        raise RuntimeError(ticket.error)
    return ticket.result
