"""Reads jobs as they stand from RQ's hash and result stream.

Reads known fields only and never unpickles: anything else that was written there becomes at worst a
job that failed with ``invalid_job``.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from redis import Redis
from redis.exceptions import NoScriptError

from yard.broker import Script, redis_reachable
from yard.contract import Failure, Job, JobStatus, Timings, keys, lenient, parse_time, wire
from yard.errors import JOB_FAILURES, InvalidInput, InvalidJson, TooLarge, UnknownJob

_READ = Script("producer", "read")

#: Number of fields of a hash that the script reads.
_FIELDS = 9

#: Bytes of a traceback that is read, at most; a longer one may be a zlib bomb.
_MOST_BYTES = 2**20

#: Status of each word that RQ writes.
_STATUSES = {status.value.encode(): status for status in JobStatus} | {
    b"stopped": JobStatus.CANCELED
}

#: The last line of the traceback that a stock ``rq worker`` keeps: "yard.errors.Expired: ...".
_TRACEBACK_END = re.compile(r"^(?:[\w.]+\.)?(\w+)(?:: (.*))?$", re.DOTALL)

#: A job's fields in the script's order, and those of its newest result.
Raw = tuple[list[bytes | None], dict[bytes, bytes]]


def found_job(job_id: str, raw: Raw) -> Job:
    """Decodes a job as `decode_job` does.

    Raises:
        UnknownJob: There is none, or its result has expired.
    """
    job = decode_job(job_id, raw)
    if job is None:
        raise UnknownJob(f"no job {job_id!r}: it never was, or its result has expired")
    return job


def read_raw(redis: Redis, job_ids: Sequence[str]) -> list[Raw]:
    """Reads the raw fields of several jobs, in one round trip, for `decode_job`."""
    return _raws(_READ(redis, job_ids))


def read_jobs(redis: Redis, job_ids: Sequence[str]) -> list[Raw]:
    """Reads jobs as `read_raw` does, for callers that know only our errors.

    Raises:
        Unavailable: Redis does not answer.
    """
    with redis_reachable():
        return read_raw(redis, job_ids)


def _raws(replies: Any) -> list[Raw]:
    nothing: list[bytes | None] = [None] * _FIELDS
    return [
        (values or nothing, dict(zip(result[::2], result[1::2], strict=True)))
        for values, result in replies
    ]


def read_when_ended(blocking: Redis, job_id: str, after: str, timeout_s: float) -> tuple[str, Raw]:
    """Waits for a newer result of a job, then reads the job, also at the end of the wait.

    The read is sent behind the wait, and Redis comes to it when that is over: one round trip.

    Args:
        blocking: A connection whose timeout is longer than the wait.
        job_id: The job.
        after: The newest known result; "0" for none.
        timeout_s: The longest wait, in seconds.

    Returns:
        The newest known result, and the raw job for `decode_job`.
    """
    pipe: Any = blocking.pipeline(transaction=False)
    results = keys.key("results", job_id)
    pipe.xread({results: after}, block=max(1, int(timeout_s * 1000)))
    pipe.execute_command(*_READ.command([job_id]))
    found, replies = pipe.execute(raise_on_error=False)
    if isinstance(found, Exception):
        raise found
    for _, entries in found or ():
        after = entries[-1][0]
    if isinstance(replies, NoScriptError):  # Redis is new, or was started again
        return after, read_raw(blocking, [job_id])[0]
    if isinstance(replies, Exception):
        raise replies
    return after, _raws(replies)[0]


def decode_job(job_id: str, raw: Raw) -> Job | None:
    """Decodes a job from its raw fields; None if there is none."""
    values, entry = raw
    if values[0] is None:
        return None
    texts = [lenient.decode(value) for value in values]
    _, origin, created_at, started_at, ended_at, attempts, run, error, queued_at = texts
    status = _STATUSES.get(values[0], JobStatus.QUEUED)
    model, _, version = origin.partition("@")
    result: dict[str, Any] | None = None
    failure: Failure | None = None
    if status is JobStatus.FINISHED:
        result, failure = _result(entry)
        status = JobStatus.FAILED if failure else status
    elif status is JobStatus.FAILED:
        failure = _failure(error, entry)
    ran = lenient.json_object(run) or {}
    return Job(
        id=job_id,
        status=status,
        model=model,
        version=version or None,
        queue=origin,
        created_at=created_at or None,
        started_at=started_at or None,
        ended_at=ended_at or None,
        attempts=lenient.digits(attempts, most=9) or 0,
        result=result,
        error=failure,
        timings=(
            _timings(queued_at or created_at, started_at, ended_at, ran)
            if status.is_terminal
            else None
        ),
        batch_size=lenient.integer(ran.get("batch")),
    )


def _result(
    entry: Mapping[bytes, bytes],
) -> tuple[dict[str, Any] | None, Failure | None]:
    """A finished job's result, or the failure of reading it."""
    if not entry:
        return None, Failure("invalid_job", "the job is finished, but its result is gone")
    try:
        value = wire.loads(base64.b64decode(entry.get(b"return_value", b""), validate=True))
    except (InvalidJson, binascii.Error):
        return None, Failure("invalid_job", "the job's result is not JSON")
    return value if isinstance(value, dict) else {"predictions": value}, None


def _failure(error: str, entry: Mapping[bytes, bytes]) -> Failure:
    """A failed job's failure: as our workers write it, else from the traceback that RQ keeps."""
    known = lenient.json_object(error) or {}
    if isinstance(known.get("code"), str):
        row = known.get("row")
        return Failure(
            known["code"], str(known.get("message", "")), row if isinstance(row, int) else None
        )
    try:
        packed = base64.b64decode(entry[b"exc_string"], validate=True)
        lines = wire.inflate(packed, _MOST_BYTES).decode("utf-8", "replace").strip().splitlines()
    except (KeyError, binascii.Error, zlib.error, InvalidJson, TooLarge):
        return Failure("predict_failed", "the job failed, and left no reason")
    return _from_traceback(lines[-1] if lines else "")


def _from_traceback(line: str) -> Failure:
    match = _TRACEBACK_END.match(line)
    name, message = (match.group(1), match.group(2) or "") if match else ("", line)
    for code, cls in (JOB_FAILURES | {InvalidInput.code: InvalidInput}).items():
        if cls.__name__ == name:
            return Failure(code, message)
    if name == "JobTimeoutException":
        return Failure("timeout", message)
    return Failure("predict_failed", f"{name}: {message}" if message else name)


def _timings(created_at: str, started_at: str, ended_at: str, ran: dict[str, Any]) -> Timings:
    created, started, ended = (
        parse_time(at, zone=None) for at in (created_at, started_at, ended_at)
    )
    return Timings(
        queue=_ms(created, started or ended),
        load=_measured_ms(ran.get("load")),
        predict=_measured_ms(ran.get("predict")),
        total=_ms(created, ended),
    )


def _ms(start: datetime | None, end: datetime | None) -> float:
    if start is None or end is None or (start.tzinfo is None) != (end.tzinfo is None):
        return 0.0
    return round(max(0.0, (end - start).total_seconds()) * 1000, 3)


def _measured_ms(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
