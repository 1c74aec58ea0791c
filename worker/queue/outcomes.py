"""Ended jobs, encoded for the finishing script, in chunks that hold Redis briefly.

A failure is written twice: in RQ's form, and in ours for our clients.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from yard.contract import Failure, wire

# No script may hold Redis for more than 2 ms, while others wait: a finish takes 7 to 15 us a job
# and 0.9 ms a MiB.

#: Most jobs of one call of the finishing script, and most bytes of their results.
CHUNK = 32
_CHUNK_BYTES = 2**20


class EndedJob(NamedTuple):
    """The end of one job.

    Attributes:
        id: The job's id.
        outcome: Its result, as clients see it, or its failure.
        ttl_s: Time to live of the outcome, in seconds.
    """

    id: str
    outcome: Mapping[str, Any] | Failure
    ttl_s: int


class Entry(NamedTuple):
    """One job's arguments of the finishing script.

    Attributes:
        id: The job's id.
        ttl_s: Time to live of the outcome, in seconds.
        payload: The result, or RQ's form of the failure, in base64.
        error: Our form of the failure; empty for a result.
    """

    id: str
    ttl_s: int
    payload: bytes
    error: bytes


def chunked(ended_jobs: Sequence[EndedJob]) -> list[list[Entry]]:
    """Return the jobs, in their order, in one chunk for each call of the finishing script.

    A chunk has at most `CHUNK` jobs and 1 MiB of results, but at least one job.
    """
    chunks: list[list[Entry]] = []
    size = 0
    for entry in map(_entry, ended_jobs):
        size += len(entry.payload)
        if not chunks or len(chunks[-1]) == CHUNK or size > _CHUNK_BYTES:
            chunks.append([])
            size = len(entry.payload)
        chunks[-1].append(entry)
    return chunks


def _entry(job: EndedJob) -> Entry:
    outcome = job.outcome
    if isinstance(outcome, Failure):
        error, payload = _written(outcome)
        return Entry(job.id, job.ttl_s, payload, error)
    return Entry(job.id, job.ttl_s, base64.b64encode(wire.dumps(outcome)), b"")


def _written(failure: Failure) -> tuple[bytes, bytes]:
    """Return our form of a failure, and RQ's: a traceback, base64 of zlib of text."""
    text = f"{failure.code}: {failure.message}"
    packed = base64.b64encode(zlib.compress(text.encode("utf-8", "replace")))
    return wire.dumps(failure.to_dict()), packed


# Failures that pools write for jobs whose worker could not: our form, and RQ's.
CRASHED = _written(Failure("worker_crashed", "the worker died each time that it ran this job"))
OVERRAN = _written(Failure("timeout", "the job ran longer than its timeout"))
DEPENDENCY_GONE = _written(
    Failure("invalid_job", "a job that it depends on (`depends_on`) is gone, and cannot finish")
)
ADRIFT = _written(Failure("invalid_job", "the job was removed from its queue, so nothing runs it"))
EXPIRED = _written(Failure("expired", "the job was not started before its deadline"))
