"""Models of HTTP bodies: they check requests, and the OpenAPI document shows them.

Requests are checked strictly: nothing is coerced, and unknown members are errors. Rows are not
checked here but in `yard.contract.validation`, once, against the version's signature. Models
of responses document values of `producer` and `yard`; tests compare the two.
"""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.config import JsonDict
from pydantic_core import ErrorDetails, PydanticCustomError

from yard.contract import MAX_INPUT_ERRORS as _MOST
from yard.contract import Signature as SignatureValue
from yard.contract import is_name
from yard.errors import InvalidInput

_IRIS: JsonDict = {"instances": [[5.1, 3.5, 1.4, 0.2]]}
_JOB: JsonDict = {
    "id": "0f9d2c0e6a5b4c3d8e7f6a5b4c3d2e1f",
    "status": "finished",
    "model": "iris",
    "version": "v1",
    "queue": "iris@v1",
    "created_at": "2026-01-02T03:04:05.678901Z",
    "started_at": "2026-01-02T03:04:05.680101Z",
    "ended_at": "2026-01-02T03:04:05.681001Z",
    "attempts": 1,
    "result": {
        "predictions": ["setosa"],
        "probabilities": [[0.98, 0.01, 0.01]],
        "classes": ["setosa", "versicolor", "virginica"],
    },
    "timings_ms": {"queue": 1.2, "load": 0.0, "predict": 0.4, "total": 2.1},
    "batch_size": 17,
    "url": "/v1/jobs/0f9d2c0e6a5b4c3d8e7f6a5b4c3d2e1f",
}

#: Faults that pydantic finds, in the words of `yard.contract.validation`.
_FAULTS = {
    "model_type": "must be an object",
    "dict_type": "must be an object",
    "list_type": "must be a list",
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
}


def _is_name(value: str) -> str:
    if not is_name(value):
        raise PydanticCustomError(
            "name", "is no name: 1 to 63 of a-z 0-9 . _ -, the first a letter or digit, no '..'"
        )
    return value


Name = Annotated[str, AfterValidator(_is_name)]


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class JobRequest(_Request):
    """A job to queue: exactly one of `instances` and `inputs`."""

    model_config = ConfigDict(json_schema_extra={"examples": [_IRIS]})

    instances: list[Any] | None = Field(
        default=None,
        description="Rows: lists in signature order, objects by feature name, or bare values "
        "where there is one input.",
    )
    inputs: dict[str, list[Any]] | None = Field(
        default=None, description="Columns by feature name, all of one length."
    )
    version: Name | None = Field(
        default=None, description="A version or an alias; without it the route decides."
    )
    routing_key: str | None = Field(
        default=None,
        max_length=1024,
        description="The same key gets the same version while the route stands.",
    )
    outputs: list[str] | None = Field(
        default=None, description="Which outputs to return; all without it."
    )
    deadline_ms: int | None = Field(
        default=None,
        ge=1,
        le=2**40,
        description="If not started within this many milliseconds, the job fails with `expired`.",
    )


class RouteChange(_Request):
    """A change of a route: the active version, the weights, or both.

    `active` alone sends all traffic there and clears the weights; `weights` alone leave the active
    version as it is, and an empty object clears them.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"weights": {"v1": 90, "v2": 10}}]})

    active: Name | None = Field(default=None, description="The version that gets the traffic.")
    weights: dict[Name, float] | None = Field(
        default=None, description="Version to weight: the traffic splits in proportion."
    )


Checked = TypeVar("Checked", bound=_Request)


def check(model: type[Checked], value: Any) -> Checked:
    """Returns a request's body as one of the models here.

    Raises:
        InvalidInput: Lists the first places at fault.
    """
    if isinstance(value, dict) and len(value) > len(model.model_fields):
        # pydantic would make an error of each member: half a million of them take seconds.
        unknown = islice((name for name in value if name not in model.model_fields), _MOST)
        raise InvalidInput.of([_unknown(model, [name[:80]]) for name in unknown])
    try:
        return model.model_validate(value)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        raise InvalidInput.of([_fault(model, fault) for fault in faults[:_MOST]]) from None


def _fault(model: type[BaseModel], fault: ErrorDetails) -> dict[str, Any]:
    loc = [part if isinstance(part, int) else part[:80] for part in fault["loc"] if part != "[key]"]
    if fault["type"] == "extra_forbidden":
        return _unknown(model, loc)
    msg = fault["msg"].replace("Input should", "must").replace("String should", "must")
    return {"loc": loc, "msg": _FAULTS.get(fault["type"], msg)}


def _unknown(model: type[BaseModel], loc: list[Any]) -> dict[str, Any]:
    return {"loc": loc, "msg": f"unknown member; there are {', '.join(model.model_fields)}"}


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class JobError(_Answer):
    """The error of a failed job."""

    code: str = Field(description="Stable: `invalid_input`, `expired`, `predict_failed`, ...")
    message: str
    row: int | None = Field(default=None, description="The row at fault, where one is.")


class Timings(_Answer):
    """Durations of a job's phases, in milliseconds."""

    queue: float
    load: float
    predict: float
    total: float


