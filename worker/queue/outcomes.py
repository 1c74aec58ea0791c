"""How jobs end, as the finishing script takes them, in parts that hold Redis for a short time each.

What failed is written twice: as RQ shows it, and as our clients do.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from yard.contract import Failure, wire

# No script may hold Redis for more than 2 ms: a finish takes 7 to 15 us a job and 0.9 ms a MiB, and
# others wait meanwhile.

#: Jobs that one call of the finishing script ends, and bytes of their results, at most.
CHUNK = 32
_CHUNK_BYTES = 2**20


class EndedJob(NamedTuple):
    """How one job ends.

    Attributes:
        id: The job's id.
        outcome: Its result, as clients see it, or why it failed.
        ttl_s: How long the outcome lives, in seconds.
    """

    id: str
    outcome: Mapping[str, Any] | Failure
    ttl_s: int


class Entry(NamedTuple):
    """One job's arguments of the finishing script.

    Attributes:
        id: The job's id.
        ttl_s: How long the outcome lives, in seconds.
        payload: The result, or RQ's form of the failure, in base64.
        error: Our form of the failure; empty of a result.
    """

    id: str
    ttl_s: int
    payload: bytes
    error: bytes


def chunked(endings: Sequence[EndedJob]) -> list[list[Entry]]:
    """The jobs, in their order, for one call of the finishing script after the other.

    Each has at most `CHUNK` of them and 1 MiB of results, but at least one.
    """
    chunks: list[list[Entry]] = []
    size = 0
    for entry in map(_entry, endings):
        size += len(entry.payload)
        if not chunks or len(chunks[-1]) == CHUNK or size > _CHUNK_BYTES:
            chunks.append([])
            size = len(entry.payload)
        chunks[-1].append(entry)
    return chunks


def _entry(ending: EndedJob) -> Entry:
    outcome = ending.outcome
    if isinstance(outcome, Failure):
        error, payload = _written(outcome)
        return Entry(ending.id, ending.ttl_s, payload, error)
    return Entry(ending.id, ending.ttl_s, base64.b64encode(wire.dumps(outcome)), b"")


def _written(failure: Failure) -> tuple[bytes, bytes]:
    """Our form of a failure, and RQ's: a traceback, base64 of zlib of text."""
    text = f"{failure.code}: {failure.message}"
    packed = base64.b64encode(zlib.compress(text.encode("utf-8", "replace")))
    return wire.dumps(failure.to_dict()), packed


# What pools write of jobs whose worker could not: our form, and RQ's.
CRASHED = _written(Failure("worker_crashed", "the worker died each time that it ran this job"))
OVERRAN = _written(Failure("timeout", "the job ran longer than its timeout"))
EXPIRED = _written(Failure("expired", "the job was not started before its deadline"))
