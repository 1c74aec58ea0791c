"""The one callable that a job may name, for a stock ``rq worker``.

Our own workers never call it: they predict whole batches. A stock worker runs one job at a time, in
a fork for each, and loads the model there; its checks, predictions and results are the same.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from redis import Redis
from rq import get_current_job
from rq.job import Job

from models.runtimes import Loaded, load
from models.store import open_repository
from worker.inference import check, predict_members
from yard.contract import Call, Failure, ModelRef, decode_call, encode_call, parse_queue
from yard.errors import InvalidJob, NotFound, VersionGone, job_failure
from yard.routing import resolve, routing_point
from yard.settings import Settings


def predict(**arguments: Any) -> dict[str, Any]:
    """Return the result of one job, as `producer` describes it.

    Args:
        arguments: ``instances`` or ``inputs``, and more of `yard.contract.payload.JOB_ARGUMENTS`.

    Raises:
        ModelyardError: The job is refused or fails; its class name ends RQ's traceback, from which
            the gateway reads the code.
    """
    job = get_current_job()
    if job is None:
        raise InvalidJob("predict runs in a job, it is no function to call")
    settings = Settings.load()
    call = decode_call(encode_call(arguments), settings.body_bytes)
    _check_push(job, call)
    ref = _version_of(job.origin, call.version, call.routing_key, job.connection)
    model = _model(ref, settings)
    member = check(job.id, call, model.signature, settings.rows)
    outcome = (
        member
        if isinstance(member, Failure)
        else predict_members([member], model.predict, model.signature)[job.id]
    )
    if isinstance(outcome, Failure):
        raise job_failure(outcome.code, outcome.message, outcome.row)
    return outcome


def _check_push(job: Job, call: Call) -> None:
    """Refuse a job that comes too late, or that was pushed onto another version's queue.

    Raises:
        ModelyardError: It is refused.
    """
    if call.deadline_ms is not None and job.enqueued_at is not None:
        waited_s = (datetime.now(UTC) - job.enqueued_at).total_seconds()
        if waited_s * 1000 > call.deadline_ms:
            raise job_failure("expired", "the job was not started before its deadline")
    served = job.origin.partition("@")[2]
    is_ours = bool(job.connection.hexists(job.key, "my_rows"))  # then an alias was resolved
    if served and call.version not in (None, served) and not is_ours:
        raise InvalidJob(
            f"the job asks for version {call.version!r} and was pushed onto {job.origin!r}"
        )


def _version_of(
    queue: str, version: str | None, routing_key: str | None, connection: Redis
) -> ModelRef:
    """Return a queue's version; for an unversioned queue, the one that the keys choose now."""
    parsed = parse_queue(queue)
    if parsed is None:
        raise InvalidJob(f"{queue!r} is no queue of a model")
    model, served = parsed
    if served is not None:
        return ModelRef(model, served)
    return resolve(connection, model, version, routing_point(model, routing_key))


@lru_cache(maxsize=8)
def _model(ref: ModelRef, settings: Settings) -> Loaded:
    repository = open_repository(settings)
    try:
        return load(repository.manifest(ref), repository)
    except NotFound as error:
        raise VersionGone(error.message) from None
