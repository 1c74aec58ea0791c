"""Workload: the jobs that wait, run and arrive in a yard's queues, for `yard.cluster.capacity`.

Pools read it twice a second, the gateway on request. Workers keep their measured pace with a
version beside its queue for a day, so that a pool that has just started, or has no worker left,
knows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from yard.broker import Script
from yard.cluster import metrics
from yard.cluster.capacity import Pace, Work
from yard.cluster.presence import Presence
from yard.contract import keys, lenient, parse_epoch_s, wire

#: Jobs at each end of a queue whose rows are read; the others are assumed to be alike.
_SAMPLE = 4

#: Seconds by which a look at a queue may be late: a job may have come so long before.
LOOK_S = 1.0

_WAITING = Script("yard", "waiting")

_ENDED = "model_prediction_requests_total"
_ENDS = ("finished", "failed")
_HAVE_ENDED = (b"finished", b"failed", b"canceled", b"stopped")


@dataclass(frozen=True, slots=True)
class Workload:
    """Queues as they stand.

    Attributes:
        works: One for each queue, in the order that was asked for.
        counts: Jobs that wait, run and have ended, by version's queue.
        is_suspended: True if nothing may be claimed now.
    """

    works: tuple[Work, ...]
    counts: Mapping[str, int]
    is_suspended: bool


def read_workload(
    redis: Redis,
    queues: Sequence[str],
    presence: Presence,
    arrivals_s: Mapping[str, float] | None = None,
) -> Workload:
    """Reads the queues in four round trips; replies that cannot be read count as nothing.

    Args:
        redis: Where they are.
        queues: Their names.
        presence: The workers that are alive, among which holders of versions are counted.
        arrivals_s: Jobs that arrive in a second, by queue, where known.

    Raises:
        RedisError: Redis does not answer.
    """
    pipe = redis.pipeline(transaction=False)
    pipe.exists(keys.SUSPENDED)
    for queue in queues:
        pipe.llen(keys.key("queue", queue))
        pipe.zcard(keys.key("wip", queue))
        pipe.get(keys.key("pace", queue))
        pipe.hmget(keys.METRICS, *_ended_fields(queue))
    is_suspended, *replies = pipe.execute(raise_on_error=False)
    heads = _heads(
        redis, [q for q, n in zip(queues, replies[::4], strict=True) if lenient.count(n)]
    )
    works, counts = [], {}
    for place, queue in enumerate(queues):
        depth, running, raw, ended = replies[4 * place : 4 * place + 4]
        pace = parse_pace(raw)
        head = heads.get(queue, _Head())
        works.append(
            Work(
                queue=queue,
                depth=lenient.count(depth),
                rows=lenient.count(depth) * (head.rows or (pace.rows if pace else 1.0)),
                running=lenient.count(running),
                arrivals_s=(arrivals_s or {}).get(queue, 0.0),
                holders=len(presence.holders(queue)),
                pace=pace,
                oldest_s=head.wait_s,
            )
        )
        if "@" in queue:
            counts[queue] = lenient.count(depth) + lenient.count(running) + _sum(ended)
    return Workload(tuple(works), counts, is_suspended == 1)


def read_waits_s(redis: Redis, queues: Sequence[str]) -> dict[str, float]:
    """Reads the wait of the first job of each queue that has any, in seconds; three round trips.

    Raises:
        RedisError: Redis does not answer.
    """
    return {queue: head.wait_s for queue, head in _heads(redis, queues, 1).items()}


def read_waiting_since_s(redis: Redis, queues: Sequence[str]) -> dict[str, float]:
    """Notes, and returns, since when jobs wait in queues without a break; by Redis' clock.

    Only queues with jobs are in the result.

    Raises:
        RedisError: Redis does not answer.
    """
    if not queues:
        return {}
    replies = [lenient.digits(raw, most=17) or 0 for raw in _WAITING(redis, queues)]
    return {queue: us / 1e6 for queue, us in zip(queues, replies, strict=True) if us}


def believed_wait_s(
    now_s: float, created: Any, queued: Any, is_ours: bool, since_s: float | None
) -> float:
    """Returns how long a job has waited, in seconds: its date may be by a clock that is wrong.

    Args:
        now_s: The time by Redis' clock.
        created: The job's ``created_at``.
        queued: The time that a claim believed (``my_queued_at``), if there was one.
        is_ours: True if ``created`` is by Redis' clock.
        since_s: Since when jobs wait in its queue, as far as is known.
    """
    told_s = parse_epoch_s(queued)
    if told_s is None:
        told_s = parse_epoch_s(created)
        if not is_ours:
            since_s = now_s if since_s is None else since_s
            told_s = since_s if told_s is None else max(told_s, since_s - LOOK_S)
    return max(0.0, now_s - told_s) if told_s is not None else 0.0


def announced_arrivals_s(presence: Presence) -> dict[str, float]:
    """Returns the jobs that arrive in a second, by queue, as living pools have counted them."""
    found: dict[str, float] = {}
    for pool in presence.pools:
        for queue, rate in lenient.mapping(pool.known.get("arrivals_s")).items():
            found[queue] = max(found.get(queue, 0.0), lenient.number(rate) or 0.0)
    return found


def announced_start_s(presence: Presence) -> float:
    """Returns the seconds that a worker takes to start, as the slowest living pool measured it."""
    return max(
        (lenient.number(pool.known.get("start_s")) or 0.0 for pool in presence.pools), default=0.0
    )


def write_paces(redis: Redis, paces: Mapping[str, Pace]) -> None:
    """Writes the measured paces, by queue, for `keys.PACE_TTL_S`.

    Raises:
        RedisError: Redis does not answer.
    """
    pipe = redis.pipeline(transaction=False)
    for queue, pace in paces.items():
        value = {name: getattr(pace, name) for name in _PACE}
        pipe.set(keys.key("pace", queue), wire.dumps(value), ex=keys.PACE_TTL_S)
    pipe.execute()


def parse_pace(raw: Any) -> Pace | None:
    """Parses what `write_paces` has written; None for anything else."""
    known = lenient.json_object(raw) or {}
    numbers = [lenient.number(known.get(name)) for name in _PACE]
    batch_s, row_s, load_s, rows = numbers
    if batch_s is None or row_s is None or load_s is None or not rows:
        return None
    return Pace(batch_s, row_s, load_s, rows)


_PACE = ("batch_s", "row_s", "load_s", "rows")


@dataclass(frozen=True, slots=True)
class _Head:
    """Sample of a queue: mean number of rows (0.0 if unknown), and the wait of the first job."""

    rows: float = 0.0
    wait_s: float = 0.0


def _heads(redis: Redis, queues: Sequence[str], sample: int = _SAMPLE) -> dict[str, _Head]:
    """Samples the first and the last jobs of the queues that have any."""
    if not queues:
        return {}
    since_s = read_waiting_since_s(redis, queues)
    pipe = redis.pipeline(transaction=False)
    pipe.time()
    for queue in queues:
        pipe.lrange(keys.key("queue", queue), 0, sample - 1)
        pipe.lrange(keys.key("queue", queue), -sample, -1)
    (seconds, micros), *replies = pipe.execute(raise_on_error=False)
    pairs = zip(queues, replies[::2], replies[1::2], strict=True)
    ids = {queue: [*_texts(first), *_texts(last)] for queue, first, last in pairs}
    pipe = redis.pipeline(transaction=False)
    for job_id in (job_id for found in ids.values() for job_id in found):
        pipe.hmget(keys.key("job", job_id), "my_rows", "created_at", "status", "my_queued_at")
    jobs = iter(pipe.execute(raise_on_error=False))
    now_s = seconds + micros / 1e6
    return {
        queue: _head([next(jobs) for _ in found], now_s, since_s.get(queue))
        for queue, found in ids.items()
        if found
    }


def _head(jobs: Sequence[Any], now_s: float, since_s: float | None) -> _Head:
    # A job that has expired deep in a long queue is skipped when a claim comes to it.
    told = [job for job in jobs if isinstance(job, list) and job[2] not in _HAVE_ENDED]
    rows = [n for job in told if (n := lenient.digits(job[0], most=6)) is not None]
    wait_s = 0.0
    if told:
        own_rows, created, _, queued = told[0]
        wait_s = believed_wait_s(now_s, created, queued, own_rows is not None, since_s)
    return _Head(max(1.0, sum(rows) / len(rows)) if rows else 0.0, wait_s)


def _texts(reply: Any) -> list[str]:
    return [lenient.decode(raw) for raw in lenient.items(reply)]


def _ended_fields(queue: str) -> list[str]:
    """The fields that count a version's ended jobs; an unversioned queue's never exist."""
    model, _, version = queue.partition("@")
    labels = {"model": model, "model_version": version}
    return [metrics.field(_ENDED, labels | {"status": status}) for status in _ENDS]


def _sum(reply: Any) -> int:
    return sum(
        int(number) for raw in lenient.items(reply) if (number := lenient.number(raw)) is not None
    )
