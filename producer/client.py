"""The client: submit a job, wait for it, cancel it.

A request becomes a job in one round trip: the rows are checked against the version's signature as
known here, and one script then chooses the version by the keys as they are, queues the job and
answers. If the version chosen takes other rows than those that were checked for, nothing is
queued; the rows are checked again and the call is repeated. The job's id is chosen here, so that
repeating a call whose answer was lost queues nothing twice.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from producer import connect, keys, wire, yard
from producer.catalog import Catalog
from producer.contract import Job, ModelRef, Request, Signature, check_job_id, check_name
from producer.errors import (
    IdempotencyMismatch,
    InvalidInput,
    JobEnded,
    ModelyardError,
    NoActiveVersion,
    QueueFull,
    Timeout,
    TooLarge,
    Unavailable,
    UnknownJob,
    UnknownModel,
    UnknownVersion,
)
from producer.jobs import encode_call
from producer.results import read_job
from producer.routing import point_of
from producer.rows import check_outputs, check_rows
from producer.scripting import Argument, Script
from producer.settings import Settings

#: Jobs that one call of the submitting script takes, so that it holds Redis well under 2 ms.
CHUNK = 64

#: How often a request is checked anew because the route moved between checking and queueing.
_ROUNDS = 5

#: How long one blocking read waits before the job itself is looked at.
_SLICE_S = 1.0

_SUBMIT = Script("producer", "submit")
_RESOLVE = Script("producer", "resolve")
_CANCEL = Script("producer", "cancel")


@contextmanager
def redis_reachable() -> Iterator[None]:
    """Turns Redis' absence, in all its forms, into `Unavailable`."""
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError, OSError) as error:
        raise Unavailable(f"Redis does not answer: {type(error).__name__}") from error
    except RedisError as error:
        # Redis 6.2 wraps what a script met into an error of no class of its own.
        if isinstance(error, OutOfMemoryError) or "-OOM" in str(error):
            raise Unavailable("Redis is full, it takes no new jobs at present") from error
        raise Unavailable(f"Redis refuses: {error}") from error


@dataclass(frozen=True, slots=True)
class Handle:
    """A job that Redis has accepted.

    Attributes:
        id: The job's id.
        model: Its model.
        version: The version that will run it.
        queue: The queue that it was put on.
        is_repeat: Whether an earlier request with the same idempotency key made it.
    """

    id: str
    model: str
    version: str
    queue: str
    is_repeat: bool
    client: Client

    def get(self) -> Job:
        """The job as it stands.

        Raises:
            UnknownJob: Its result has expired.
            Unavailable: Redis does not answer.
        """
        return self.client.get(self.id)

    def wait(self, timeout_s: float = 30.0) -> Job:
        """The ended job.

        Raises:
            Timeout: It did not end in time; it lives on.
            Unavailable: Redis does not answer.
        """
        return self.client.wait(self.id, timeout_s)

    def cancel(self) -> Job:
        """Cancel it, see `Client.cancel`."""
        return self.client.cancel(self.id)


@dataclass(slots=True)
class _Draft:
    """A request on its way to become a job."""

    request: Request
    id: str
    point: float
    signature: Signature
    arguments: list[Argument]


