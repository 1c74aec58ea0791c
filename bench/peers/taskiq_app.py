"""taskiq on a list of Redis, predicting on the event loop: a thread for 0.1 ms only costs.

Its client can only poll; it does so every millisecond.
"""

# mypy: disable-error-code="import-not-found,untyped-decorator"

from __future__ import annotations

from typing import Any

from taskiq.serializers import ORJSONSerializer
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

from bench.peers import iris

_results = RedisAsyncResultBackend(
    iris.redis_url(), result_ex_time=3600, serializer=ORJSONSerializer()
)
broker = (
    ListQueueBroker(iris.redis_url())
    .with_result_backend(_results)
    .with_serializer(ORJSONSerializer())
)


@broker.task(task_name="predict")
async def predict(instances: list[list[float]]) -> dict[str, Any]:
    """One job."""
    return iris.predict(instances)


async def submit(row: list[float]) -> Any:
    """Queue a job."""
    return await predict.kiq([row])


async def result(ticket: Any) -> Any:
    """Its result."""
    return (await ticket.wait_result(check_interval=0.001, timeout=60)).return_value
