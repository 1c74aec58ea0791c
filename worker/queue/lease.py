"""The batch protocol as a worker speaks it: claim, renew, finish, give back.

A job's id is at every instant in a queue, or in a batch that has a lease, or ended. Each step
below is one script and so atomic (of a large batch, claim and finish are several: its lease begins
with the first and ends with the last); between them a worker may die and nothing is lost. What a
worker cannot predict soon goes back with the finish of what it has (``worker/scripts/shed.lua``):

    queue --claim--> batch under a lease --finish--> ended
                          |  ^
             lease runs out  renew
                          v
                     queue again (`worker.queue.recovery`)

While more jobs wait than fit into one batch, `worker.queue.prefetch` claims the next one ahead,
under the same lease, so that Redis and Python work at the same time.

A batch's token fences its writes: a claim writes it into the jobs, and giving back removes it, so a
worker that wakes after its lease has run out finds nothing that it may write. Times are Redis'.
``docs/how-a-job-runs.md`` has the whole protocol.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, cast

from redis import Redis
from redis.exceptions import NoScriptError

from worker.queue.outcomes import EndedJob, chunked
from worker.queue.pipeline import PipelinedConnection
from worker.queue.recovery import Reaped, reap
from yard.broker import Script, ScriptArgument
from yard.contract import wire
from yard.settings import Settings

# No script may hold Redis for more than 2 ms. A claim takes 6 to 12 us a job and 0.6 ms a MiB of
# payload; only a job that is larger than a whole batch may be takes longer. For a finish see
# `worker.queue.outcomes`. Giving back is one call for the whole batch, so `Settings.batch_jobs` is
# bounded.

#: Most jobs of one call of the claiming scripts.
MOST_CLAIMED = 64

#: Most bytes of a batch's payloads, together.
MOST_BATCH_BYTES = 2 * 2**20

#: The longest timeout that a job may carry, in seconds.
MOST_TIMEOUT_S = 3600

_RENEW = Script("worker", "renew")
_FINISH = Script("worker", "finish")
_MORE = Script("worker", "more")
# `Lease.send` cannot load a script. It is used after a claim, which loads those that it needs.
_SHED = Script("worker", "shed")
_CLAIM = Script("worker", "claim", before=[_FINISH, _MORE, _SHED])
_FORWARD = Script("worker", "forward")

Flaw = Literal[
    "", "expired", "too_large", "status", "id", "webhooks", "callback", "retry", "repeat"
]


class Claimed(NamedTuple):
    """One job of a batch, as claimed: nothing in it has been checked but its size.

    Attributes:
        id: The job's id.
        created_at: When it was enqueued, else created, as its hash says it.
        attempt: Number of this attempt, from 1.
        crashes: Number of workers that it has crashed.
        result_ttl: Its own time to live of a result, as its hash says it.
        failure_ttl: The same of a failure.
        flaw: The reason not to run it; empty for none.
        data: RQ's payload.
        is_pushed: True if a client has pushed it onto this queue itself.
    """

    id: str
    created_at: str
    attempt: int
    crashes: int
    result_ttl: str
    failure_ttl: str
    flaw: Flaw
    data: bytes
    is_pushed: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs of one queue that are this worker's until its lease runs out.

    Attributes:
        token: The fencing token of its writes.
        queue: Where the jobs came from.
        claimed_us: Time of the claim, in microseconds since the epoch, by Redis' clock.
        timeout_s: The shortest of their timeouts, in seconds.
        has_more: True if more jobs waited, in that queue or in the next ones.
        jobs: At least one.
        state: The version's state and since when, where it was taken out of service or published
            again, at the instant of the claim; else empty.
    """

    token: str
    queue: str
    claimed_us: int
    timeout_s: int
    has_more: bool
    jobs: tuple[Claimed, ...]
    state: str = ""


