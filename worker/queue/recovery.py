"""Recovers batches of workers that are gone, and fails jobs that were not started in time.

A pool that sees its worker die reaps that worker's batch at once. Other lost batches are found by
their lease: every pool sweeps twice a second, for the workers of all pools.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from redis import Redis

from worker.queue.outcomes import CRASHED, EXPIRED, OVERRAN
from yard.broker import Script, ScriptArgument
from yard.settings import Settings

#: Most leases of one call of the sweep (7 us for each job of a batch, and of the one that was taken
#: ahead), most deadlines (30 us each), and most entries of queues to look through (10 ns each).
_SWEEP_LEASES = 1
_SWEEP_DEADLINES = 32
_SWEEP_ENTRIES = 20_000

#: Most calls of one sweep; the next one goes on with the rest.
_SWEEP_CALLS = 50

_REAP = Script("worker", "reap")
_SWEEP = Script("worker", "sweep")

Reason = Literal["died", "timeout", "released"]


@dataclass(frozen=True, slots=True)
class Reaped:
    """The recovered batch of a worker that is gone.

    Attributes:
        worker: The worker.
        queue: Where its jobs came from.
        given_back: Number of jobs that went back there.
        failed: Number of jobs that failed.
        is_charged: True if the worker's end was counted as a crash of the batch.
    """

    worker: str
    queue: str
    given_back: int
    failed: int
    is_charged: bool = True


def reap(
    redis: Redis, worker: str, why: Reason, settings: Settings, overdue: str = ""
) -> Reaped | None:
    """Give back the batch of a worker that is gone; return None where it has none.

    Args:
        redis: A connection with time-outs.
        worker: The worker's name.
        why: Why it is gone.
        settings: Bounds and times to live.
        overdue: The token of the batch that it was killed for; where it has another by now, that
            one is released. Empty for any batch.

    Raises:
        RedisError: Redis does not answer.
    """
    reply = _REAP(
        redis,
        [worker, why, settings.attempts, settings.failure_ttl_s, *CRASHED, *OVERRAN, overdue],
    )
    if not reply:
        return None
    return Reaped(worker, reply[0].decode(), reply[1], reply[2], reply[3] != b"released")


def sweep(redis: Redis, settings: Settings) -> tuple[int, list[Reaped]]:
    """Give back batches whose lease has run out, and fail queued jobs past their deadline.

    Each call of the script takes little, so that Redis serves others in between.

    If Redis served no call for a while, it was away, and live workers could not renew: for a
    lease's time no pool takes a batch from any worker (``worker/scripts/presence.lua``).

    Args:
        redis: A connection with time-outs.
        settings: Bounds and times to live.

    Returns:
        Number of jobs that have expired, and each recovered batch.

    Raises:
        RedisError: Redis does not answer.
    """
    arguments: list[ScriptArgument] = [settings.attempts, settings.failure_ttl_s]
    arguments += [int(settings.lease_s * 1000), _SWEEP_LEASES, _SWEEP_DEADLINES, _SWEEP_ENTRIES]
    arguments += [*CRASHED, *EXPIRED]
    expired, reaped = 0, []
    for _ in range(_SWEEP_CALLS):
        more_expired, is_more, *found = _SWEEP(redis, arguments)
        expired += more_expired
        reaped += [Reaped(w.decode(), q.decode(), back, failed) for w, q, back, failed in found]
        if not is_more:
            break
    return expired, reaped
