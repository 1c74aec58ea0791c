"""Crash loops: versions that kill their workers, some of them held back for a while.

Pools record each death in one hash (``yard/scripts/crashed.lua``). Workers leave held-back queues
alone, so that their other versions are served; the doctor and ``/metrics`` show them. Entries that
cannot be read are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from redis import Redis
from redis.exceptions import ResponseError

from yard.broker import Script
from yard.cluster import metrics
from yard.cluster.metrics import version_labels
from yard.contract import ModelRef, keys, lenient

#: Deaths in a row that make a loop: one job alone makes fewer, or as many and then fails.
LOOP_CRASHES = 3

#: Seconds that a version in a loop is held back: the first hold doubles with each further death, up
#: to the last.
_FIRST_HOLD_S, _LAST_HOLD_S = 0.5, 30.0

_CRASHED = Script("yard", "crashed")


@dataclass(frozen=True, slots=True)
class CrashLoop:
    """The deaths of workers over one version, the last ones in a row.

    Attributes:
        queue: The version's queue.
        row: Deaths since the version was last predicted with success.
        status: Exit status of the last, negative for a signal.
        held_s: Seconds from now for which no worker takes a batch of it; 0.0 if not held back.
    """

    queue: str
    row: int
    status: int
    held_s: float


def read_crash_loops(redis: Redis) -> tuple[CrashLoop, ...]:
    """Reads the versions that killed workers in the last hour, in order of their queues.

    Raises:
        RedisError: Redis does not answer.
    """
    pipe = redis.pipeline(transaction=False)
    pipe.time()
    pipe.hgetall(keys.CRASHES)
    now, known = pipe.execute(raise_on_error=False)
    for reply in (now, known):
        if isinstance(reply, Exception) and not isinstance(reply, ResponseError):
            raise reply
    if not isinstance(known, dict):  # the key holds another type
        return ()
    now_ms = now[0] * 1000 + now[1] / 1000
    found = [_read(lenient.decode(queue), raw, now_ms) for queue, raw in known.items()]
    return tuple(sorted(filter(None, found), key=lambda crashes: crashes.queue))


def held_back_queues(redis: Redis) -> frozenset[str]:
    """Reads the queues from which no batch is to be taken now.

    Raises:
        RedisError: Redis does not answer.
    """
    return frozenset(crashes.queue for crashes in read_crash_loops(redis) if crashes.held_s > 0)


def record_crash(redis: Redis, queue: str, status: int) -> tuple[int, float]:
    """Records a worker's death over a queue's version.

    A row of deaths ends with a batch that is predicted. A death over no version counts for none.

    Returns:
        The number of deaths in a row, and the seconds for which the version is held back.
    """
    model, version = keys.parse_queue(queue) or ("", None)
    if version is None:
        return 0, 0.0
    predicts = metrics.field(
        "model_inference_latency_seconds_count", version_labels(ModelRef(model, version))
    )
    bounds = [LOOP_CRASHES, int(_FIRST_HOLD_S * 1000), int(_LAST_HOLD_S * 1000)]
    row, held_ms = _CRASHED(redis, [queue, predicts, status, *bounds])
    return int(row), held_ms / 1000


def count_crash(redis: Redis, queue: str) -> None:
    """Counts a worker's death in the metrics of the version that it was working on, if any."""
    model, version = keys.parse_queue(queue) or ("", None)
    if version is not None:
        labels = version_labels(ModelRef(model, version))
        redis.hincrby(keys.METRICS, metrics.field("worker_crashes_total", labels), 1)


def _read(queue: str, raw: bytes, now_ms: float) -> CrashLoop | None:
    match lenient.json_object(raw):
        case {"row": int(row), "at_ms": int(at_ms), "until_ms": int(until_ms), **rest}:
            if now_ms - at_ms > keys.CRASHES_TTL_S * 1000:
                return None
            held_s = max(0.0, (until_ms - now_ms) / 1000)
            return CrashLoop(queue, row, lenient.count(rest.get("status")), held_s)
    return None
