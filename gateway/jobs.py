"""For clients: submit a job, wait for it, ask for it, cancel it.

A request becomes a `producer.contract.Request`, one call of the client queues it, and the mailbox
wakes the thread that waits when the job has ended.
"""

from __future__ import annotations

import secrets

from flask import Response, request
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.tag import Tag

from gateway import bodies, describe
from gateway.intake import (
    job_id_in_path,
    model_in_path,
    preferred_wait,
    seconds_in_query,
)
from gateway.observe import note
from gateway.services import services
from producer import errors, wire
from producer.client import Handle
from producer.contract import Job, JobStatus, Request

_PREDICT_S = 30.0

_REFUSES = (
    errors.InvalidJson,
    errors.InvalidInput,
    errors.UnknownModel,
    errors.UnknownVersion,
    errors.NoActiveVersion,
    errors.TooLarge,
    errors.IdempotencyMismatch,
    errors.QueueFull,
    errors.Unavailable,
)

jobs = APIBlueprint(
    "jobs",
    __name__,
    abp_tags=[Tag(name="jobs", description="Submit jobs, wait for them, cancel them.")],
)


@jobs.post(
    "/v1/models/<model>/jobs",
    request_body=describe.body(bodies.JobRequest),
    **describe.call(
        "submitJob",
        describe.MODEL,
        describe.IDEMPOTENCY_KEY,
        describe.PREFER,
        answers={202: bodies.Job, 200: bodies.Job},
        refuses=_REFUSES,
        statuses=(415,),
    ),
)
def submit() -> Response:
    """Queue a job.

    202 is a promise: the job ends exactly once, whatever is killed. With `Prefer: wait=SECONDS` the
    answer is 200 with the ended job, if it ends in time.
    """
    wanted, job_id, wait_s = _request(), secrets.token_hex(16), preferred_wait()
    waits = services().waits
    with waits.slot() as may_wait:
        outcome: Job | Handle
        if may_wait and wait_s > 0:
            outcome = waits.submit(wanted, job_id, wait_s)
        else:
            outcome, wait_s = services().client.submit_request(wanted, job_id), 0.0
    job = outcome if isinstance(outcome, Job) else _accepted(outcome)
    is_asked = wait_s > 0 or (isinstance(outcome, Handle) and outcome.is_repeat)
    response = answer(job, 200 if is_asked and job.status.is_terminal else 202)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if wait_s > 0:
        response.headers["Preference-Applied"] = f"wait={wait_s:g}"
    return response


@jobs.post(
    "/v1/models/<model>/predict",
    request_body=describe.body(bodies.JobRequest),
    **describe.call(
        "predict",
        describe.MODEL,
        describe.TIMEOUT,
        describe.IDEMPOTENCY_KEY,
        answers={200: bodies.Job},
        refuses=(*_REFUSES, errors.Timeout),
        statuses=(415,),
    ),
)
def predict() -> Response:
    """Queue a job and wait for it.

    200 with the ended job, also if it failed: its `status` says so. 504 has the id of a job that
    did not end in time; it lives on.
    """
    wanted, timeout_s = _request(), seconds_in_query("timeout", _PREDICT_S)
    waits = services().waits
    with waits.slot() as may_wait:
        if not may_wait:
            raise errors.Unavailable("too many requests wait here: try again, or submit and poll")
        outcome = waits.submit(wanted, secrets.token_hex(16), timeout_s)
    if isinstance(outcome, Job):
        return answer(outcome)
    _note(outcome)
    raise errors.Timeout(
        f"job {outcome.id} did not end within {timeout_s:g} s; it lives on", outcome.id
    )


@jobs.get(
    "/v1/jobs/<job_id>",
    **describe.call(
        "getJob",
        describe.JOB_ID,
        describe.WAIT,
        answers={200: bodies.Job},
        refuses=(errors.UnknownJob, errors.InvalidInput, errors.Unavailable),
    ),
)
def get() -> Response:
    """The job as it is now, or as soon as it ends.

    With `wait`, the answer comes when the job ends, and at the end of the wait at the latest.
    """
    job_id, wait_s = job_id_in_path(), seconds_in_query("wait", 0.0)
    if wait_s == 0:
        return answer(services().client.get(job_id))
    waits = services().waits
    with waits.slot() as may_wait:
        return answer(waits.read(job_id, wait_s if may_wait else 0.0))


@jobs.delete(
    "/v1/jobs/<job_id>",
    **describe.call(
        "cancelJob",
        describe.JOB_ID,
        answers={200: bodies.Job},
        refuses=(errors.UnknownJob, errors.JobEnded, errors.Unavailable),
    ),
)
def cancel() -> Response:
    """Cancel a job that has not ended.

    Repeating is fine. The output of a job that a worker has started is dropped.
    """
    return answer(services().client.cancel(job_id_in_path()))


def answer(job: Job, status: int = 200) -> Response:
    """A job as the body of a response."""
    _note(job)
    return Response(wire.dumps(job.to_dict()), status, mimetype="application/json")


def _note(job: Job | Handle) -> None:
    note(job=job.id, model=job.model, version=job.version)


def _request() -> Request:
    """The job that the request asks for; its rows are not looked at yet.

    Raises:
        InvalidRequest: The body, or a member of it, is not as it must be.
        UnknownModel: The path names none.
    """
    model = model_in_path()
    wanted = bodies.check(bodies.JobRequest, services().intake.json())
    return Request(model, idempotency_key=request.headers.get("Idempotency-Key"), **dict(wanted))


def _accepted(handle: Handle) -> Job:
    """The job as it stands; Redis has accepted it, so no later failure may hide it."""
    try:
        return handle.get()
    except errors.ModelyardError:
        return Job(handle.id, JobStatus.QUEUED, handle.model, handle.version, handle.queue)
