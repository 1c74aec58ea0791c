"""Versions that kill their workers: who they are, and which are held back for a while.

Pools note each death in one hash (``yard/scripts/crashed.lua``); workers leave the queues alone
that are held back, so that their other versions are served; the doctor and ``/metrics`` show them.
What cannot be read, whoever wrote it, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from redis import Redis
from redis.exceptions import ResponseError

from yard.broker import Script
from yard.cluster import metrics
from yard.cluster.metrics import version_labels
from yard.contract import ModelRef, keys, lenient

#: So many deaths in a row are a loop: one job alone makes fewer, or as many and then fails.
LOOP_CRASHES = 3

#: A version in a loop is held back for the first time, doubled for each further death up to the
#: last, in seconds.
_FIRST_HOLD_S, _LAST_HOLD_S = 0.5, 30.0

_CRASHED = Script("yard", "crashed")


@dataclass(frozen=True, slots=True)
class CrashLoop:
    """The deaths of workers over one version, the last ones in a row.

    Attributes:
        queue: The version's queue.
        row: How many died since the version was last predicted with success.
        status: The exit status of the last, negative for a signal.
        held_s: For how long from now nobody takes a batch of it; 0.0 if it is not held back.
    """

    queue: str
    row: int
    status: int
    held_s: float


def read_crash_loops(redis: Redis) -> tuple[CrashLoop, ...]:
    """What is known of versions that killed workers in the last hour, in order of their queues.

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
    if not isinstance(known, dict):  # somebody's own under a name of ours
        return ()
    now_ms = now[0] * 1000 + now[1] / 1000
    found = [_read(lenient.decode(queue), raw, now_ms) for queue, raw in known.items()]
    return tuple(sorted(filter(None, found), key=lambda crashes: crashes.queue))


def held_back_queues(redis: Redis) -> frozenset[str]:
    """The queues from which nobody is to take a batch now.

    Raises:
        RedisError: Redis does not answer.
    """
    return frozenset(crashes.queue for crashes in read_crash_loops(redis) if crashes.held_s > 0)


def record_crash(redis: Redis, queue: str, status: int) -> tuple[int, float]:
    """How many workers in a row died over a version, and for how long it is held back, in seconds.

    A row ends with a batch that is predicted. A worker that died over no version makes none.
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
    """Count a worker's death, with the version that it was working on, if it was on one."""
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
