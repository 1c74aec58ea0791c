"""Safe decoding of the payloads that any client may push onto a queue.

A payload becomes a `Call` by three rules: it is bounded, plain or zlib'd; it is strict JSON of the
shape that RQ's JSONSerializer writes; and it names the one allowed function, which is never
imported by that name. `producer.rq_job` applies the same rules to RQ's own tools.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from yard.contract import wire
from yard.contract.values import TASK_NAME, check_name
from yard.errors import InvalidJob, InvalidJson, InvalidName, TooLarge

#: Keyword arguments that a job may have.
JOB_ARGUMENTS = frozenset(
    {"instances", "inputs", "version", "routing_key", "outputs", "deadline_ms"}
)

#: Bytes of a job's inflated payload, at most, where no setting bounds them.
MAX_PAYLOAD_BYTES = 8 * 2**20


class Call(NamedTuple):
    """The keyword arguments of one job, in known types but not yet checked against a signature."""

    instances: Any = None
    inputs: Any = None
    version: str | None = None
    routing_key: str | None = None
    outputs: list[str] | None = None
    deadline_ms: int | None = None


def encode_call(arguments: Mapping[str, Any]) -> bytes:
    """Returns the ``data`` field of a job hash, as RQ's JSONSerializer writes it, not deflated."""
    return wire.dumps([TASK_NAME, None, [], arguments])


def decode_call(data: bytes, limit: int = MAX_PAYLOAD_BYTES) -> Call:
    """Decodes the ``data`` field of a job hash.

    Raises:
        InvalidJob: It is not what `encode_call` writes; the message has the reason.
    """
    try:
        value = wire.loads(inflate_payload(data, limit))
    except InvalidJson as error:
        raise InvalidJob(f"the payload is {error.message}") from None
    if not isinstance(value, list) or len(value) != 4:
        raise InvalidJob("the payload must be [function, null, [], {arguments}]")
    name, instance, positional, arguments = value
    if name != TASK_NAME:
        given = repr(name[:80]) if isinstance(name, str) else type(name).__name__
        raise InvalidJob(f"not allowed: the only function is {TASK_NAME!r}, not {given}")
    if instance is not None or positional not in ([], None):
        raise InvalidJob(f"{TASK_NAME} takes keyword arguments only")
    return _checked(arguments)


def inflate_payload(data: bytes, limit: int) -> bytes:
    """Inflates a payload once; returns the JSON list in it, undecoded.

    Anything else is refused here, by its first byte, so that no later code unpickles it, inflates
    it again (RQ's `Job.restore` would, without a bound), or shows it in a message.

    Raises:
        InvalidJob: It is too large, broken, or no JSON list.
    """
    try:
        plain = wire.inflate(data, limit)
    except TooLarge as error:
        raise InvalidJob(f"too_large: {error.message}") from None
    except InvalidJson as error:
        raise InvalidJob(f"the payload is {error.message}") from None
    if plain[:1] == b"\x80":
        raise InvalidJob("the payload is a pickle: enqueue with serializer='json'")
    if plain.lstrip(b" \t\r\n")[:1] != b"[":
        raise InvalidJob("the payload must be [function, null, [], {arguments}]")
    return plain


def _checked(arguments: Any) -> Call:
    if not isinstance(arguments, dict):
        raise InvalidJob("the arguments must be an object")
    if not arguments.keys() <= JOB_ARGUMENTS:
        unknown = sorted(arguments.keys() - JOB_ARGUMENTS)
        raise InvalidJob(
            f"unknown argument {unknown[0][:80]!r}; there are {', '.join(sorted(JOB_ARGUMENTS))}"
        )
    call = Call(**arguments)
    if call.version is not None:
        if not isinstance(call.version, str):
            raise InvalidJob("version must be a string")
        try:
            check_name("version", call.version)
        except InvalidName as error:
            raise InvalidJob(error.message) from None
    if call.routing_key is not None and not isinstance(call.routing_key, str):
        raise InvalidJob("routing_key must be a string")
    deadline = call.deadline_ms
    if deadline is not None and (type(deadline) is not int or deadline < 1):
        raise InvalidJob("deadline_ms must be a whole number above zero")
    return call