class EndedBatch(NamedTuple):
    """A batch whose jobs have ended, encoded to be written.

    Attributes:
        batch: The batch, as claimed.
        jobs: How each of its jobs ends.
        calls: The arguments of the finishing script's calls; the last ends the lease.
        shed: The arguments of the call before them that gives jobs back; empty for none.
    """

    batch: Batch
    jobs: Sequence[EndedJob]
    calls: Sequence[Sequence[ScriptArgument]]
    shed: Sequence[ScriptArgument] = ()


class Suspended(Exception):
    """``rq suspend`` is in force: nothing is claimed until ``rq resume``."""


class Lease:
    """The protocol of one worker, which holds one batch, and at most one claimed ahead.

    Args:
        redis: A connection with time-outs and no retries of its own.
        worker: The worker's name, unique to this process.
        settings: Bounds and times to live.
        first_number: Number of the first token; unlike those of an earlier worker of that name.

    Attributes:
        worker: The worker's name.
        held: The batch that the worker is running or writing, whose lease is to be renewed; None
            between two batches.
        most_rows: Most rows of a batch, by queue, of those that take fewer than the setting's.
    """

    def __init__(
        self, redis: Redis, worker: str, settings: Settings, first_number: int = 1
    ) -> None:
        self.worker = worker
        self.held: Batch | None = None
        self.most_rows: dict[str, int] = {}
        self._redis = redis
        self._settings = settings
        self._lease_ms = int(settings.lease_s * 1000)
        self.limit(settings.batch_jobs)
        self._numbers = count(first_number)
        self._may_come_late = False

    def limit(self, most_jobs: int) -> None:
        """Claim at most so many jobs a batch from now on; not while a batch is claimed ahead."""
        self._portions = [
            min(MOST_CLAIMED, most_jobs - n) for n in range(0, most_jobs, MOST_CLAIMED)
        ]

    def claim(self, queues: Sequence[str]) -> Batch | int:
        """Claim a batch of the first of ``queues`` that has jobs.

        Repeating it after a lost reply is safe: the jobs of the lost call are given back first, and
        if Redis comes to the lost call only after the repeated one, it does nothing.

        Returns:
            The batch; without one, the number of entries that were passed over because they are no
            job to run.

        Raises:
            Suspended: ``rq suspend`` is in force.
            RedisError: Redis does not answer.
        """
        token = self.next_token()
        calls = self._claim_calls(token, queues)
        self._may_come_late = True
        replies = self._together(calls) if len(calls) > 1 else [_CLAIM(self._redis, calls[0])]
        self._may_come_late = False
        reply = replies[0]
        if reply[0] == b"suspended":
            raise Suspended
        return int(reply[1]) if reply[0] == b"idle" else _batch(token, replies)

    def _together(self, calls: Sequence[Sequence[ScriptArgument]]) -> list[Any]:
        """Return the replies to a claim and to the calls that are sent behind it."""
        connection = self.pipeline()
        connection.send(_commands(calls))
        replies = connection.receive()
        connection.close()
        if isinstance(replies[0], NoScriptError):
            return [_CLAIM(self._redis, calls[0])]  # the claim has loaded the rest
        if isinstance(replies[1], NoScriptError):
            self._redis.script_load(_MORE.source)
        error = _error_in(replies)
        if error:
            raise error
        return replies

    def on(self, redis: Redis) -> Lease:
        """Return the same worker's protocol on another connection, for another thread."""
        return Lease(redis, self.worker, self._settings)

    def next_token(self) -> str:
        """Return a token that was never used."""
        return f"{self.worker}.{next(self._numbers)}"

    def _claim_calls(
        self, token: str, queues: Sequence[str], ahead_of: str = ""
    ) -> list[list[ScriptArgument]]:
        """Return the arguments of a claim, and of the calls for more of its batch, if any."""
        bounds = self._settings
        calls: list[list[ScriptArgument]] = [
            [
                self.worker,
                token,
                ahead_of,
                portion,
                bounds.batch_rows,
                bounds.body_bytes,
                MOST_BATCH_BYTES,
                bounds.timeout_s,
                MOST_TIMEOUT_S,
            ]
            for portion in self._portions
        ]
        calls[0] += [
            time.monotonic_ns() // 1000,
            self._lease_ms,
            "1" if self._may_come_late else "",
            " ".join(f"{queue} {rows}" for queue, rows in self.most_rows.items()),
            *queues,
        ]
        return calls

    def renew(self, token: str) -> bool:
        """Renew the lease of a batch; return False if the batch is no longer this worker's.

        Raises:
            RedisError: Redis does not answer.
        """
        return bool(_RENEW(self._redis, [self.worker, token, self._lease_ms]))

    def finish(
        self,
        batch: Batch,
        jobs: Sequence[EndedJob],
        run: Mapping[str, Any] = MappingProxyType({}),
        metrics: Sequence[tuple[str, float]] = (),
        released: Sequence[str] = (),
    ) -> int:
        """End a batch; return the number of jobs written. Repeating it writes nothing twice.

        Jobs that were canceled or given to others meanwhile are passed over. For the arguments see
        `ended`.

        Raises:
            RedisError: Redis does not answer.
        """
        return self.write(self.ended(batch, jobs, run, metrics, released))

    def write(self, ended: EndedBatch) -> int:
        """End a batch as `finish` does, one call after the other."""
        if ended.shed:
            _SHED(self._redis, ended.shed)
        return sum(max(0, _FINISH(self._redis, arguments)) for arguments in ended.calls)

    def ended(
        self,
        batch: Batch,
        jobs: Sequence[EndedJob],
        run: Mapping[str, Any] = MappingProxyType({}),
        metrics: Sequence[tuple[str, float]] = (),
        released: Sequence[str] = (),
    ) -> EndedBatch:
        """Encode the end of a batch, to be sent.

        Args:
            batch: The batch, as claimed.
            jobs: How each of its jobs ends.
            run: What is kept of the run with each job: load and predict in ms, batch size.
            metrics: Fields of the metrics hash, each with the amount to add.
            released: Jobs to give back instead, in their order, as if they had not been claimed.
        """
        about = wire.dumps(dict(run))
        chunks = chunked(jobs) or [[]]
        shed = (self.worker, batch.token, batch.queue, *released) if released else ()
        last = len(chunks) + (1 if shed else 0)
        calls: list[list[ScriptArgument]] = []
        for place, chunk in enumerate(chunks, start=2 if shed else 1):
            counted = metrics if place == last else ()
            arguments: list[ScriptArgument] = [self.worker, batch.token, batch.queue]
            arguments += [place, last, len(chunk), len(counted), about]
            for job in chunk:
                arguments += job
            for name, amount in counted:
                arguments += [name, f"{amount:.9g}"]
            calls.append(arguments)
        return EndedBatch(batch, jobs, calls, shed)

    def pipeline(self) -> PipelinedConnection:
        """Return a connection for `send` and `receive`."""
        return PipelinedConnection(self._redis)

    def send(
        self,
        connection: PipelinedConnection,
        ended: EndedBatch | None,
        token: str,
        queues: Sequence[str],
        holding: str,
    ) -> None:
        """Send the end of a batch and the claim of another, in one go; see `worker.queue.prefetch`.

        Args:
            connection: From `pipeline`.
            ended: The batch that has ended, if any.
            token: For the claim, from `next_token`; empty for no claim.
            queues: Where to claim, in the order to look.
            holding: The token of the batch that the worker has when Redis comes to the claim; if
                it has another, nothing is claimed.

        Raises:
            RedisError: See `worker.queue.pipeline.PipelinedConnection.send`.
        """
        commands = [_FINISH.command(arguments) for arguments in ended.calls] if ended else []
        if ended and ended.shed:
            commands.insert(0, _SHED.command(ended.shed))
        if token:
            commands += _commands(self._claim_calls(token, queues, holding))
        connection.send(commands)

    def receive(
        self, connection: PipelinedConnection, token: str
    ) -> tuple[int | None, Batch | None]:
        """Read the replies to the oldest `send`.

        Returns:
            Number of jobs written, None where the batch must be finished again; and the batch that
            was claimed with ``token``, if there is one.

        Raises:
            RedisError: See `worker.queue.pipeline.PipelinedConnection.receive`.
        """
        replies = connection.receive()
        finishes = len(replies) - (len(self._portions) if token else 0)
        claimed, replies = replies[finishes:], replies[:finishes]
        batch = None
        if claimed and not _error_in(claimed) and claimed[0][0] == b"batch":
            batch = _batch(token, claimed)  # the next `claim` meets all else
        is_known = not any(isinstance(reply, Exception) or reply < 0 for reply in replies)
        return (sum(replies) if is_known else None), batch

    def forward(
        self, batch: Batch, model: str, wanted: Sequence[tuple[str, str, float, int, str]]
    ) -> dict[str, str]:
        """Move jobs of an unversioned queue to their versions' queues.

        Args:
            batch: The batch, claimed from the queue that is named as the model.
            model: The model.
            wanted: For each job its id, the version or alias that it asks for or an empty text, its
                point in [0, 1), its rows, its deadline in microseconds or an empty text.

        Returns:
            By job id, the reason why it cannot be moved.

        Raises:
            RedisError: Redis does not answer.
        """
        arguments: list[ScriptArgument] = [self.worker, batch.token, model]
        for entry in wanted:
            arguments += entry
        replies = _FORWARD(self._redis, arguments)
        problems = zip(wanted, replies, strict=True)
        return {entry[0]: reply.decode() for entry, reply in problems if reply}

    def release(self) -> Reaped | None:
        """Give the batch back as if it had never been claimed; return None where there is none.

        Raises:
            RedisError: Redis does not answer.
        """
        return reap(self._redis, self.worker, "released", self._settings)


