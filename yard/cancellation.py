"""Cancellation of a job, for the client and for RQ's stop command to a worker."""

from __future__ import annotations

from redis import Redis

from yard.broker import Script
from yard.contract import check_job_id

_CANCEL = Script("yard", "cancel")


def cancel_job(redis: Redis, job_id: str, result_ttl_s: int) -> bytes:
    """Cancels a job; returns ``canceled`` (now or before), ``ended`` or ``unknown``.

    Raises:
        InvalidName: The id is outside the alphabet.
        RedisError: Redis does not answer.
    """
    outcome: bytes = _CANCEL(redis, [check_job_id(job_id), result_ttl_s])
    return outcome
