"""Dramatiq on Redis, results in Redis, without the middleware that only large set-ups need."""

# mypy: disable-error-code="import-not-found,untyped-decorator"

from __future__ import annotations

from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from bench.peers import iris

broker = RedisBroker(url=iris.redis_url(), middleware=[])
broker.add_middleware(Results(backend=RedisBackend(url=iris.redis_url()), result_ttl=3_600_000))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def predict(instances: list[list[float]]) -> dict[str, Any]:
    """One job."""
    return iris.predict(instances)


def submit(row: list[float]) -> Any:
    """Queue a job."""
    return predict.send([row])


def result(ticket: Any) -> Any:
    """Its result; the client blocks on its list."""
    return ticket.get_result(block=True, timeout=60_000)
