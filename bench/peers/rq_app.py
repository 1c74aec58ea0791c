"""RQ as it comes: its own client and its SimpleWorker, JSON, running the task that ships with ours.

The one peer that runs in our environment, on our queue and in our database.
"""

from __future__ import annotations

from typing import Any

from redis import Redis
from rq import Queue

from bench.peers import iris

_QUEUE = Queue("iris@v1", connection=Redis.from_url(iris.redis_url()), serializer="json")


def submit(row: list[float]) -> Any:
    """Queue a job."""
    return _QUEUE.enqueue("worker.tasks.predict", instances=[row])


def result(ticket: Any) -> Any:
    """Its result; the client blocks on its stream."""
    found = ticket.latest_result(timeout=60)
    return None if found is None else found.return_value
