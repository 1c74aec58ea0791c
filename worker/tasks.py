"""The one callable that a job may name, for a stock ``rq worker``.

Our own workers never call it: they predict whole batches. A stock worker runs one job at a time, in
a fork for each, and loads the model there; its checks, predictions and results are the same.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from types import FrameType
from typing import Any

from redis import Redis
from rq import get_current_job
from rq.job import Job
from rq.timeouts import BaseTimeoutException

from models.runtimes import Loaded
from models.store import open_repository
from worker.inference import Loader, check, predict_members
from yard.contract import Call, Failure, ModelRef, decode_call, encode_call, parse_queue
from yard.errors import InvalidJob, JobTimeout, ModelUnavailable, NotFound, job_failure
from yard.routing import resolve, routing_point
from yard.settings import Settings

#: Most versions that a worker without forks keeps loaded.
_MOST_LOADED = 8

_loaded: dict[tuple[ModelRef, str], Loaded] = {}


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
    with _insistent_alarm() as has_rung:
        try:
            return _run(job, arguments)
        except BaseException as error:
            if has_rung.is_set() or isinstance(error, BaseTimeoutException):
                raise JobTimeout("the job ran longer than its timeout") from None
            raise


def _run(job: Job, arguments: dict[str, Any]) -> dict[str, Any]:
    settings = Settings.load()
    call = decode_call(encode_call(arguments), settings.body_bytes)
    _check_push(job, call)
    ref = _version_of(job.origin, call.version, call.routing_key, job.connection)
    model = _model(ref, settings, job.connection)
    member = check(job.id, call, model.signature, settings.rows)
    outcome = (
        member
        if isinstance(member, Failure)
        else predict_members(
            [member], model.predict, model.signature, raised_on=(BaseTimeoutException,)
        )[job.id]
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
        seconds, micros = job.connection.time()
        waited_s = seconds + micros / 1e6 - job.enqueued_at.replace(tzinfo=UTC).timestamp()
        if waited_s * 1000 > call.deadline_ms:
            raise job_failure("expired", "the job was not started before its deadline")
    served = job.origin.partition("@")[2]
    is_ours = bool(job.connection.hexists(job.key, "my_rows"))  # then an alias was resolved
    if served and call.version not in (None, served) and not is_ours:
        raise InvalidJob(
            f"the job asks for version {call.version!r} and was pushed onto {job.origin!r}"
        )


@contextmanager
def _insistent_alarm() -> Iterator[threading.Event]:
    """Let RQ's alarm, once the job's time is up, ring again each second until the job ends.

    RQ raises once, and code that catches every exception, as models and their libraries do, would
    run on without a limit.

    Yields:
        Set once it has rung.
    """
    has_rung = threading.Event()
    rings = signal.getsignal(signal.SIGALRM)
    if not callable(rings) or threading.current_thread() is not threading.main_thread():
        yield has_rung  # RQ's alarm is another, or there is none
        return

    def ring(number: int, frame: FrameType | None) -> None:
        has_rung.set()
        signal.alarm(1)
        rings(number, frame)

    signal.signal(signal.SIGALRM, ring)
    try:
        yield has_rung
    finally:
        if has_rung.is_set():
            signal.alarm(0)
        signal.signal(signal.SIGALRM, rings)


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


def _model(ref: ModelRef, settings: Settings, connection: Redis) -> Loaded:
    """Return what is published of a version, checked as our own workers check it.

    Raises:
        VersionGone: It is no longer published, or was retired and its last job has ended.
        ModelUnavailable: It does not load, or the store holds other bytes than were published.
    """
    loader = Loader(open_repository(settings), connection, lambda action: action())
    key = (ref, loader.published_digest(ref))
    if key not in _loaded:
        while len(_loaded) >= _MOST_LOADED:
            del _loaded[next(iter(_loaded))]
        try:
            _loaded[key] = loader(ref)
        except NotFound as error:
            raise ModelUnavailable(f"{ref}: {error.message}") from None
    return _loaded[key]
