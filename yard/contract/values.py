"""The values that travel: requests, signatures, jobs and routes.

All are frozen, hold plain Python types, and convert to JSON and back. Redis keys are in
`yard.contract.keys`; checking rows against a signature is in `yard.contract.validation`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from yard.contract import wire
from yard.errors import InvalidName, job_failure

#: The one callable that a job may name. Workers look it up in a dictionary, never by import.
TASK_NAME = "worker.tasks.predict"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_name(value: str) -> bool:
    """True if ``value`` may name a model, a version or an alias."""
    return _NAME.fullmatch(value) is not None and ".." not in value


def check_name(kind: str, value: str) -> str:
    """Returns ``value``, if it may name a ``kind`` (model, version, alias).

    Raises:
        InvalidName: It may not.
    """
    if not is_name(value):
        raise InvalidName(
            f"{value[:80]!r} is no {kind} name: 1 to 63 of a-z 0-9 . _ -, "
            "the first a letter or digit, no '..'"
        )
    return value


def is_job_id(value: str) -> bool:
    """True if ``value`` may be a job's id."""
    return _JOB_ID.fullmatch(value) is not None


def check_job_id(value: str) -> str:
    """Returns ``value``, if it may be a job's id.

    Raises:
        InvalidName: It may not.
    """
    if not is_job_id(value):
        raise InvalidName(f"{value[:80]!r} is no job id: 1 to 64 of A-Z a-z 0-9 _ -")
    return value


@dataclass(frozen=True, slots=True, order=True)
class ModelRef:
    """One version of one model."""

    model: str
    version: str

    def __post_init__(self) -> None:
        check_name("model", self.model)
        check_name("version", self.version)

    def __str__(self) -> str:
        return f"{self.model}@{self.version}"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


#: Type of one cell. ``float32`` cells must fit into a 32-bit float; ``float64`` into a double.
ColumnType = Literal["float64", "float32", "int64", "bool", "string"]


class Column(_Value):
    """One named input: a scalar for each row."""

    name: str = Field(min_length=1, max_length=256)
    type: ColumnType = "float64"


class Output(_Value):
    """One named output; ``shape`` is that of one row: ``[]`` is a scalar, ``[3]`` three values."""

    name: str
    type: ColumnType
    shape: tuple[int, ...] = Field(default=(), strict=False)


#: Kind of estimator.
Task = Literal["classifier", "regressor", "transformer", "clusterer", "outlier_detector"]


class Signature(_Value):
    """Inputs and outputs of a version.

    Attributes:
        inputs: The columns of a row, in the order that the model was fitted with.
        outputs: The outputs that a row yields.
        classes: A classifier's labels, in the order of ``probabilities``.
        task: Kind of estimator.
    """

    inputs: tuple[Column, ...] = Field(min_length=1, strict=False)
    outputs: tuple[Output, ...] = Field(min_length=1, strict=False)
    classes: tuple[str | int | float | bool, ...] | None = Field(default=None, strict=False)
    task: Task = "regressor"

    @cached_property
    def id(self) -> str:
        """16 hex digits that differ where two signatures differ in inputs or outputs."""
        shape = self.model_dump(mode="json")
        return hashlib.sha256(wire.dumps(shape)).hexdigest()[:16]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The input names, in order."""
        return tuple(column.name for column in self.inputs)

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Position of each input name in a row."""
        return {name: position for position, name in enumerate(self.names)}

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        """The output names, in order."""
        return tuple(output.name for output in self.outputs)


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a prediction; exactly one of ``instances`` and ``inputs`` is given.

    Attributes:
        model: The model's name.
        instances: Rows: lists in signature order, objects by name, or bare values for one input.
        inputs: Columns by name, all of the same length.
        version: A version or an alias; None lets the route decide.
        routing_key: The same key gets the same version while the route stands.
        outputs: Outputs to return; None for all.
        deadline_ms: Not started within this many milliseconds, the job fails with ``expired``.
        idempotency_key: The same key and body give the same job.
    """

    model: str
    instances: Sequence[Any] | None = None
    inputs: Mapping[str, Sequence[Any]] | None = None
    version: str | None = None
    routing_key: str | None = None
    outputs: Sequence[str] | None = None
    deadline_ms: int | None = None
    idempotency_key: str | None = None


class JobStatus(StrEnum):
    """Status of a job. The last three are terminal."""

    QUEUED = "queued"
    STARTED = "started"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_terminal(self) -> bool:
        """True if the job has ended."""
        return self in (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.CANCELED)


@dataclass(frozen=True, slots=True)
class Failure:
    """Reason why a job failed: a code of `yard.errors`, a sentence, the faulty row."""

    code: str
    message: str
    row: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The ``error`` member of a job's JSON."""
        known: dict[str, Any] = {"code": self.code, "message": self.message}
        return known if self.row is None else known | {"row": self.row}


