"""Every error of Modelyard, each with a stable code.

An error is raised where the fault is found, crosses processes as ``Failure`` (a code and a message,
see `yard.contract.values`), and becomes an HTTP status by one table in
`gateway.middleware.problems`.

    ModelyardError                       code                 the caller may try again
    ├── InvalidRequest                   (a class of errors: no job exists, the caller is at fault)
    │   ├── InvalidJson                  invalid_json
    │   ├── InvalidInput                 invalid_input
    │   ├── InvalidName                  invalid_name
    │   ├── TooLarge                     too_large
    │   └── IdempotencyMismatch          idempotency_mismatch
    ├── NotFound                         (what was named is not there)
    │   ├── UnknownModel                 unknown_model
    │   ├── UnknownVersion               unknown_version
    │   └── UnknownJob                   unknown_job
    ├── Conflict                         (the state does not allow it)
    │   ├── NoActiveVersion              no_active_version
    │   ├── JobEnded                     job_ended
    │   ├── RevisionMismatch             revision_mismatch
    │   ├── VersionExists                version_exists
    │   └── VersionInUse                 version_in_use
    ├── InvalidRoute                     invalid_route
    ├── QueueFull                        queue_full           yes
    ├── Unavailable                      unavailable          yes
    │   └── AccessDenied                 unavailable
    ├── Timeout                          timeout              yes
    ├── ConfigurationError               configuration
    ├── InvalidManifest                  invalid_manifest
    └── JobFailed                        (how an accepted job can fail)
        ├── Expired                      expired              yes
        ├── JobTimeout                   timeout
        ├── ModelUnavailable             model_unavailable    yes
        ├── PredictFailed                predict_failed
        ├── WorkerCrashed                worker_crashed       yes
        ├── InvalidJob                   invalid_job
        ├── VersionGone                  version_gone
        └── JobCanceled                  canceled
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar


class ModelyardError(Exception):
    """The root: ``code`` is stable and for programs, ``message`` is for people.

    Attributes:
        code: Snake-case name that clients can rely on.
        retryable: True if the same call may succeed later without a change.
        message: One sentence that names the fault.
    """

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(ModelyardError):
    """The request cannot become a job."""

    code = "invalid_request"


class InvalidJson(InvalidRequest):
    """The text is not the strict JSON of RFC 8259, or names a key twice."""

    code = "invalid_json"


class InvalidInput(InvalidRequest):
    """The JSON is fine but the request, or a row of it, is not.

    Attributes:
        errors: Each ``{"loc": ["instances", 3, 1], "msg": "..."}``, in the order found.
        row: The first faulty row, where a row is at fault.
    """

    code = "invalid_input"

    def __init__(self, message: str, errors: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(message)
        self.errors = list(errors)

    @classmethod
    def at(cls, loc: Sequence[str | int], msg: str) -> InvalidInput:
        """Returns the error of one fault at one place."""
        return cls.of([{"loc": list(loc), "msg": msg}])

    @classmethod
    def of(cls, errors: Sequence[dict[str, Any]]) -> InvalidInput:
        """Returns the error of several faults; the message names the first and counts the rest."""
        first = errors[0]
        place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"]).lstrip(
            "."
        )
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        return cls(f"{place}: {first['msg']}{more}" if place else f"{first['msg']}{more}", errors)

    @property
    def row(self) -> int | None:
        """Index of the first faulty row, if a row is at fault."""
        for error in self.errors:
            if error["loc"][:1] in (["instances"], ["inputs"]):
                for part in error["loc"]:
                    if isinstance(part, int):
                        return part
        return None


class InvalidName(InvalidRequest):
    """A model, version, alias or job id is outside the alphabet."""

    code = "invalid_name"


class TooLarge(InvalidRequest):
    """A body, a row count or a payload is over its bound."""

    code = "too_large"


class IdempotencyMismatch(InvalidRequest):
    """The idempotency key was used before with another body."""

    code = "idempotency_mismatch"


class NotFound(ModelyardError):
    """The named thing does not exist."""

    code = "not_found"


class UnknownModel(NotFound):
    """No version of this model is published."""

    code = "unknown_model"


class UnknownVersion(NotFound):
    """The model has no such version or alias."""

    code = "unknown_version"


class UnknownJob(NotFound):
    """No job has this id, or its result has expired."""

    code = "unknown_job"


class Conflict(ModelyardError):
    """The present state does not allow the operation."""

    code = "conflict"


class NoActiveVersion(Conflict):
    """The model has versions, but its keys route traffic to none of them."""

    code = "no_active_version"


class JobEnded(Conflict):
    """The job has finished or failed, so it cannot be canceled."""

    code = "job_ended"


class RevisionMismatch(Conflict):
    """The route was changed since the caller read it."""

    code = "revision_mismatch"


class VersionExists(Conflict):
    """The version is published already, with other bytes."""

    code = "version_exists"


class VersionInUse(Conflict):
    """Traffic may reach the version, or jobs wait for it."""

    code = "version_in_use"


class InvalidRoute(ModelyardError):
    """The active version or the weights cannot be obeyed."""

    code = "invalid_route"


class QueueFull(ModelyardError):
    """The version's queue is at its bound.

    Attributes:
        retry_after_s: Seconds after which a retry makes sense.
    """

    code = "queue_full"
    retryable = True

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(ModelyardError):
    """Redis or the store does not answer, or refuses.

    Attributes:
        job_ids: The jobs that may have been queued all the same, as when Redis' answer was lost:
            look for them when it answers again. Empty if nothing was sent.
    """

    code = "unavailable"
    retryable = True

    def __init__(self, message: str, job_ids: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.job_ids = tuple(job_ids)


class AccessDenied(Unavailable):
    """Redis does not accept the user or the password; the message names the remedy."""

    retryable = False


class Timeout(ModelyardError):
    """The job did not end within the time that the caller gave; it lives on.

    Attributes:
        job_id: The job, to read later.
    """

    code = "timeout"
    retryable = True

    def __init__(self, message: str, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id


class ConfigurationError(ModelyardError):
    """A setting, a file or an installation is wrong; the message has the remedy."""

    code = "configuration"


class InvalidManifest(ModelyardError):
    """The file that describes a version is wrong; the message names the faulty field."""

    code = "invalid_manifest"


class JobFailed(ModelyardError):
    """An accepted job ended without a result.

    Attributes:
        row: The row at fault, where one is.
    """

    code = "job_failed"

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


class Expired(JobFailed):
    """The job was not started within its ``deadline_ms``."""

    code = "expired"
    retryable = True


class JobTimeout(JobFailed):
    """The job ran longer than its timeout."""

    code = "timeout"


class ModelUnavailable(JobFailed):
    """The version's artefact does not load."""

    code = "model_unavailable"
    retryable = True


