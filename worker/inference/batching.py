"""From claimed jobs to outcomes, without Redis: check, stack, predict, split, and bisect errors.

Pure but for the ``predict`` that is passed in. Each job is checked alone, so that a bad one never
enters the stack. When the model raises, the stack is halved until only the job that it raises on is
left, or until it raises on everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

from worker.queue import Claimed
from yard.contract import (
    Call,
    Failure,
    Signature,
    check_outputs,
    check_rows,
    decode_call,
    parse_epoch_s,
)
from yard.errors import ModelyardError

#: Rows to outputs by name, one element a row; raises where the model does.
Predict = Callable[[list[list[Any]]], Mapping[str, list[Any]]]

#: The result of a finished job, or the failure of a failed one.
Outcome = dict[str, Any] | Failure

#: Parts of a stack that must all raise before its members are tried one by one.
_ALIKE = 4

_FLAWS = {
    "expired": Failure("expired", "the job was not started before its deadline"),
    "status": Failure("invalid_job", "the job's status is none that a queued job has"),
    "id": Failure("invalid_job", "a job's id has at most 64 characters"),
    "webhooks": Failure("invalid_job", "RQ's webhooks are not sent here: enqueue without them"),
    "callback": Failure(
        "invalid_job",
        "RQ's callbacks (on_success, on_failure, on_stopped) are not run here: enqueue without "
        "them, and wait for the result",
    ),
    "retry": Failure(
        "invalid_job",
        "RQ's Retry is not done here: a job whose worker dies is run again without it, and one "
        "that the model refuses would be refused again",
    ),
    "repeat": Failure(
        "invalid_job", "RQ's Repeat is not done here: enqueue each run, for example by cron"
    ),
}

#: The longest time for which a pusher's clock is believed, in us: see `due_of`.
_MOST_LATE_US = 604_800_000_000


class Member(NamedTuple):
    """A job that may enter the stack.

    Attributes:
        id: The job's id.
        rows: ``(rows, columns)`` in signature order.
        outputs: The outputs that are wanted; None for all.
    """

    id: str
    rows: list[list[Any]]
    outputs: tuple[str, ...] | None


def read_call(
    job: Claimed, most_bytes: int, queue: str = "", claimed_us: int = 0
) -> Call | Failure:
    """Return the call of a claimed job, or why it has none.

    Of a job that a client has pushed itself, its ``deadline_ms`` and its ``version`` are checked
    here; `producer` and the unversioned queue check those of others.

    Args:
        job: The job.
        most_bytes: Most bytes of its payload.
        queue: The queue that it was claimed from.
        claimed_us: Time of the claim, in microseconds since the epoch.
    """
    if job.flaw == "too_large":
        return Failure(
            "invalid_job", f"too_large: the payload is over the bound of {most_bytes} bytes"
        )
    if job.flaw:
        return _FLAWS[job.flaw]
    try:
        call = decode_call(job.data, most_bytes)
    except ModelyardError as error:
        return Failure(error.code, error.message)
    due_us = due_of(job, call, claimed_us)
    if due_us is not None and job.attempt == 1 and due_us < claimed_us:
        return _FLAWS["expired"]
    version = queue.partition("@")[2]
    if job.is_pushed and version and call.version not in (None, version):
        model = queue.partition("@")[0]
        return Failure(
            "invalid_job",
            f"the job asks for version {call.version!r} and was pushed onto {queue!r}: "
            f"push it onto {model!r} to let its version decide",
        )
    return call


def due_of(job: Claimed, call: Call, claimed_us: int) -> int | None:
    """Return the deadline of a job that a client has pushed itself, in us; None for none.

    It counts from when the job was enqueued, by its client. A time that cannot be read, or that
    lies more than a week back, was not written by a clock.
    """
    if call.deadline_ms is None or not job.is_pushed:
        return None
    enqueued_s = parse_epoch_s(job.created_at)
    if enqueued_s is None:
        return None
    due_us = int(enqueued_s * 1e6) + min(call.deadline_ms * 1000, _MOST_LATE_US)
    return due_us if due_us > claimed_us - _MOST_LATE_US else None


def check(job_id: str, call: Call, signature: Signature, most_rows: int) -> Member | Failure:
    """Return the job as a member of the stack, or why its rows cannot be predicted."""
    try:
        rows = check_rows(
            signature, instances=call.instances, inputs=call.inputs, most_rows=most_rows
        )
        return Member(job_id, rows, check_outputs(signature, call.outputs))
    except ModelyardError as error:
        return Failure(error.code, error.message, getattr(error, "row", None))


def next_stack(members: Sequence[Member], most_rows: int, is_batchable: bool) -> list[Member]:
    """Return the first members, of at most ``most_rows`` rows together, to be predicted at once.

    A job of more rows is a stack of its own. All are alone where jobs may not be mixed.
    """
    if not is_batchable:
        return list(members[:1])
    rows = count = 0
    for member in members:
        rows += len(member.rows)
        if count and rows > most_rows:
            break
        count += 1
    return list(members[:count])


def predict_members(
    members: Sequence[Member],
    predict: Predict,
    signature: Signature,
    *,
    is_over: Callable[[], bool] = lambda: False,
    raised_on: tuple[type[BaseException], ...] = (),
) -> dict[str, Outcome]:
    """Predict a stack; return the outcome of each member, by job id.

    One predict if nothing raises. If it raises, the stack is halved and each half tried, and so on:
    at most ``2 ceil(log2 n)`` further predicts for one culprit among ``n``. Where all quarters
    raise, it is not the fault of a few, and each member is tried alone: ``n + 7`` predicts.

    Args:
        members: The stack.
        predict: The model's.
        signature: The model's.
        is_over: Called after each predict; True to look no further. Members that were not found to
            pass or to fail until then have no outcome; at least one has.
        raised_on: Exceptions that end the predict from outside, and are not the model's.
    """
    outcomes: dict[str, Outcome] = {}

    def run(part: Sequence[Member]) -> bool:
        """Predict a part; return whether its members have outcomes now."""
        try:
            outputs = predict([row for member in part for row in member.rows])
            outcomes.update(_split(part, outputs, signature))
        except raised_on:
            raise
        except (
            BaseException
        ) as error:  # a model may call sys.exit; the worker's own stop is no exception
            if len(part) > 1:
                return False
            outcomes[part[0].id] = _failure_of(error)
        return True

    parts: list[Sequence[Member]] = [members]
    while parts:
        failed: list[Sequence[Member]] = []
        for part in parts:
            if not run(part):
                failed.append(part)
            if is_over():
                if not outcomes:
                    run(members[:1])
                return outcomes
        is_alike = len(failed) == len(parts) == _ALIKE
        parts = [half for part in failed for half in _divided(part, is_alike)]
    return outcomes


def _divided(members: Sequence[Member], is_each_alone: bool) -> list[Sequence[Member]]:
    if is_each_alone:
        return [members[place : place + 1] for place in range(len(members))]
    middle = len(members) // 2
    return [members[:middle], members[middle:]]


def _split(
    members: Sequence[Member], outputs: Mapping[str, list[Any]], signature: Signature
) -> dict[str, Outcome]:
    """Return each member's part of the outputs.

    Raises:
        ValueError: The outputs do not fit the rows, or a number is not finite.
    """
    count = sum(len(member.rows) for member in members)
    for name, values in outputs.items():
        if len(values) != count:
            raise ValueError(f"the model gave {len(values)} {name} for {count} rows")
        _refuse_infinities(name, values)
    outcomes: dict[str, Outcome] = {}
    start = 0
    for member in members:
        end = start + len(member.rows)
        result = {
            name: values[start:end]
            for name, values in outputs.items()
            if member.outputs is None or name in member.outputs
        }
        if signature.classes is not None and "probabilities" in result:
            result["classes"] = list(signature.classes)
        outcomes[member.id] = result
        start = end
    return outcomes


def _refuse_infinities(name: str, values: list[Any]) -> None:
    """Refuse NaN and infinities, for which JSON has no form.

    Raises:
        ValueError: One is among the values.
    """
    if not values:
        return
    first = values[0]
    if isinstance(first, float) and not all(map(isfinite, values)):
        raise ValueError(f"the model gave {name} that are not finite")
    if isinstance(first, list):
        for row in values:
            _refuse_infinities(name, row)


def _failure_of(error: BaseException) -> Failure:
    if isinstance(error, ModelyardError):
        return Failure(error.code, error.message)
    text = str(error).strip().splitlines()
    return Failure("predict_failed", f"{type(error).__name__}: {text[0][:500] if text else ''}")
