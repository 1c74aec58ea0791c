"""For clients: submit a job, wait for it, ask for it, cancel it.

A request becomes a `yard.contract.values.Request`, then a prepared job, checked against the
version's signature, and one round trip queues it with others. All but cancelling is done on the
event loop.
"""

from __future__ import annotations

from flask import Response
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.tag import Tag

from gateway.api import openapi, schemas
from gateway.api.async_views import AsyncViews, response
from gateway.api.parameters import (
    asked,
    job_id_in_path,
    json_in_body,
    model_in_path,
    preferred_wait,
    seconds_in_query,
)
from gateway.http import SMALL_BYTES, HttpRequest, HttpResponse, json_response
from gateway.services import Services, services
from producer import Handle
from producer.submission import PreparedJob
from yard import errors
from yard.contract import Job, JobStatus, Request, new_id, wire

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

blueprint = APIBlueprint(
    "jobs",
    __name__,
    abp_tags=[Tag(name="jobs", description="Submit jobs, wait for them, cancel them.")],
)
async_views = AsyncViews(blueprint)


@async_views(
    "POST",
    "/v1/models/<model>/jobs",
    request_body=openapi.body(schemas.JobRequest),
    **openapi.call(
        "submitJob",
        openapi.MODEL,
        openapi.IDEMPOTENCY_KEY,
        openapi.PREFER,
        answers={202: schemas.Job, 200: schemas.Job},
        refuses=_REFUSES,
        statuses=(415,),
    ),
)
async def submit(call: HttpRequest, services: Services) -> HttpResponse:
    """Queue a job.

    202 is a promise: the job ends exactly once, whatever is killed. With `Prefer: wait=SECONDS` the
    answer is 200 with the ended job, if it ends in time.
    """
    request, wait_s = await _request(call, services), preferred_wait(call)
    waits = services.waits
    with waits.slot() as may_wait:
        prepared = await _prepare(call, services, request)
        outcome: Job | Handle
        if may_wait and wait_s > 0:
            outcome = await waits.predict(prepared, wait_s)
        else:
            outcome, wait_s = await waits.submit(prepared), 0.0
    job = outcome if isinstance(outcome, Job) else await _accepted(outcome, services)
    is_asked = wait_s > 0 or (isinstance(outcome, Handle) and outcome.is_repeat)
    headers = [("Location", f"/v1/jobs/{job.id}")]
    if wait_s > 0:
        headers.append(("Preference-Applied", f"wait={wait_s:g}"))
    return _answer(call, job, 200 if is_asked and job.status.is_terminal else 202, headers)


@async_views(
    "POST",
    "/v1/models/<model>/predict",
    request_body=openapi.body(schemas.JobRequest),
    **openapi.call(
        "predict",
        openapi.MODEL,
        openapi.TIMEOUT,
        openapi.IDEMPOTENCY_KEY,
        answers={200: schemas.Job},
        refuses=(*_REFUSES, errors.Timeout),
        statuses=(415,),
    ),
)
async def predict(call: HttpRequest, services: Services) -> HttpResponse:
    """Queue a job and wait for it.

    200 with the ended job, also if it failed: its `status` says so. 504 has the id of a job that
    did not end in time; it lives on.
    """
    request = await _request(call, services)
    timeout_s = seconds_in_query(call, "timeout", _PREDICT_S)
    with services.waits.slot() as may_wait:
        if not may_wait:
            raise errors.Unavailable("too many requests wait here: try again, or submit and poll")
        prepared = await _prepare(call, services, request)
        outcome = await services.waits.predict(prepared, timeout_s)
    if isinstance(outcome, Job):
        return _answer(call, outcome)
    _note(call, outcome)
    raise errors.Timeout(
        f"job {outcome.id} did not end within {timeout_s:g} s; it lives on", outcome.id
    )


@async_views(
    "GET",
    "/v1/jobs/<job_id>",
    **openapi.call(
        "getJob",
        openapi.JOB_ID,
        openapi.WAIT,
        answers={200: schemas.Job},
        refuses=(errors.UnknownJob, errors.InvalidInput, errors.Unavailable),
    ),
)
async def get(call: HttpRequest, services: Services) -> HttpResponse:
    """The job as it is now, or as soon as it ends.

    With `wait`, the answer comes when the job ends, and at the end of the wait at the latest.
    """
    job_id, wait_s = job_id_in_path(call), seconds_in_query(call, "wait", 0.0)
    waits = services.waits
    if wait_s == 0:
        return _answer(call, await waits.look(job_id))
    with waits.slot() as may_wait:
        return _answer(call, await waits.read(job_id, wait_s if may_wait else 0.0))


@blueprint.delete(
    "/v1/jobs/<job_id>",
    **openapi.call(
        "cancelJob",
        openapi.JOB_ID,
        answers={200: schemas.Job},
        refuses=(errors.UnknownJob, errors.JobEnded, errors.Unavailable),
    ),
)
def cancel() -> Response:
    """Cancel a job that has not ended.

    Repeating is fine. The output of a job that a worker has started is dropped.
    """
    call = asked()
    return response(_answer(call, services().client.cancel(job_id_in_path(call))))


def _answer(
    call: HttpRequest, job: Job, status: int = 200, headers: list[tuple[str, str]] | None = None
) -> HttpResponse:
    _note(call, job)
    return json_response(wire.dumps(job.to_dict()), status, headers)


def _note(call: HttpRequest, job: Job | Handle) -> None:
    noted = call.noted
    noted["job"], noted["model"], noted["version"] = job.id, job.model, job.version


async def _request(call: HttpRequest, services: Services) -> Request:
    """The job that is asked for; its rows are not looked at yet.

    Raises:
        InvalidRequest: The body, or a member of it, is not as it must be.
        UnknownModel: The path names none.
    """
    most_bytes = services.settings.body_bytes
    return await services.threads.aside(len(call.body), _read, call, most_bytes)


def _read(call: HttpRequest, most_bytes: int) -> Request:
    model = model_in_path(call)
    wanted = schemas.check(schemas.JobRequest, json_in_body(call, most_bytes))
    key = call.fields.get("idempotency-key", None)
    return Request(model, idempotency_key=key, **dict(wanted))


async def _prepare(call: HttpRequest, services: Services, request: Request) -> PreparedJob:
    """The same, checked against the signature that its rows will most likely meet.

    Raises:
        ModelyardError: It can be no job, or Redis does not answer.
    """
    job_id = new_id()
    if len(call.body) <= SMALL_BYTES:
        return await services.waits.prepare(request, job_id)
    return await services.threads.aside(
        len(call.body), services.client.submitter.prepare, request, job_id
    )


async def _accepted(handle: Handle, services: Services) -> Job:
    """The job as it stands; Redis has accepted it, so no later failure may hide it."""
    try:
        return await services.waits.look(handle.id)
    except errors.ModelyardError:
        return Job(handle.id, JobStatus.QUEUED, handle.model, handle.version, handle.queue)