class PredictFailed(JobFailed):
    """The model raised on this job's rows."""

    code = "predict_failed"


class WorkerCrashed(JobFailed):
    """The worker died each time it ran this job."""

    code = "worker_crashed"
    retryable = True


class InvalidJob(JobFailed):
    """The entry pushed onto the queue is not a job of ours."""

    code = "invalid_job"


class VersionGone(JobFailed):
    """The version was deleted, or retired and empty, before the job was started."""

    code = "version_gone"


class JobCanceled(JobFailed):
    """The job was canceled."""

    code = "canceled"


def described(error: BaseException) -> str:
    """Returns a foreign error in one line: its type and its message, bounded."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:500]}" if said else type(error).__name__


def _tree(cls: type[ModelyardError]) -> Iterator[type[ModelyardError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _tree(child)


#: Exception of each code, raised again in the waiting client.
JOB_FAILURES: dict[str, type[JobFailed]] = {
    cls.code: cls for cls in _tree(JobFailed) if issubclass(cls, JobFailed)
}


def job_failure(code: str, message: str, row: int | None = None) -> ModelyardError:
    """Returns the exception of a failed job, from what travelled through Redis."""
    if code == InvalidInput.code:
        return InvalidInput(
            message, [{"loc": ["instances", row], "msg": message}] if row is not None else []
        )
    return JOB_FAILURES.get(code, JobFailed)(message, row)
