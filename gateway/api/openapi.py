"""Parameters, bodies and responses of operations for the OpenAPI document.

Views read requests themselves (`gateway.api.parameters`), so that the body of a prediction is
checked once; flask-openapi gets from here what it would otherwise read from signatures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.parameter import Parameter
from pydantic import BaseModel

from gateway.api.schemas import JobRequest, Problem, RouteChange
from gateway.middleware import code_of, status_of
from yard.errors import ModelyardError

#: Request bodies that the document names; flask-openapi registers those of responses.
REQUESTS: tuple[type[BaseModel], ...] = (JobRequest, RouteChange)

_REF = "#/components/schemas/"
_SECONDS = {"type": "number", "minimum": 0, "maximum": 60}
_PROBLEM = {"application/problem+json": {"schema": {"$ref": f"{_REF}{Problem.__name__}"}}}


def _parameter(name: str, place: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "description": description,
        "schema": schema,
    }


_NAME = {"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,62}$"}
MODEL = _parameter("model", "path", "The model's name.", _NAME) | {"example": "iris"}
VERSION = _parameter("version", "path", "The version's name.", _NAME) | {"example": "v1"}
JOB_ID = _parameter(
    "job_id", "path", "The job's id.", {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
)
TIMEOUT = _parameter("timeout", "query", "Seconds to wait for the job.", _SECONDS | {"default": 30})
WAIT = _parameter("wait", "query", "Seconds to wait for the job's end.", _SECONDS | {"default": 0})
WARM = _parameter(
    "wait",
    "query",
    "Seconds to wait, at most, until the pools have loaded what is to get traffic; without it "
    "`MODELYARD_WARM_S`. 0: the change is made at once.",
    _SECONDS | {"default": 30},
)
PATTERN = _parameter(
    "model",
    "query",
    "Only models whose name matches, as a shell matches file names: `iris`, `team-*`.",
    {"type": "string", "maxLength": 200, "default": "*"},
)
VERSION_IN_QUERY = _parameter(
    "version", "query", "As the body's `version`: a version or an alias.", _NAME
)
PREFER = _parameter(
    "Prefer",
    "header",
    "`wait=SECONDS` (RFC 7240): answer when the job has ended, or after so long.",
    {"type": "string", "examples": ["wait=10"]},
)
IDEMPOTENCY_KEY = _parameter(
    "Idempotency-Key",
    "header",
    "The same key and body give the same job, however often they are sent.",
    {"type": "string", "minLength": 1, "maxLength": 256},
)
IF_MATCH = _parameter(
    "If-Match",
    "header",
    "The `ETag` of the route that is to be changed; without it, or as `*`, any.",
    {"type": "string", "examples": ['"7"']},
)


def call(
    operation_id: str,
    *parameters: dict[str, Any],
    answers: Mapping[int, type[BaseModel] | dict[str, Any]],
    refuses: tuple[type[ModelyardError], ...] = (),
    statuses: tuple[int, ...] = (),
) -> dict[str, Any]:
    """Returns an operation's keyword arguments for a blueprint's ``get``, ``post``, ...

    Args:
        operation_id: The operation's name in generated clients.
        parameters: Parameters of the path, the query and the headers.
        answers: Statuses of success with their bodies, or with response objects of OpenAPI.
        refuses: Errors that the operation can answer with.
        statuses: Statuses of other problems that it can answer with.
    """
    codes = {status: [f"`{code_of(status)}`"] for status in statuses}
    for kind in refuses:
        status, _ = status_of(kind) or (500, "")
        codes.setdefault(status, []).append(f"`{kind.code}`")
    problems = {
        status: {"description": ", ".join(names), "content": _PROBLEM}
        for status, names in sorted(codes.items())
    }
    other = {"default": {"description": "Any other problem.", "content": _PROBLEM}}
    return {
        "operation_id": operation_id,
        "openapi_extensions": {"parameters": list(parameters)},
        "responses": {**answers, **problems, **other},
    }


def query_names(blueprints: Iterable[APIBlueprint]) -> dict[tuple[str, str], frozenset[str]]:
    """Returns the names of the query's members of each operation, by method and path template.

    Health checks and the metrics are not in it: who probes may add what it likes.
    """
    return {
        (method.upper(), path): query_members(operation.parameters or ())
        for blueprint in blueprints
        for path, item in blueprint.paths.items()
        for method in ("get", "put", "post", "delete", "patch")
        if path.startswith("/v1/") and (operation := getattr(item, method)) is not None
    }


def query_members(parameters: Iterable[Parameter]) -> frozenset[str]:
    """Returns the names of those parameters that are members of the query."""
    return frozenset(p.name for p in parameters if p.param_in.value == "query")


def body(model: type[BaseModel]) -> dict[str, Any]:
    """Returns the ``request_body`` of an operation that takes a ``model``, one of `REQUESTS`."""
    return {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": f"{_REF}{model.__name__}"}}},
    }
