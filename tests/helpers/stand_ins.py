"""Stand-ins for the parts around the producer: published versions, and a worker's writes.

They put versions into the catalogue without an artefact, and end jobs in RQ's own format without a
model, so that tests of the producer need neither `models` nor `worker`.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import dropwhile, takewhile
from typing import Any, cast

from redis import Redis

from producer.client import Client
from yard.contract import keys, wire
from yard.contract.values import Column, ModelRef, Output, Signature
from yard.registry import catalog
from yard.routing import routes
from yard.settings import Settings

IRIS = Signature(
    inputs=[Column(name=name) for name in ("a", "b", "c", "d")],
    outputs=[
        Output(name="predictions", type="string"),
        Output(name="probabilities", type="float64", shape=(3,)),
    ],
    classes=("setosa", "versicolor", "virginica"),
    task="classifier",
)
NARROW = Signature(
    inputs=[Column(name=name) for name in ("a", "b")],
    outputs=[Output(name="predictions", type="float64")],
)
TEXT = Signature(
    inputs=[Column(name="text", type="string")],
    outputs=[Output(name="predictions", type="string")],
    classes=("negative", "positive"),
    task="classifier",
)

ROW = [5.1, 3.5, 1.4, 0.2]


def publish(
    redis: Redis, model: str, *versions: str, signature: Signature = IRIS, active: str | None = None
) -> None:
    """Put versions into the catalogue; ``active`` gets the traffic."""
    for version in versions:
        manifest = {
            "signature": signature.model_dump(mode="json"),
            "digest": "0" * 64,
            "created_at": "2026-01-02T03:04:05Z",
        }
        catalog.register(redis, ModelRef(model, version), wire.dumps(manifest), signature)
    if active is not None:
        redis.set(keys.key("active", model), active)
    routes.read_route(redis, model)  # writes the route now, not with the first submission


def start(redis: Redis, job_id: str) -> None:
    """Take a job off its queue as a worker does."""
    job = keys.key("job", job_id)
    queue = _queue(redis, job_id)
    redis.lrem(keys.key("queue", queue), 1, job_id)
    redis.zrem(keys.DEADLINES, job_id)
    redis.hset(job, mapping={"status": "started", "started_at": _now(redis), "my_token": "w.1"})
    redis.zadd(keys.key("wip", queue), {f"{job_id}:w.1": 2e9})


def finish(redis: Redis, job_id: str, result: Any, *, is_told: bool = True) -> None:
    """End a job with a result, as a worker writes it; ``is_told`` publishes the completion."""
    value = base64.b64encode(wire.dumps(result))
    _end(redis, job_id, "finished", {"type": 1, "return_value": value}, {}, is_told=is_told)


def fail(redis: Redis, job_id: str, code: str, message: str, row: int | None = None) -> None:
    """End a job with a failure, as a worker writes it."""
    error = {"code": code, "message": message} | ({} if row is None else {"row": row})
    packed = base64.b64encode(zlib.compress(f"{code}: {message}".encode()))
    _end(
        redis,
        job_id,
        "failed",
        {"type": 2, "exc_string": packed},
        {"my_error": wire.dumps(error)},
        is_told=True,
    )


def _end(
    redis: Redis,
    job_id: str,
    status: str,
    entry: dict[Any, Any],
    fields: dict[str, Any],
    *,
    is_told: bool,
) -> None:
    job, results = keys.key("job", job_id), keys.key("results", job_id)
    queue = _queue(redis, job_id)
    pipe = redis.pipeline(transaction=True)
    pipe.lrem(keys.key("queue", queue), 1, job_id)
    pipe.zrem(keys.key("wip", queue), f"{job_id}:w.1")
    pipe.xadd(results, entry)
    pipe.expire(results, 3600)
    pipe.hset(job, mapping={"status": status, "ended_at": _now(redis), "my_token": ""} | fields)
    pipe.expire(job, 3600)
    seconds, _ = redis.time()
    pipe.zadd(keys.key(status, queue), {job_id: seconds + 3600})
    if is_told:
        pipe.publish(keys.ENDED, job_id)
    pipe.execute()


def _queue(redis: Redis, job_id: str) -> str:
    return cast(bytes, redis.hget(keys.key("job", job_id), "origin")).decode()


def _now(redis: Redis) -> str:
    """Redis' clock as RQ writes it."""
    seconds, micros = redis.time()
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@contextmanager
def new_client(url: str, **settings: Any) -> Iterator[Client]:
    """A client with these settings; the environment is not read."""
    client = Client(url, settings=Settings.load({}, **settings))
    try:
        yield client
    finally:
        client.close()


def queued(redis: Redis, queue: str) -> list[str]:
    """The ids that wait on a queue, the first to be run first."""
    ids = cast(list[bytes], redis.lrange(keys.key("queue", queue), 0, -1))
    return [job_id.decode() for job_id in ids]


@contextmanager
def commands_sent(redis: Redis) -> Iterator[list[str]]:
    """The commands that clients send while the block runs, without those inside scripts."""
    sent: list[str] = []
    with redis.monitor() as monitor:  # type: ignore[no-untyped-call]  # redis-py types it not
        redis.echo("the block begins")
        yield sent
        redis.echo("the block ends")
        seen = takewhile(lambda c: "the block ends" not in c["command"], monitor.listen())
        inside = dropwhile(lambda c: "the block begins" not in c["command"], seen)
        sent += [c["command"] for c in inside if c["client_type"] != "lua"][1:]
