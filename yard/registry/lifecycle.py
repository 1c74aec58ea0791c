"""The end of a version: retired, drained, deleted, and the way back.

    published --retire--> retired --its last job has ended--> drained
        ^                    |                                   |
        +------restore-------+-----------------------------------+
        |
    published, retired or drained --delete--> deleted

A retired version gets no job that is submitted, and runs those that it has; jobs pushed onto the
queue of a drained or deleted one fail with ``version_gone``. Each step is one script, so that no
submission falls in between. Workers see a step within a second (`worker.queue.scheduler`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from redis import Redis
from redis.exceptions import ResponseError

from yard.broker import Script
from yard.contract import ModelRef, Signature, keys, lenient
from yard.errors import UnknownModel, UnknownVersion, VersionInUse

VersionState = Literal["retired", "drained", "deleted", "revived"]
STATES: tuple[VersionState, ...] = ("retired", "drained", "deleted", "revived")

_RETIRE = Script("yard", "retire")
_DELETE = Script("yard", "delete")
_DRAIN = Script("yard", "drain")

#: Sentence for each reason that the scripts give.
_REASONS = {
    "active": "it is the active version",
    "weights": "the weights name it",
    "route": "the route in force is the last good one, which sends traffic to it",
    "alias": "the alias {} stands for it",
    "queued": "{} jobs wait for it",
    "running": "{} of its jobs are running",
    "unversioned": "{} jobs wait at the door of its model, whose last version it is",
}


def retire(redis: Redis, ref: ModelRef, *, force: bool = False) -> bool:
    """Takes a version out of service: it gets no more jobs; those that it has are run.

    Args:
        redis: Where the catalogue is.
        ref: The version.
        force: Take it out of its model's route and aliases first.

    Returns:
        True if it was in service before.

    Raises:
        UnknownModel: No version of the model is published.
        UnknownVersion: This one is not.
        VersionInUse: Traffic may reach it; nothing was changed.
    """
    return _done(ref, _RETIRE(redis, [ref.model, ref.version, "force" if force else "retire", ""]))


def restore(redis: Redis, ref: ModelRef, signature: Signature) -> bool:
    """Puts a retired version back into service.

    Returns:
        True if it was out of service before.

    Raises:
        UnknownModel: No version of the model is published.
        UnknownVersion: This one is not.
    """
    return _done(ref, _RETIRE(redis, [ref.model, ref.version, "restore", signature.id]))


def delete(redis: Redis, ref: ModelRef, *, force: bool = False) -> None:
    """Deletes a version from the catalogue.

    Args:
        redis: Where the catalogue is.
        ref: The version.
        force: Take it out of its model's route and aliases first, and let jobs that wait for it
            fail with ``version_gone``.

    Raises:
        UnknownModel: No version of the model is published.
        UnknownVersion: This one is not.
        VersionInUse: Traffic may reach it, or jobs wait or run; nothing was changed.
    """
    _done(ref, _DELETE(redis, [ref.model, ref.version, "force" if force else ""]))


def mark_drained(redis: Redis, queues: Sequence[str]) -> None:
    """Marks retired versions, by their queues, as drained once nothing waits or runs."""
    _DRAIN(redis, list(queues))


def read_states(redis: Redis) -> dict[str, tuple[VersionState, str]]:
    """Reads the versions that were taken out of service: queue to state and time in microseconds.

    Values that are no state are left out; a key of another type counts as empty.
    """
    try:
        return parse_states(redis.hgetall(keys.RETIRED))
    except ResponseError:
        return {}


def read_state(redis: Redis, ref: ModelRef) -> str:
    """Reads a version's state and since when, as it is written; empty for one in service."""
    try:
        return lenient.decode(redis.hget(keys.RETIRED, keys.queue_name(ref)) or b"")
    except ResponseError:
        return ""


def parse_states(raw: Any) -> dict[str, tuple[VersionState, str]]:
    """Parses the reply of an HGETALL into what `read_states` returns."""
    found: dict[str, tuple[VersionState, str]] = {}
    for queue, said in lenient.mapping(raw).items():
        state, _, since = lenient.decode(said).partition(" ")
        name = lenient.decode(queue)
        parsed = keys.parse_queue(name)
        if state in STATES and parsed is not None and parsed[1] is not None:
            found[name] = (state, since)
    return found


def _done(ref: ModelRef, reply: list[bytes]) -> bool:
    match reply[0]:
        case b"ok" | b"same":
            return reply[0] == b"ok"
        case b"in_use":
            reasons = [_reason(lenient.decode(raw)) for raw in reply[1:]]
            raise VersionInUse(f"{ref} is in use: {'; '.join(reasons)}")
        case b"unknown_version":
            raise UnknownVersion(f"model {ref.model!r} has no version {ref.version!r}")
    raise UnknownModel(f"no version of model {ref.model!r} is published")


def _reason(said: str) -> str:
    for word, text in _REASONS.items():
        if said.startswith(word):
            return text.format(said.removeprefix(word).strip())
    return said
