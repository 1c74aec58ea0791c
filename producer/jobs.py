"""What somebody pushed onto a queue, read safely, and RQ's `Job` made safe.

RQ's own `Job` unpickles, imports whatever name a payload gives and inflates without a bound. Here
a payload becomes a `Call` by three rules: bounded and plain or zlib'd; strict JSON of the shape
that RQ's JSONSerializer writes; and a callable that is looked up in a dictionary of one. `SafeJob`
puts the same rules under RQ's tools (``rq worker --job-class producer.SafeJob --serializer
json``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rq.exceptions import NoSuchJobError
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer

from producer import wire
from producer.contract import TASK, check_name
from producer.errors import InvalidJob, InvalidJson, InvalidName, TooLarge

#: What a job's keyword arguments may be.
ARGUMENTS = frozenset({"instances", "inputs", "version", "routing_key", "outputs", "deadline_ms"})

#: Hash fields of a job that this project reads or writes; all others are dropped before RQ sees
#: them.
FIELDS = frozenset(
    {
        "created_at",
        "data",
        "description",
        "ended_at",
        "enqueued_at",
        "failure_ttl",
        "last_heartbeat",
        "origin",
        "result_ttl",
        "started_at",
        "status",
        "timeout",
        "worker_name",
    }
)

#: Payload bytes that a job may have, plain, where no setting says otherwise.
MOST_BYTES = 8 * 2**20


class Call(NamedTuple):
    """The keyword arguments of one job, in known types but not yet checked against a signature."""

    instances: Any = None
    inputs: Any = None
    version: str | None = None
    routing_key: str | None = None
    outputs: list[str] | None = None
    deadline_ms: int | None = None


def encode_call(arguments: Mapping[str, Any]) -> bytes:
    """The ``data`` field of a job hash, as RQ's JSONSerializer would write it, plain."""
    return wire.dumps([TASK, None, [], arguments])


def decode_call(data: bytes, limit: int = MOST_BYTES) -> Call:
    """Read the ``data`` field of a job hash.

    Raises:
        InvalidJob: It is not what `encode_call` writes; the message says why.
    """
    try:
        value = wire.loads(_plain(data, limit))
    except InvalidJson as error:
        raise InvalidJob(f"the payload is {error.message}") from None
    if not isinstance(value, list) or len(value) != 4:
        raise InvalidJob("the payload must be [function, null, [], {arguments}]")
    name, instance, positional, arguments = value
    if name != TASK:
        given = repr(name[:80]) if isinstance(name, str) else type(name).__name__
        raise InvalidJob(f"not allowed: the only function is {TASK!r}, not {given}")
    if instance is not None or positional not in ([], None):
        raise InvalidJob(f"{TASK} takes keyword arguments only")
    return _checked(arguments)


def _plain(data: bytes, limit: int) -> bytes:
    """The JSON list that ``data`` holds, inflated once.

    Whatever else it inflates to is refused here, by its first byte, so that nobody behind unpickles
    it, inflates it again (RQ's `Job.restore` would, without a bound), or shows it in a message.
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
    if not arguments.keys() <= ARGUMENTS:
        unknown = sorted(arguments.keys() - ARGUMENTS)
        raise InvalidJob(
            f"unknown argument {unknown[0][:80]!r}; there are {', '.join(sorted(ARGUMENTS))}"
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


def predict(**arguments: Any) -> Any:
    """Stands in the dictionary for `worker.tasks.predict`, imported only where a job is run."""
    from importlib import import_module

    return import_module("worker.tasks").predict(**arguments)


#: Every callable that a job can name.
CALLABLES: Mapping[str, Callable[..., Any]] = {TASK: predict}


class SafeJob(RqJob):
    """RQ's job with nothing in it that Redis could use to run code.

    Raises `InvalidJob` from `restore` and `func` where RQ would import or unpickle.
    """

    def __init__(self, id: str | None = None, connection: Any = None, serializer: Any = None):
        # RQ's default is pickle, also for a result; whoever forgets the argument must be safe.
        super().__init__(id, connection=connection, serializer=JSONSerializer)

    def restore(self, raw_data: Mapping[bytes | str, bytes]) -> Any:
        """Take only known fields, bounded, from a job hash."""
        named = {
            (k.decode("latin-1") if isinstance(k, bytes) else k): v for k, v in raw_data.items()
        }
        known = {name: value for name, value in named.items() if name in FIELDS}
        if "data" in known:
            known["data"] = _plain(known["data"], MOST_BYTES)
        try:
            return super().restore(known)
        except NoSuchJobError:
            raise
        except Exception as error:  # RQ has a word of its own for each field, even an assertion
            raise InvalidJob(f"job {self.id} has a malformed field: {str(error)[:200]}") from None

    def _deserialize_data(self) -> None:
        call = decode_call(self.data)
        self._func_name, self._instance, self._args = TASK, None, ()
        self._kwargs = {name: v for name in ARGUMENTS if (v := getattr(call, name)) is not None}

    @property
    def func(self) -> Callable[..., Any]:
        """The callable, from the dictionary."""
        found = CALLABLES.get(self.func_name or "")
        if found is None:
            raise InvalidJob(f"not allowed: the only function is {TASK!r}")
        return found

    @property
    def success_callback(self) -> None:
        """Callbacks are names that Redis gives: never imported."""
        return None

    @property
    def failure_callback(self) -> None:
        """Callbacks are names that Redis gives: never imported."""
        return None

    @property
    def stopped_callback(self) -> None:
        """Callbacks are names that Redis gives: never imported."""
        return None

    def send_webhooks(self, *_args: Any, **_kwargs: Any) -> None:
        """Webhooks are addresses that Redis gives: never fetched."""