class Client:
    """Submits jobs to one Redis; safe for threads.

    Args:
        url: The Redis; by default that of ``settings``, else of the running yard.
        settings: Bounds and times to live; by default from the environment.

    Raises:
        ConfigurationError: There is no Redis to be found, or the URL is none.
    """

    def __init__(self, url: str | None = None, *, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.load()
        self.url = url or yard.redis_url(self.settings)
        self.redis: Redis = connect.fast(self.url)
        self.catalog = Catalog(self.redis)
        self._blocking: Redis = connect.blocking(self.url, _SLICE_S)
        self._chosen: dict[tuple[str, str | None], str] = {}

    def close(self) -> None:
        """Give the connections back."""
        self.redis.close()
        self._blocking.close()

    def submit(
        self,
        model: str,
        *,
        instances: Sequence[Any] | None = None,
        inputs: Mapping[str, Sequence[Any]] | None = None,
        version: str | None = None,
        routing_key: str | None = None,
        outputs: Sequence[str] | None = None,
        deadline_ms: int | None = None,
        idempotency_key: str | None = None,
    ) -> Handle:
        """Queue one job; `producer.contract.Request` tells what the arguments mean.

        Raises:
            InvalidInput: The rows do not fit the version's signature; the error names the places.
            TooLarge: Too many rows, or too many bytes.
            UnknownModel: No version of the model is published.
            UnknownVersion: The version, or alias, is not.
            NoActiveVersion: The model's keys route to nothing.
            IdempotencyMismatch: The idempotency key was used with another body.
            QueueFull: The version's queue is at its bound.
            Unavailable: Redis does not answer. The job may have been queued: repeat with an
                idempotency key to be sure that it is queued once.
        """
        request = Request(
            model, instances, inputs, version, routing_key, outputs, deadline_ms, idempotency_key
        )
        return self.submit_request(request)

    def submit_request(self, request: Request, job_id: str | None = None) -> Handle:
        """As `submit`, from a `Request`; ``job_id`` lets a caller wait before it submits."""
        draft = self._draft(request, job_id)
        outcome = self._submit([draft])[0]
        if isinstance(outcome, ModelyardError):
            raise outcome
        return outcome

    def submit_many(self, requests: Iterable[Request]) -> list[Handle | ModelyardError]:
        """Queue many jobs in few round trips; for each its handle, or why it was refused.

        Raises:
            Unavailable: Redis does not answer; earlier chunks may have been queued.
        """
        outcomes: list[Handle | ModelyardError] = []
        chunk: list[_Draft | ModelyardError] = []
        for request in requests:
            try:
                chunk.append(self._draft(request))
            except Unavailable:
                raise
            except ModelyardError as error:
                chunk.append(error)
            if len(chunk) == CHUNK:
                outcomes += self._submit_chunk(chunk)
                chunk = []
        return outcomes + self._submit_chunk(chunk)

    def get(self, job_id: str) -> Job:
        """A job as it stands.

        Raises:
            InvalidName: The id is outside the alphabet.
            UnknownJob: There is none, or its result has expired.
            Unavailable: Redis does not answer.
        """
        with redis_reachable():
            return read_job(self.redis, job_id)

    def wait(self, job_id: str, timeout_s: float = 30.0) -> Job:
        """The ended job, as soon as it ends.

        Raises:
            Timeout: It did not end within ``timeout_s`` seconds; it lives on.
            UnknownJob: There is none, or its result has expired.
            Unavailable: Redis does not answer.
        """
        results = keys.key("results", check_job_id(job_id))
        ends = time.monotonic() + timeout_s
        seen: Any = "0"
        with redis_reachable():
            while True:
                left_s = ends - time.monotonic()
                if left_s > 0:
                    block_ms = max(1, int(min(left_s, _SLICE_S) * 1000))
                    found: Any = self._blocking.xread({results: seen}, block=block_ms)
                    for _, entries in found or ():
                        seen = entries[-1][0]
                job = read_job(self.redis, job_id)
                if job.status.is_terminal:
                    return job
                if left_s <= 0:
                    raise Timeout(f"job {job_id} did not end within {timeout_s:g} s", job_id)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job that has not ended; a started one's output is dropped. Repeating is fine.

        Raises:
            JobEnded: It has finished or failed.
            UnknownJob: There is none, or its result has expired.
            Unavailable: Redis does not answer.
        """
        with redis_reachable():
            outcome = cancel_job(self.redis, job_id, self.settings.result_ttl_s)
        if outcome == b"unknown":
            raise UnknownJob(f"no job {job_id!r}: it never was, or its result has expired")
        job = self.get(job_id)
        if outcome == b"ended":
            raise JobEnded(f"job {job_id} has {job.status} already")
        return job

    def resolve(self, model: str, version: str | None = None, point: float = 0.0) -> ModelRef:
        """The version that a request would get now, by its name, its alias or the route.

        Raises:
            UnknownModel: No version of the model is published.
            UnknownVersion: The version, or alias, is not.
            NoActiveVersion: The model's keys route to nothing.
            Unavailable: Redis does not answer.
        """
        with redis_reachable():
            return resolve(self.redis, model, version, point)

    def _draft(self, request: Request, job_id: str | None = None) -> _Draft:
        """The request, checked against the signature that it will most likely meet."""
        _check_request(request)
        point = point_of(request.model, request.routing_key)
        with redis_reachable():
            entries = self.catalog.versions(request.model)
            guess = self._chosen.get((request.model, request.version), request.version or "")
            entry = entries.get(guess) or entries[max(entries)]
            try:
                arguments = self._arguments(request, entry.signature)
            except ModelyardError:
                # The guess may be wrong: look which version it really is before refusing the rows.
                entry = self.catalog.entry(self.resolve(request.model, request.version, point))
                arguments = self._arguments(request, entry.signature)
        job_id = job_id or secrets.token_hex(16)
        return _Draft(request, job_id, point, entry.signature, arguments)

    def _arguments(self, request: Request, signature: Signature) -> list[Argument]:
        """What the submitting script takes behind the point: signature, rows, ..., data.

        Raises:
            InvalidInput: The rows, or the wanted outputs, do not fit.
            TooLarge: Too many rows, or too many bytes.
        """
        rows = check_rows(
            signature,
            instances=request.instances,
            inputs=request.inputs,
            most_rows=self.settings.rows,
        )
        outputs = check_outputs(signature, request.outputs)
        data = encode_call({"instances": rows} | ({"outputs": outputs} if outputs else {}))
        if len(data) > self.settings.body_bytes:
            raise TooLarge(
                f"the job has {len(data)} bytes, the bound is {self.settings.body_bytes}"
            )
        idempotency, body = _digests(request)
        return [signature.id, len(rows), request.deadline_ms or "", idempotency, body, data]

    def _submit_chunk(
        self, chunk: Sequence[_Draft | ModelyardError]
    ) -> list[Handle | ModelyardError]:
        drafts = [draft for draft in chunk if isinstance(draft, _Draft)]
        outcomes = iter(self._submit(drafts) if drafts else ())
        return [next(outcomes) if isinstance(item, _Draft) else item for item in chunk]

    def _submit(self, drafts: Sequence[_Draft]) -> list[Handle | ModelyardError]:
        """Run the submitting script until it has an answer for each draft."""
        outcomes: dict[str, Handle | ModelyardError] = {}
        pending = list(drafts)
        for _ in range(_ROUNDS):
            with redis_reachable():
                replies = _SUBMIT(self.redis, self._script_arguments(pending))
            again = []
            for draft, reply in zip(pending, replies, strict=True):
                outcome = self._outcome(draft, reply)
                if isinstance(outcome, _Draft):
                    again.append(outcome)
                else:
                    outcomes[draft.id] = outcome
            pending = again
            if not pending:
                break
        for draft in pending:
            outcomes[draft.id] = Unavailable(
                f"the route of {draft.request.model!r} does not hold still"
            )
        return [outcomes[draft.id] for draft in drafts]

    def _script_arguments(self, drafts: Sequence[_Draft]) -> list[Argument]:
        bounds = self.settings
        arguments: list[Argument] = [
            bounds.queue_bound,
            bounds.timeout_s,
            bounds.result_ttl_s,
            bounds.failure_ttl_s,
            bounds.idempotency_ttl_s,
        ]
        for draft in drafts:
            request = draft.request
            arguments += [draft.id, request.model, request.version or "", draft.point]
            arguments += draft.arguments
        return arguments

    def _outcome(self, draft: _Draft, reply: list[Any]) -> Handle | ModelyardError | _Draft:
        """What one reply of the script means; a draft if it must be tried again."""
        request, kind = draft.request, reply[0]
        match kind:
            case b"ok" | b"same":
                queue = reply[1].decode()
                version = queue.partition("@")[2]
                self._chosen[(request.model, request.version)] = version
                return Handle(
                    reply[2].decode(), request.model, version, queue, kind == b"same", self
                )
            case b"signature":
                return self._recheck(draft, reply[1].decode())
            case b"mismatch":
                return IdempotencyMismatch(
                    f"the idempotency key named job {reply[2].decode()} before, with another body"
                )
            case b"queue_full":
                return QueueFull(f"queue {reply[1].decode()} holds {reply[2]} jobs, its bound")
        return _refusal(kind, request.model, request.version)

    def _recheck(self, draft: _Draft, version: str) -> _Draft | ModelyardError:
        """The draft, checked against the signature of the version that the script chose."""
        request = draft.request
        self._chosen[(request.model, request.version)] = version
        try:
            with redis_reachable():
                entry = self.catalog.versions(request.model, fresh=True).get(version)
            if entry is None:
                return UnknownVersion(f"model {request.model!r} has no version {version!r}")
            arguments = self._arguments(request, entry.signature)
        except ModelyardError as error:
            return error
        return _Draft(request, draft.id, draft.point, entry.signature, arguments)


def resolve(redis: Redis, model: str, version: str | None, point: float) -> ModelRef:
    """As `Client.resolve`, on a connection of one's own.

    Raises:
        UnknownModel: No version of the model is published.
        UnknownVersion: The version, or alias, is not.
        NoActiveVersion: The model's keys route to nothing.
        RedisError: Redis does not answer.
    """
    reply = _RESOLVE(redis, [model, version or "", point])
    if reply[0] != b"ok":
        raise _refusal(reply[0], model, version)
    return ModelRef(model, reply[1].decode())


def cancel_job(redis: Redis, job_id: str, result_ttl_s: int) -> bytes:
    """Cancel a job: ``canceled`` (now or before), ``ended`` or ``unknown``.

    Raises:
        InvalidName: The id is outside the alphabet.
        RedisError: Redis does not answer.
    """
    outcome: bytes = _CANCEL(redis, [check_job_id(job_id), result_ttl_s])
    return outcome


def _refusal(kind: bytes, model: str, version: str | None) -> ModelyardError:
    if kind == b"unknown_version":
        return UnknownVersion(f"model {model!r} has no version or alias {version!r}")
    if kind == b"no_active_version":
        return NoActiveVersion(
            f"model {model!r} has no active version: set modelyard:active:{model}"
        )
    return UnknownModel(f"no version of model {model!r} is published")


def _check_request(request: Request) -> None:
    """What can be known of a request without the catalogue.

    Raises:
        InvalidInput: A member is of the wrong type or out of its bounds; the error names it.
        InvalidName: The model's or version's name is outside the alphabet.
    """
    for member in ("model", "version", "routing_key", "idempotency_key"):
        value = getattr(request, member)
        if not isinstance(value, str) and not (value is None and member != "model"):
            raise InvalidInput.at([member], "must be a string")
    check_name("model", request.model)
    if request.version is not None:
        check_name("version", request.version)
    deadline = request.deadline_ms
    if deadline is not None and (type(deadline) is not int or not 1 <= deadline <= 2**40):
        raise InvalidInput.at(["deadline_ms"], "must be a whole number from 1 to 2**40")


def _digests(request: Request) -> tuple[str, str]:
    """The digests of the idempotency key and of the body; empty without a key."""
    if request.idempotency_key is None:
        return "", ""
    if not 1 <= len(request.idempotency_key) <= 256:
        raise InvalidInput.at(["Idempotency-Key"], "must have 1 to 256 characters")
    body = wire.dumps(
        [
            request.instances,
            request.inputs,
            request.version,
            request.routing_key,
            request.outputs,
            request.deadline_ms,
        ]
    )
    key = request.idempotency_key.encode("utf-8", "surrogatepass")
    return hashlib.sha256(key).hexdigest(), hashlib.sha256(body).hexdigest()
