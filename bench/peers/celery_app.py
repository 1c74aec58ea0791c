"""Celery on Redis, with what its manual advises for speed.

No events, no gossip, no mingling, acknowledged early, JSON, results without extras.
"""

# mypy: disable-error-code="import-not-found,untyped-decorator"

from __future__ import annotations

from typing import Any

from celery import Celery

from bench.peers import iris

app = Celery("bench", broker=iris.redis_url(), backend=iris.redis_url())
app.conf.update(
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    worker_prefetch_multiplier=64,
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
    task_acks_late=False,
    task_track_started=False,
    result_extended=False,
    result_expires=3600,
    broker_connection_retry_on_startup=True,
)


@app.task(name="predict")
def predict(instances: list[list[float]]) -> dict[str, Any]:
    """One job."""
    return iris.predict(instances)


def submit(row: list[float]) -> Any:
    """Queue a job."""
    return predict.delay([row])


def result(ticket: Any) -> Any:
    """Its result; Redis notifies the client, which does not poll."""
    return ticket.get(timeout=60)
