"""huey on Redis; ``notify_result`` wakes the client that waits."""

# mypy: disable-error-code="import-not-found,untyped-decorator"

from __future__ import annotations

from typing import Any

from huey import RedisHuey

from bench.peers import iris

huey = RedisHuey("bench", url=iris.redis_url(), blocking=True, notify_result=True)


@huey.task(name="predict")
def predict(instances: list[list[float]]) -> dict[str, Any]:
    """One job."""
    return iris.predict(instances)


def submit(row: list[float]) -> Any:
    """Queue a job."""
    return predict([row])


def result(ticket: Any) -> Any:
    """Its result."""
    return ticket.get(blocking=True, timeout=60)
