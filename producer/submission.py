"""Submission: turns a request into an accepted job, checked here and queued by one script.

The rows are checked against the signature that the request will most likely meet. The script then
chooses the version by the keys as they are, and queues the job only if that version's signature is
the one that was checked; if not, the rows are checked again and the call is repeated. The job's id
is chosen here, so that repeating a call whose answer was lost queues nothing twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from producer.handle import Handle, JobClient
from yard.broker import Script, ScriptArgument, redis_reachable
from yard.contract import (
    Request,
    Signature,
    check_name,
    check_outputs,
    check_rows,
    encode_call,
    new_id,
    wire,
)
from yard.errors import (
    IdempotencyMismatch,
    InvalidInput,
    ModelyardError,
    QueueFull,
    TooLarge,
    Unavailable,
    UnknownVersion,
)
from yard.registry import Catalog, PublishedVersion
from yard.routing import resolve, routing_error, routing_point
from yard.settings import Settings

#: Most jobs of one call of the submitting script, so that it holds Redis well under 2 ms.
CHUNK = 64

#: Most bytes of payload of one call, unless its first job alone has more.
CHUNK_BYTES = 2**20

#: Most times that a request is checked because the route moved between checking and queueing.
_ROUNDS = 5

#: The submitting script.
SUBMIT = Script("producer", "submit")


@dataclass(frozen=True, slots=True)
class PreparedJob:
    """A request whose rows were checked, ready to be sent.

    Attributes:
        request: The request.
        id: Id that the job will have.
        point: Place of the job in [0, 1), by which the route splits traffic.
        signature: Signature that the rows were checked against.
        arguments: Arguments of the submitting script behind the point.
        size_bytes: Length of the payload.
    """

    request: Request
    id: str
    point: float
    signature: Signature
    arguments: list[ScriptArgument]
    size_bytes: int


#: Outcome of a prepared job: the handle of an accepted one, or the error of a refused one.
Outcome = Handle | ModelyardError


class Submitter:
    """Turns requests into jobs on one Redis; safe for threads.

    `Client` calls it for its users, the gateway's `AsyncClient` for HTTP calls.

    Args:
        redis: A connection that answers quickly or fails.
        catalog: The signatures, as read lately.
        settings: Bounds and times to live.
        client: Handles of accepted jobs call it.
    """

    def __init__(
        self, redis: Redis, catalog: Catalog, settings: Settings, client: JobClient
    ) -> None:
        self._redis = redis
        self._catalog = catalog
        self._settings = settings
        self._client = client
        self._chosen: dict[tuple[str, str | None], str] = {}

    def prepare(self, request: Request, job_id: str | None = None) -> PreparedJob:
        """Checks a request against the signature that it will most likely meet.

        Raises:
            ModelyardError: The request cannot become a job, or Redis does not answer.
        """
        _check_request(request)
        point = routing_point(request.model, request.routing_key)
        with redis_reachable():
            signature = self._guess(request, self._catalog.versions(request.model)).signature
            try:
                arguments = self._arguments(request, signature)
            except ModelyardError:
                # The guess may be wrong: find the real version before refusing the rows.
                ref = resolve(self._redis, request.model, request.version, point)
                signature = self._catalog.entry(ref).signature
                arguments = self._arguments(request, signature)
        return _prepared(request, job_id or new_id(), point, signature, arguments)

    def prepare_cached(self, request: Request, job_id: str) -> PreparedJob | None:
        """Checks a request as `prepare` does, for an event loop: it never asks Redis.

        Returns:
            None where Redis would have to be asked, as it is before rows are refused.

        Raises:
            ModelyardError: The request cannot become a job, whatever Redis says.
        """
        _check_request(request)
        entries = self._catalog.known(request.model)
        if entries is None:
            return None
        signature = self._guess(request, entries).signature
        try:
            arguments = self._arguments(request, signature)
        except ModelyardError:
            return None
        point = routing_point(request.model, request.routing_key)
        return _prepared(request, job_id, point, signature, arguments)

    def _guess(self, request: Request, entries: Mapping[str, PublishedVersion]) -> PublishedVersion:
        """The version that the request will most likely meet."""
        guess = self._chosen.get((request.model, request.version), request.version or "")
        return entries.get(guess) or entries[max(entries)]

    def _arguments(self, request: Request, signature: Signature) -> list[ScriptArgument]:
        """Arguments of the submitting script behind the point: signature, rows, ..., data.

        Raises:
            InvalidInput: The rows, or the wanted outputs, do not fit.
            TooLarge: Too many rows, or too many bytes.
        """
        rows = check_rows(
            signature,
            instances=request.instances,
            inputs=request.inputs,
            most_rows=self._settings.rows,
        )
        outputs = check_outputs(signature, request.outputs)
        data = encode_call({"instances": rows} | ({"outputs": outputs} if outputs else {}))
        if len(data) > self._settings.body_bytes:
            raise TooLarge(
                f"the job has {len(data)} bytes, the bound is {self._settings.body_bytes}"
            )
        idempotency, body = _digests(request)
        return [signature.id, len(rows), request.deadline_ms or "", idempotency, body, data]

    def submit(self, jobs: Sequence[PreparedJob]) -> list[Outcome]:
        """Queues one chunk, see `chunked`; returns for each job its handle, or why it was refused.

        Raises:
            Unavailable: Redis does not answer. The error's ``job_ids`` may have been queued;
                repeating is safe.
        """
        try:
            return self._submit(jobs)
        except Unavailable as error:
            raise Unavailable(error.message, [job.id for job in jobs]) from error

    def _submit(self, jobs: Sequence[PreparedJob]) -> list[Outcome]:
        outcomes: dict[str, Outcome] = {}
        pending = list(jobs)
        for _ in range(_ROUNDS):
            with redis_reachable():
                replies = SUBMIT(self._redis, self._script_arguments(pending))
            again = []
            for job, reply in zip(pending, replies, strict=True):
                outcome = self._outcome(job, reply)
                if isinstance(outcome, PreparedJob):
                    again.append(outcome)
                else:
                    outcomes[job.id] = outcome
            pending = again
            if not pending:
                break
        for job in pending:
            outcomes[job.id] = Unavailable(
                f"the route of {job.request.model!r} does not hold still"
            )
        return [outcomes[job.id] for job in jobs]

    def _script_arguments(self, jobs: Sequence[PreparedJob]) -> list[ScriptArgument]:
        bounds = self._settings
        arguments: list[ScriptArgument] = [
            bounds.queue_bound,
            bounds.timeout_s,
            bounds.result_ttl_s,
            bounds.failure_ttl_s,
            bounds.idempotency_ttl_s,
        ]
        for job in jobs:
            request = job.request
            arguments += [job.id, request.model, request.version or "", job.point]
            arguments += job.arguments
        return arguments

    def _outcome(self, job: PreparedJob, reply: list[Any]) -> Outcome | PreparedJob:
        """Outcome of one reply of the script; a prepared job if it must be sent again."""
        request, kind = job.request, reply[0]
        match kind:
            case b"ok" | b"same":
                queue = reply[1].decode()
                version = queue.partition("@")[2]
                self._chosen[(request.model, request.version)] = version
                job_id, is_repeat = reply[2].decode(), kind == b"same"
                return Handle(job_id, request.model, version, queue, is_repeat, self._client)
            case b"signature":
                return self._recheck(job, reply[1].decode())
            case b"mismatch":
                return IdempotencyMismatch(
                    f"the idempotency key named job {reply[2].decode()} before, with another body"
                )
            case b"queue_full":
                return QueueFull(f"queue {reply[1].decode()} holds {reply[2]} jobs, its bound")
            case b"unavailable":
                return Unavailable(f"model {request.model!r} takes no jobs: {reply[1].decode()}")
        return routing_error(kind, request.model, request.version)

    def _recheck(self, job: PreparedJob, version: str) -> PreparedJob | ModelyardError:
        """The job, checked against the signature of the version that the script chose."""
        request = job.request
        self._chosen[(request.model, request.version)] = version
        try:
            with redis_reachable():
                entry = self._catalog.versions(request.model, fresh=True).get(version)
            if entry is None:
                return UnknownVersion(f"model {request.model!r} has no version {version!r}")
            arguments = self._arguments(request, entry.signature)
        except ModelyardError as error:
            return error
        return _prepared(request, job.id, job.point, entry.signature, arguments)


def chunked(jobs: Iterable[PreparedJob]) -> Iterator[list[PreparedJob]]:
    """Splits jobs, in their order, into chunks that one call of the submitting script takes."""
    chunk: list[PreparedJob] = []
    size_bytes = 0
    for job in jobs:
        size_bytes += job.size_bytes
        if chunk and (len(chunk) == CHUNK or size_bytes > CHUNK_BYTES):
            yield chunk
            chunk, size_bytes = [], job.size_bytes
        chunk.append(job)
    if chunk:
        yield chunk


def first_chunk_size(jobs: Sequence[PreparedJob]) -> int:
    """Number of jobs in the first of their chunks."""
    return len(next(chunked(jobs)))


def _prepared(
    request: Request,
    job_id: str,
    point: float,
    signature: Signature,
    arguments: list[ScriptArgument],
) -> PreparedJob:
    data = arguments[-1]
    size_bytes = len(data) if isinstance(data, bytes) else 0
    return PreparedJob(request, job_id, point, signature, arguments, size_bytes)


def _check_request(request: Request) -> None:
    """Checks what needs no catalogue.

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
