"""The jobs API: submit a job, wait for it, read it, cancel it.

A request's body becomes a `yard.contract.Request`, then a prepared job, checked against the
version's signature, and one round trip queues it with others. All operations but cancelling run on
the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from flask import Response
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.tag import Tag

from gateway.api import openapi, schemas
from gateway.api.async_views import AsyncViews
from gateway.api.flask_views import current_request, flask_response
from gateway.api.parameters import (
    body_of,
    idempotency_key,
    job_id_in_path,
    model_in_path,
    preferred_wait,
    seconds_in_query,
    version_in_query,
)
from gateway.http import SMALL_BYTES, Headers, HttpRequest, HttpResponse, json_response
from gateway.services import Services, services
from producer import Client, Handle
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
        job_id, commit = await _checked(request, services)
        outcome: Job | Handle
        if may_wait and wait_s > 0:
            waiting = client.predict(job_id, commit, wait_s)
            del commit  # the wait must not hold what it holds
            outcome = await waiting
        else:
            outcome, wait_s = await client.submit(job_id, commit), 0.0
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
        job_id, commit = await _checked(request, services)
        waiting = services.async_client.predict(job_id, commit, timeout_s)
        del commit  # the wait must not hold what it holds
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


#: Queues a job that has been checked, or is in the process that checks it.
_Commit = Callable[[], "asyncio.Future[Handle]"]


async def _checked(request: HttpRequest, services: Services) -> tuple[str, _Commit]:
    """Returns the id of the job that the body asks for, and what queues it.

    The rows of a small body are checked here, against the signature that they will most likely
    meet; a large body is read by another process. The request lets go of its body.

    Raises:
        ModelyardError: The request is invalid, or Redis does not answer.
    """
    job_id, model, version = new_id(), model_in_path(request), version_in_query(request)
    key, body = idempotency_key(request), body_of(request, services.settings.body_bytes)
    if len(body) <= SMALL_BYTES:
        wanted = _wanted(body, model, version, key)
        return job_id, partial(
            services.async_client.commit, await services.async_client.prepare(wanted, job_id)
        )
    return job_id, partial(
        asyncio.ensure_future, _commit_large(services, job_id, body, model, version, key)
    )


async def _commit_large(
    services: Services, job_id: str, body: bytes, model: str, version: str | None, key: str | None
) -> Handle:
    """Has another process read a body and queue its job."""
    try:
        known = await services.body_processes.run(_submit_large, job_id, body, model, version, key)
    except BrokenProcessPool:  # it may have queued the job before
        raise errors.Unavailable("the process that read the body has died", [job_id]) from None
    return Handle(*known, services.client)


def _submit_large(
    client: Client, job_id: str, body: bytes, model: str, version: str | None, key: str | None
) -> tuple[str, str, str, str, bool]:
    """Reads a body and queues its job; returns the members of its handle."""
    handle = client.submit_request(_wanted(body, model, version, key), job_id)
    return handle.id, handle.model, handle.version, handle.queue, handle.is_repeat


def _wanted(body: bytes, model: str, version: str | None, key: str | None) -> Request:
    """Returns the job that a body asks for; its rows are not checked.

    Raises:
        InvalidJson, InvalidInput: The body, or a member of it, is invalid.
    """
    checked = dict(schemas.check(schemas.JobRequest, wire.loads(body)))
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
