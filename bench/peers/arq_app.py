"""arq on Redis, predicting on the event loop; worker and client poll, here every millisecond."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from typing import Any, ClassVar

import orjson
from arq import create_pool
from arq.connections import RedisSettings

from bench.peers import iris

_REDIS = RedisSettings.from_dsn(iris.redis_url())
_POLL_S = 0.001


async def predict(context: Any, instances: list[list[float]]) -> dict[str, Any]:
    """One job."""
    return iris.predict(instances)


class Worker:
    """The settings that arq's command reads."""

    functions: ClassVar[list[Any]] = [predict]
    redis_settings = _REDIS
    poll_delay = _POLL_S
    max_jobs = 64
    log_results = False
    job_serializer = orjson.dumps
    job_deserializer = orjson.loads


_pools: list[Any] = []


async def submit(row: list[float]) -> Any:
    """Queue a job."""
    if not _pools:
        _pools.append(
            await create_pool(_REDIS, job_serializer=orjson.dumps, job_deserializer=orjson.loads)
        )
    return await _pools[0].enqueue_job("predict", [row])


async def result(ticket: Any) -> Any:
    """Its result."""
    return await ticket.result(timeout=60, poll_delay=_POLL_S)
