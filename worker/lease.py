"""The batch protocol: claim, renew, finish, give back, reap.

A job's id is at every instant in a queue, or in a batch that has a lease, or ended. Each step
below is one script and so one instant; between them a worker may die and nothing is lost:

    queue --claim--> batch under a lease --finish--> ended
                          |  ^
             lease runs out  renew
                          v
                     queue again (sweep by any pool, or reap by the pool that saw the worker die)

A batch's token is written into its jobs when they are claimed and taken away when they are given
back, so a worker that wakes after its lease has run out finds nothing that it may write. Times are
Redis'. ``docs/how-a-job-runs.md`` tells the whole story.
"""

from __future__ import annotations

import base64
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal, NamedTuple

from redis import Redis

from producer import wire
from producer.contract import Failure
from producer.scripting import Argument, Script
from producer.settings import Settings

#: Jobs that one call of the finishing script ends, so that it holds Redis well under 2 ms.
CHUNK = 64

#: A batch's payloads, together, at most.
MOST_BATCH_BYTES = 8 * 2**20

#: The longest timeout that a job may carry, in seconds.
MOST_TIMEOUT_S = 3600

#: Leases and deadlines that one sweep looks at.
_SWEEP_LEASES = 50
_SWEEP_DEADLINES = 200

_CLAIM = Script("worker", "claim")
_RENEW = Script("worker", "renew")
_FINISH = Script("worker", "finish")
_FORWARD = Script("worker", "forward")
_REAP = Script("worker", "reap")
_SWEEP = Script("worker", "sweep")

Flaw = Literal["", "expired", "too_large", "status"]
Reason = Literal["died", "timeout", "released"]


