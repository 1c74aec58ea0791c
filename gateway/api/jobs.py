"""The jobs API: submit a job, wait for it, read it, cancel it.

A request's body becomes a `yard.contract.Request`, then a prepared job, checked against the
version's signature, and one round trip queues it with others. All operations but cancelling run on
the event loop.
"""

from __future__ import annotations

from flask import Response
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.tag import Tag

from gateway.api import openapi, schemas
from gateway.api.async_views import AsyncViews
from gateway.api.flask_views import current_request, flask_response
from gateway.api.parameters import (
    idempotency_key,
    job_id_in_path,
    json_in_body,
    model_in_path,
    preferred_wait,
    seconds_in_query,
    version_in_query,
)
from gateway.http import SMALL_BYTES, Headers, HttpRequest, HttpResponse, json_response
from gateway.services import Services, services
from producer import Handle
from producer.submission import PreparedJob
from yard import errors
from yard.contract import Job, JobStatus, Request, new_id, wire

_PREDICT_TIMEOUT_S = 30.0

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
        openapi.VERSION_IN_QUERY,
        openapi.IDEMPOTENCY_KEY,
        openapi.PREFER,
        answers={202: schemas.Job, 200: schemas.Job},
        refuses=_REFUSES,
        statuses=(415,),
    ),
)
async def submit(request: HttpRequest, services: Services) -> HttpResponse:
    """Queue a job.

    202 is a promise: the job ends exactly once, whatever is killed. With `Prefer: wait=SECONDS` the
    answer is 200 with the ended job, if it ends in time.
    """
    client, wait_s = services.async_client, preferred_wait(request)
    with client.slot() as may_wait:
        outcome: Job | Handle
        if may_wait and wait_s > 0:
            outcome = await client.predict(await _prepared(request, services), wait_s)
        else:
            outcome, wait_s = await client.submit(await _prepared(request, services)), 0.0
    job = outcome if isinstance(outcome, Job) else await _accepted(outcome, services)
    may_have_ended = wait_s > 0 or (isinstance(outcome, Handle) and outcome.is_repeat)
    headers = [("Location", f"/v1/jobs/{job.id}")]
    if wait_s > 0:
        headers.append(("Preference-Applied", f"wait={wait_s:g}"))
    status = 200 if may_have_ended and job.status.is_terminal else 202
    return _answer(request, job, status, headers)


@async_views(
    "POST",
    "/v1/models/<model>/predict",
    request_body=openapi.body(schemas.JobRequest),
    **openapi.call(
        "predict",
        openapi.MODEL,
        openapi.TIMEOUT,
        openapi.VERSION_IN_QUERY,
        openapi.IDEMPOTENCY_KEY,
        answers={200: schemas.Job},
        refuses=(*_REFUSES, errors.Timeout),
        statuses=(415,),
    ),
)
async def predict(request: HttpRequest, services: Services) -> HttpResponse:
    """Queue a job and wait for it.

    200 with the ended job, also if it failed: its `status` says so. 504 has the id of a job that
    did not end in time; it lives on.
    """
    timeout_s = seconds_in_query(request, "timeout", _PREDICT_TIMEOUT_S)
    with services.async_client.slot() as may_wait:
        if not may_wait:
            raise errors.Unavailable("too many requests wait here: try again, or submit and poll")
        prepared = await _prepared(request, services)
        waiting = services.async_client.predict(prepared, timeout_s)
        del prepared  # the wait must not hold the memory of its rows
        outcome = await waiting
    if isinstance(outcome, Job):
        return _answer(request, outcome)
    _annotate(request, outcome)
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
async def get(request: HttpRequest, services: Services) -> HttpResponse:
    """The job as it is now, or as soon as it ends.

    With `wait`, the answer comes when the job ends, and at the end of the wait at the latest.
    """
    job_id, wait_s = job_id_in_path(request), seconds_in_query(request, "wait", 0.0)
    client = services.async_client
    if wait_s == 0:
        return _answer(request, await client.get(job_id))
    with client.slot() as may_wait:
        return _answer(request, await client.wait(job_id, wait_s if may_wait else 0.0))


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
    request = current_request()
    return flask_response(_answer(request, services().client.cancel(job_id_in_path(request))))


def _answer(
    request: HttpRequest, job: Job, status: int = 200, headers: Headers | None = None
) -> HttpResponse:
    _annotate(request, job)
    return json_response(wire.dumps(job.to_dict()), status, headers)


def _annotate(request: HttpRequest, job: Job | Handle) -> None:
    line = request.annotations
    line["job"], line["model"], line["version"] = job.id, job.model, job.version


async def _prepared(request: HttpRequest, services: Services) -> PreparedJob:
    """Returns the job that the body asks for, checked; the body is not held any more.

    Its rows are checked against the signature that they will most likely meet.

    Raises:
        ModelyardError: The request is invalid, or Redis does not answer.
    """
    size_bytes, job_id = len(request.body), new_id()
    wanted = await services.threads.run(size_bytes, _read, request, services.settings.body_bytes)
    if size_bytes <= SMALL_BYTES:
        return await services.async_client.prepare(wanted, job_id)
    return await services.threads.run(size_bytes, services.client.submitter.prepare, wanted, job_id)


def _read(request: HttpRequest, max_bytes: int) -> Request:
    model, version, key = (
        model_in_path(request),
        version_in_query(request),
        idempotency_key(request),
    )
    checked = dict(schemas.check(schemas.JobRequest, json_in_body(request, max_bytes)))
    if version is not None and checked["version"] not in (None, version):
        raise errors.InvalidInput.at(["version"], "the query and the body name different ones")
    checked["version"] = version or checked["version"]
    return Request(model, idempotency_key=key, **checked)


async def _accepted(handle: Handle, services: Services) -> Job:
    """Returns the job as it stands; Redis has accepted it, so no later failure may hide it."""
    try:
        return await services.async_client.get(handle.id)
    except errors.ModelyardError:
        return Job(handle.id, JobStatus.QUEUED, handle.model, handle.version, handle.queue)