@dataclass(frozen=True, slots=True)
class Timings:
    """Durations of a job's phases, in milliseconds by Redis' clock but for load and predict."""

    queue: float = 0.0
    load: float = 0.0
    predict: float = 0.0
    total: float = 0.0

    def to_dict(self) -> dict[str, float]:
        """The ``timings_ms`` member of a job's JSON."""
        return {
            "queue": self.queue,
            "load": self.load,
            "predict": self.predict,
            "total": self.total,
        }


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stood when it was read.

    A finished job reads like its result: ``job["predictions"]``.
    """

    id: str
    status: JobStatus
    model: str
    version: str | None
    queue: str
    created_at: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    attempts: int = 0
    result: dict[str, Any] | None = None
    error: Failure | None = None
    timings: Timings | None = None
    batch_size: int | None = None

    def __getitem__(self, output: str) -> Any:
        """Returns one output of a finished job.

        Raises:
            ModelyardError: The job failed or was canceled; the error has the reason.
            KeyError: The job has not ended, or its result has no such output.
        """
        self.raise_if_failed()
        if self.result is None:
            raise KeyError(f"job {self.id} is {self.status}, it has no result yet")
        return self.result[output]

    def raise_if_failed(self) -> None:
        """Raises the error of a failed or canceled job.

        Raises:
            ModelyardError: With the code of the job's error.
        """
        if self.status is JobStatus.CANCELED:
            raise job_failure("canceled", f"job {self.id} was canceled")
        if self.error is not None:
            raise job_failure(self.error.code, self.error.message, self.error.row)

    def to_dict(self) -> dict[str, Any]:
        """Returns the job as clients see it over HTTP and on the command line."""
        known: dict[str, Any] = {
            "id": self.id,
            "status": self.status.value,
            "model": self.model,
            "version": self.version,
            "queue": self.queue,
            "created_at": self.created_at,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "attempts": self.attempts,
        }
        if self.result is not None:
            known["result"] = self.result
        if self.error is not None:
            known["error"] = self.error.to_dict()
        if self.timings is not None:
            known["timings_ms"] = self.timings.to_dict()
        if self.batch_size is not None:
            known["batch_size"] = self.batch_size
        known["url"] = f"/v1/jobs/{self.id}"
        return known


@dataclass(frozen=True, slots=True)
class Route:
    """Split of a model's traffic between its versions.

    Attributes:
        model: The model's name.
        mode: Key that decides: ``weights``, ``active``, or ``none`` where nothing is routed.
        weights: The split in force, version to weight; one entry where a single version gets all.
        active: The active version in force, or None.
        revision: Counts the changes of the keys; the ETag of the route.
        problems: Problems of the keys as they stand, one sentence each.
        keys: The raw keys: ``{"active": ..., "weights": {...}, "aliases": {...}}``.
        changed_at: Time of the keys' last change, by Redis' clock.
    """

    model: str
    mode: Literal["weights", "active", "none"]
    weights: Mapping[str, float]
    active: str | None
    revision: int
    problems: tuple[str, ...] = ()
    keys: Mapping[str, Any] = field(default_factory=dict)
    changed_at: str | None = None

    @property
    def shares(self) -> dict[str, float]:
        """Share of the traffic of each version; the shares add up to 1."""
        total = sum(self.weights.values())
        return (
            {version: weight / total for version, weight in self.weights.items()} if total else {}
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the route as clients see it."""
        return {
            "model": self.model,
            "mode": self.mode,
            "active": self.active,
            "weights": dict(self.weights),
            "shares": self.shares,
            "revision": self.revision,
            "problems": list(self.problems),
            "keys": dict(self.keys),
            "changed_at": self.changed_at,
        }
