"""The floor under every queue: nothing but pop, one predict and write, in a process of its own.

``python -m bench.floor URL ARTEFACT BATCH COUNT`` queues so many jobs, drains them and prints the
jobs per second. No claim, no lease, no check: what it does with a job, anything that serves jobs
from Redis must do. A job is what ours holds, the compiled model that predicts is ours, and so is
the result that is written.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import onnxruntime
import orjson
from redis import Redis

from bench.yard import ROW

_QUEUE = "floor"
_TTL_S = 3600


def main(arguments: list[str]) -> None:
    """Queue, warm up, drain, print."""
    url, artefact, batch, count = arguments
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(artefact, options)
    session.run(None, {session.get_inputs()[0].name: np.array([ROW])})
    redis = Redis.from_url(url)
    submit(redis, int(count))
    started = time.perf_counter()
    drain(redis, session, int(batch))
    print(int(count) / (time.perf_counter() - started))


def submit(redis: Redis, count: int) -> None:
    """Queue so many one-row jobs."""
    pipe = redis.pipeline(transaction=False)
    for number in range(count):
        pipe.rpush(_QUEUE, orjson.dumps({"id": f"{number:032x}", "instances": [ROW]}))
    pipe.execute()


def drain(redis: Any, session: Any, batch: int) -> None:
    """Run all that is queued, ``batch`` jobs at a time."""
    classes = ["setosa", "versicolor", "virginica"]
    rows_name = session.get_inputs()[0].name
    while popped := redis.lpop(_QUEUE, batch):
        jobs = [orjson.loads(raw) for raw in popped]
        rows = np.array([row for job in jobs for row in job["instances"]])
        names, chances = session.run(None, {rows_name: rows})
        pipe = redis.pipeline(transaction=False)
        for job, name, chance in zip(jobs, names.tolist(), chances.tolist(), strict=True):
            result = {"predictions": [name], "probabilities": [chance], "classes": classes}
            pipe.set(f"result:{job['id']}", orjson.dumps(result), ex=_TTL_S)
        pipe.execute()


if __name__ == "__main__":
    main(sys.argv[1:])