class Job(_Answer):
    """A job as it stands. `result` only when finished, `error` only when failed."""

    model_config = ConfigDict(json_schema_extra={"examples": [_JOB]})

    id: str
    status: Literal["queued", "started", "finished", "failed", "canceled"]
    model: str
    version: str | None
    queue: str
    created_at: str | None
    started_at: str | None
    ended_at: str | None
    attempts: int
    result: dict[str, Any] | None = Field(
        default=None, description="Output to values: `predictions`, `probabilities`, `classes`."
    )
    error: JobError | None = None
    timings_ms: Timings | None = None
    batch_size: int | None = None
    url: str


class Fault(_Answer):
    """One place of the request that is wrong."""

    loc: list[str | int]
    msg: str


class Problem(BaseModel):
    """A problem (RFC 9457). Programs go by `code`."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable and snake-case.")
    errors: list[Fault] | None = Field(default=None, description="Of an invalid input: the places.")
    job_id: str | None = Field(
        default=None,
        description="Of a `timeout`: the job, which lives on. Of `unavailable`: one that may have "
        "been queued all the same, because Redis did not answer in time.",
    )
    url: str | None = Field(default=None, description="Where to ask for that job.")


class RouteKeys(_Answer):
    """The keys as they are set, valid or not."""

    active: str | None
    weights: dict[str, str]
    aliases: dict[str, str]


class Route(_Answer):
    """The split of a model's traffic."""

    model: str
    mode: Literal["weights", "active", "none"]
    active: str | None
    weights: dict[str, float] = Field(description="The split in force.")
    shares: dict[str, float] = Field(description="The same, adding up to 1.")
    revision: int = Field(description="Counts the changes; the ETag.")
    problems: list[str] = Field(description="What is wrong with the keys as they stand.")
    keys: RouteKeys
    changed_at: str | None
    cold: list[str] = Field(
        description="Versions that get traffic and that some living pool has not loaded: the next "
        "job there waits for the load."
    )


class Warm(_Answer):
    """Result of loading versions before they get traffic."""

    state: Literal["warm", "no_pool", "skipped"] = Field(
        description="`warm`: every pool had them loaded. `no_pool`: no pool is alive that serves "
        "the model. `skipped`: the request did not wait."
    )
    versions: list[str]
    waited_ms: float


class RouteChanged(Route):
    """The route after a change."""

    warm: Warm


class Holder(_Answer):
    """A worker that has the version loaded."""

    worker: str
    host: str | None
    bytes: int


class FailedLoad(_Answer):
    """A worker that could not load the version."""

    worker: str
    host: str | None
    reason: str
    retry_at: str | None = Field(
        description="From then on the next job makes it try again; null: only a new flip does."
    )


class Version(_Answer):
    """One published version, as the store and the yard know it."""

    model: str
    version: str
    queue: str
    queue_depth: int
    active: bool
    share: float = Field(description="Its part of the traffic, 0 to 1.")
    state: Literal["published", "retired"] = Field(
        description="A retired version gets no new jobs, and runs those that it has."
    )
    aliases: list[str]
    signature: SignatureValue
    signature_id: str
    digest: str | None
    size_bytes: int | None
    created_at: str | None
    note: str
    loaded: list[Holder]
    failed: list[FailedLoad]


class VersionDetail(Version):
    """One published version, with its whole manifest."""

    manifest: dict[str, Any]


class Model(_Answer):
    """A model: its versions and how its traffic splits."""

    model: str
    route: Route
    queue_depth: int = Field(
        description="Jobs that wait, of all versions and the unversioned queue."
    )
    versions: list[Version]


class Models(_Answer):
    """Every published model."""

    models: list[Model]
    suspended: str | None = Field(
        default=None,
        description="While `rq suspend` is in force: that jobs wait, and the way back.",
    )


class Health(_Answer):
    """The process serves."""

    status: Literal["ok"]


class Readiness(_Answer):
    """The requirements of serving: `ok`, or what is missing."""

    status: Literal["ready"]
    checks: dict[str, str]


class VersionDemand(_Answer):
    """One version's queue: the work in it, and the workers that it is due."""

    model: str
    version: str | None = Field(description="Null for jobs that wait in the unversioned queue.")
    queue: str
    depth: int = Field(description="Jobs that wait.")
    rows: int = Field(description="Their rows, as far as it is known.")
    seconds_of_work: float = Field(
        description="Waiting jobs, running jobs and the loads they need, for one worker."
    )
    wanted_workers: int = Field(
        description="The workers that it is due; 0 where it shares those of other versions."
    )
    workers: int = Field(description="Workers that have the version loaded.")


class Demand(_Answer):
    """The demand of all queues together."""

    depth: int
    rows: int
    seconds_of_work: float
    wanted_workers: int = Field(description="Workers that there should be.")
    workers: int = Field(description="Workers that there are, of all pools.")


class Scaling(_Answer):
    """The work in all queues, and the workers wanted for it."""

    at: str
    target_wait_s: float = Field(description="Longest wait that a job should have.")
    versions: list[VersionDemand]
    total: Demand