class Claimed(NamedTuple):
    """One job of a batch, as claimed: nothing in it has been checked but its size.

    Attributes:
        id: The job's id.
        created_at: When it was created, as its hash says it.
        attempt: Which attempt this is, from 1.
        crashes: How many workers it has crashed.
        result_ttl: Its own time to live of a result, as its hash says it.
        failure_ttl: The same of a failure.
        flaw: Why it is not to be run, if it is not.
        data: RQ's payload.
    """

    id: str
    created_at: str
    attempt: int
    crashes: int
    result_ttl: str
    failure_ttl: str
    flaw: Flaw
    data: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs of one queue that are this worker's until its lease runs out.

    Attributes:
        token: What fences its writes.
        queue: Where the jobs came from.
        claimed_us: When, in microseconds.
        deadline_us: When the shortest of their timeouts runs out, in microseconds.
        jobs: At least one.
    """

    token: str
    queue: str
    claimed_us: int
    deadline_us: int
    jobs: tuple[Claimed, ...]


class Ending(NamedTuple):
    """How one job ends.

    Attributes:
        id: The job's id.
        outcome: Its result, as clients see it, or why it failed.
        ttl_s: How long the outcome lives, in seconds.
    """

    id: str
    outcome: Mapping[str, Any] | Failure
    ttl_s: int


@dataclass(frozen=True, slots=True)
class Reaped:
    """What became of the batch of a worker that is gone."""

    worker: str
    queue: str
    given_back: int
    failed: int


class Suspended(Exception):
    """``rq suspend`` is in force: nothing is claimed until ``rq resume``."""


class Lease:
    """The protocol as one worker speaks it; it holds one batch at a time.

    Args:
        redis: A connection with time-outs and no retries of its own.
        worker: The worker's name, unique to this process.
        settings: Bounds and times to live.
    """

    def __init__(self, redis: Redis, worker: str, settings: Settings) -> None:
        self._redis = redis
        self._worker = worker
        self._settings = settings
        self._lease_ms = int(settings.lease_s * 1000)
        self._numbers = count(1)

    def claim(self, queues: Sequence[str]) -> Batch | int:
        """A batch of the first of ``queues`` that has jobs; else how many entries were no job.

        Repeating it after a lost reply is safe: what the lost call took is given back first, and if
        Redis comes to the lost call only after the repeated one, it does nothing.

        Raises:
            Suspended: ``rq suspend`` is in force.
            RedisError: Redis does not answer.
        """
        bounds = self._settings
        token = f"{self._worker}.{next(self._numbers)}"
        arguments: list[Argument] = [
            self._worker,
            token,
            time.monotonic_ns() // 1000,
            self._lease_ms,
            bounds.batch_jobs,
            bounds.batch_rows,
            bounds.body_bytes,
            MOST_BATCH_BYTES,
            bounds.timeout_s,
            MOST_TIMEOUT_S,
            *queues,
        ]
        reply = _CLAIM(self._redis, arguments)
        if reply[0] == b"suspended":
            raise Suspended
        if reply[0] == b"idle":
            return int(reply[1])
        _, queue, claimed_us, deadline_us, _, *jobs = reply
        return Batch(
            token, queue.decode(), int(claimed_us), int(deadline_us), tuple(map(_claimed, jobs))
        )

    def renew(self, token: str) -> bool:
        """Whether the batch is still ours; if so its lease runs anew.

        Raises:
            RedisError: Redis does not answer.
        """
        return bool(_RENEW(self._redis, [self._worker, token, self._lease_ms]))

    def finish(
        self,
        batch: Batch,
        endings: Sequence[Ending],
        run: Mapping[str, Any] | None = None,
        measures: Iterable[tuple[str, float]] = (),
    ) -> int:
        """End the batch: how many jobs were written. Repeating it writes nothing twice.

        Jobs that were canceled or given to others meanwhile are passed over.

        Args:
            batch: The batch, as claimed.
            endings: How each of its jobs ends.
            run: What is kept about the run: load and predict in ms, batch size.
            measures: Fields of the metrics hash, and what to add to each.

        Raises:
            RedisError: Redis does not answer.
        """
        written, about = 0, wire.dumps(run or {})
        chunks = [endings[i : i + CHUNK] for i in range(0, len(endings), CHUNK)] or [()]
        for place, chunk in enumerate(chunks, start=1):
            is_last = place == len(chunks)
            counted = [*measures] if is_last else []
            arguments: list[Argument] = [self._worker, batch.token, batch.queue]
            arguments += ["1" if is_last else "", len(chunk), len(counted), about]
            for ending in chunk:
                arguments += _ended(ending)
            for name, amount in counted:
                arguments += [name, f"{amount:.9g}"]
            written += _FINISH(self._redis, arguments)
        return written

    def forward(
        self, batch: Batch, model: str, wanted: Sequence[tuple[str, str, float, int]]
    ) -> dict[str, str]:
        """Move front-door jobs to their versions' queues; by id, why one cannot be moved.

        Args:
            batch: The batch, claimed from the queue that is named as the model.
            model: The model.
            wanted: For each job its id, the version or alias that it asks for or an empty text, its
                point in [0, 1), its rows.

        Raises:
            RedisError: Redis does not answer.
        """
        arguments: list[Argument] = [self._worker, batch.token, model]
        for entry in wanted:
            arguments += entry
        replies = _FORWARD(self._redis, arguments)
        problems = zip(wanted, replies, strict=True)
        return {entry[0]: reply.decode() for entry, reply in problems if reply}

    def release(self) -> Reaped | None:
        """Give the batch back as if it had never been claimed; None where there is none.

        Raises:
            RedisError: Redis does not answer.
        """
        return reap(self._redis, self._worker, "released", self._settings)


def reap(redis: Redis, worker: str, why: Reason, settings: Settings) -> Reaped | None:
    """Return the batch of a worker that is gone; None where it has none.

    Raises:
        RedisError: Redis does not answer.
    """
    reply = _REAP(
        redis,
        [worker, why, settings.attempts, settings.failure_ttl_s, *_CRASHED, *_OVERRAN],
    )
    return Reaped(worker, reply[0].decode(), reply[1], reply[2]) if reply else None


def sweep(redis: Redis, settings: Settings) -> tuple[int, list[Reaped]]:
    """Return batches whose lease has run out, and fail queued jobs past their deadline.

    When nobody has swept for a while, Redis was away, and live workers could not renew: nothing is
    taken from anybody for a lease's time, by whichever pool.

    Args:
        redis: A connection with time-outs.
        settings: Bounds and times to live.

    Returns:
        How many jobs have expired, and what became of each batch.

    Raises:
        RedisError: Redis does not answer.
    """
    expired, *reaped = _SWEEP(
        redis,
        [
            settings.attempts,
            settings.failure_ttl_s,
            int(settings.lease_s * 1000),
            _SWEEP_LEASES,
            _SWEEP_DEADLINES,
            *_CRASHED,
            *_EXPIRED,
        ],
    )
    return expired, [Reaped(w.decode(), q.decode(), back, failed) for w, q, back, failed in reaped]


def exc_string(failure: Failure) -> bytes:
    """A failure as RQ keeps a traceback: base64 of zlib of text."""
    text = f"{failure.code}: {failure.message}"
    return base64.b64encode(zlib.compress(text.encode("utf-8", "replace")))


def _claimed(job: list[Any]) -> Claimed:
    job_id, created_at, attempt, crashes, result_ttl, failure_ttl, flaw, data = job
    return Claimed(
        job_id.decode(),
        created_at.decode("utf-8", "replace"),
        attempt,
        crashes,
        result_ttl.decode("utf-8", "replace"),
        failure_ttl.decode("utf-8", "replace"),
        flaw.decode(),
        data,
    )


def _ended(ending: Ending) -> list[Argument]:
    """One job's four arguments of the finishing script."""
    outcome = ending.outcome
    if isinstance(outcome, Failure):
        return [ending.id, ending.ttl_s, exc_string(outcome), wire.dumps(outcome.to_dict())]
    return [ending.id, ending.ttl_s, base64.b64encode(wire.dumps(outcome)), b""]


def _written(failure: Failure) -> tuple[bytes, bytes]:
    return wire.dumps(failure.to_dict()), exc_string(failure)


_CRASHED = _written(Failure("worker_crashed", "the worker died each time that it ran this job"))
_OVERRAN = _written(Failure("timeout", "the job ran longer than its timeout"))
_EXPIRED = _written(Failure("expired", "the job was not started before its deadline"))
