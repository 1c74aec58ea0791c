"""Problem responses (RFC 9457) for exceptions, from one table.

The middleware chain answers every exception by `problem_of`: ours by the table, werkzeug's by their
status. Any other becomes a 500 with a fixed text, and its cause is logged under the request's id.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from werkzeug.exceptions import HTTPException

from gateway.http import HttpResponse
from yard import errors
from yard.contract import wire

_log = structlog.get_logger("gateway")

#: Error class -> status and title. A class that is not listed has those of its nearest base.
TABLE: Mapping[type[errors.ModelyardError], tuple[int, str]] = {
    errors.InvalidJson: (400, "The body is not valid JSON"),
    errors.InvalidInput: (422, "The request is not valid"),
    errors.InvalidName: (422, "The name is not valid"),
    errors.TooLarge: (413, "The request is too large"),
    errors.IdempotencyMismatch: (422, "The idempotency key was used with another body"),
    errors.InvalidRequest: (422, "The request is not valid"),
    errors.UnknownModel: (404, "There is no such model"),
    errors.UnknownVersion: (404, "There is no such version"),
    errors.UnknownJob: (404, "There is no such job"),
    errors.NotFound: (404, "There is no such thing"),
    errors.NoActiveVersion: (409, "The model has no active version"),
    errors.JobEnded: (409, "The job has ended"),
    errors.RevisionMismatch: (412, "The route has changed"),
    errors.ModelUnavailable: (409, "The version does not load"),
    errors.Conflict: (409, "The present state does not allow it"),
    errors.InvalidRoute: (422, "The route is not valid"),
    errors.QueueFull: (429, "The queue is full"),
    errors.Unavailable: (503, "The service is not available"),
    errors.Timeout: (504, "The job did not end in time"),
}

_INTERNAL = (
    "Something went wrong here, not with the request. The log has it under this X-Request-Id."
)


def status_of(kind: type[errors.ModelyardError]) -> tuple[int, str] | None:
    """Returns the status and title of a class of errors; None for those that are our own fault."""
    return next((TABLE[base] for base in kind.__mro__ if base in TABLE), None)


def code_of(status: int) -> str:
    """Returns the code of a status that Flask itself refuses with: its phrase, in snake case."""
    return HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_")


def problem(status: int, code: str, title: str, detail: str, **members: Any) -> HttpResponse:
    """Returns a problem response; ``members`` are added to the standard ones."""
    known = {
        "type": f"urn:modelyard:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
    }
    headers = [("Content-Type", "application/problem+json")]
    return HttpResponse(status, headers, wire.dumps(known | members))


def problem_of(error: Exception) -> HttpResponse:
    """Returns the response for any exception; logs those that are our own fault."""
    if isinstance(error, errors.ModelyardError):
        return _of_ours(error)
    if isinstance(error, HTTPException):
        return _of_http(error)
    return _of_unknown(error)


def _of_ours(error: errors.ModelyardError) -> HttpResponse:
    found = status_of(type(error))
    if found is None:
        return _of_unknown(error)
    status, title = found
    response = problem(status, error.code, title, error.message, **_members(error))
    if isinstance(error, errors.QueueFull):
        response.headers.append(("Retry-After", str(error.retry_after_s)))
    elif isinstance(error, errors.Unavailable):
        response.headers.append(("Retry-After", "1"))
    return response


def _members(error: errors.ModelyardError) -> dict[str, Any]:
    """Returns the members of a problem that an error adds to the standard ones."""
    if isinstance(error, errors.InvalidInput) and error.errors:
        return {"errors": error.errors}
    if isinstance(error, errors.Timeout):
        return _job(error.job_id)
    if isinstance(error, errors.Unavailable) and len(error.job_ids) == 1:
        return _job(error.job_ids[0])
    return {}


def _job(job_id: str) -> dict[str, Any]:
    return {"job_id": job_id, "url": f"/v1/jobs/{job_id}"}


def _of_http(error: HTTPException) -> HttpResponse:
    """Returns the problem of 404, 405, 415 and the like, with their own headers (``Allow``)."""
    status = error.code or 500
    title = HTTPStatus(status).phrase
    response = problem(status, code_of(status), title, error.description or title)
    own = [(name, value) for name, value in error.get_headers() if name != "Content-Type"]
    return response._replace(headers=response.headers + own)


def _of_unknown(error: Exception) -> HttpResponse:
    _log.error("request failed", exc_info=error)
    return problem(500, "internal", "Internal error", _INTERNAL)