def _commands(calls: Sequence[Sequence[ScriptArgument]]) -> list[tuple[ScriptArgument, ...]]:
    """Return the commands of a claim's calls."""
    return [_CLAIM.command(calls[0]), *map(_MORE.command, calls[1:])]


def _error_in(replies: Sequence[Any]) -> Exception | None:
    """Return the error of a claim, if any; the jobs that it took must then be given back.

    A server that only knows the first of its scripts has taken fewer jobs, which is no error.
    """
    for place, reply in enumerate(replies):
        if isinstance(reply, Exception) and not (place and isinstance(reply, NoScriptError)):
            return reply
    return None


def _batch(token: str, replies: Sequence[Any]) -> Batch:
    """Return the batch of a claim, with the jobs that the calls behind it added."""
    _, queue, claimed_us, timeout_s, has_more, fields, state = replies[0]
    for reply in replies[1:]:
        if isinstance(reply, list) and reply[0] == b"batch":
            timeout_s = min(timeout_s, reply[3])
            fields += reply[5]
    jobs = tuple(map(_claimed, *(fields[place::9] for place in range(9))))
    return Batch(
        token,
        queue.decode(),
        int(claimed_us),
        timeout_s,
        has_more == 1,
        jobs,
        state.decode("utf-8", "replace"),
    )


def _claimed(
    job_id: bytes,
    created_at: bytes,
    attempt: int,
    crashes: int,
    result_ttl: bytes,
    failure_ttl: bytes,
    flaw: bytes,
    data: bytes,
    is_pushed: int,
) -> Claimed:
    return Claimed(
        job_id.decode(),
        created_at.decode("utf-8", "replace"),
        attempt,
        crashes,
        result_ttl.decode("utf-8", "replace"),
        failure_ttl.decode("utf-8", "replace"),
        cast(Flaw, flaw.decode()),
        data,
        is_pushed == 1,
    )
