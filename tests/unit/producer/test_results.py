"""A job is read back from whatever Redis holds, and nothing in it is unpickled or trusted."""

from __future__ import annotations

import base64
import pickle
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.results import Raw, decode_job
from yard.contract import wire
from yard.contract.values import Job, JobStatus

FIELDS = (
    "status",
    "origin",
    "created_at",
    "started_at",
    "ended_at",
    "my_attempts",
    "my_run",
    "my_error",
    "my_queued_at",
)
BOMB = zlib.compress(bytes(64_000_000))
DATES = {
    "created_at": b"2026-01-02T03:04:05.000000Z",
    "started_at": b"2026-01-02T03:04:05.001200Z",
    "ended_at": b"2026-01-02T03:04:05.002100Z",
}


def raw(entry: dict[str, Any] | None = None, **fields: bytes) -> Raw:
    """The hash of a job on iris@v1."""
    known = {"origin": b"iris@v1"} | fields
    newest = {name.encode(): value for name, value in (entry or {}).items()}
    return [known.get(name) for name in FIELDS], newest


def decoded(entry: dict[str, Any] | None = None, **fields: bytes) -> Job:
    job = decode_job("j1", raw(entry, **fields))
    assert job is not None
    return job


def result(value: Any) -> dict[str, Any]:
    return {"type": b"1", "return_value": base64.b64encode(wire.dumps(value))}


def traceback(text: str) -> dict[str, Any]:
    return {"type": b"2", "exc_string": base64.b64encode(zlib.compress(text.encode()))}


def test_where_there_is_no_hash_there_is_no_job():
    assert decode_job("j1", ([None] * len(FIELDS), {})) is None


def test_a_finished_job_has_its_result_and_timings():
    run = b'{"load": 1.5, "predict": 0.4, "batch": 17}'
    job = decoded(
        result({"predictions": ["setosa"]}),
        status=b"finished",
        my_attempts=b"2",
        my_run=run,
        **DATES,
    )
    assert job.status is JobStatus.FINISHED
    assert job.result == {"predictions": ["setosa"]}
    assert job.attempts == 2
    assert job.batch_size == 17
    assert job.timings is not None
    assert job.timings.to_dict() == {"queue": 1.2, "load": 1.5, "predict": 0.4, "total": 2.1}


def test_a_stock_workers_bare_return_value_counts_as_predictions():
    assert decoded(result([1, 2]), status=b"finished").result == {"predictions": [1, 2]}


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {},
        {"type": b"1"},
        {"return_value": b""},
        {"return_value": b"not base64!"},
        {"return_value": b"\xff\xfe"},
        {"return_value": base64.b64encode(b"[NaN]")},
        {"return_value": base64.b64encode(pickle.dumps({"predictions": [1]}))},
    ],
)
def test_a_result_that_cannot_be_read_is_a_failed_job(
    entry: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pickle, "loads", None)
    job = decoded(entry, status=b"finished")
    assert job.status is JobStatus.FAILED
    assert job.result is None
    assert job.error is not None
    assert job.error.code == "invalid_job"


def test_a_failure_is_what_the_worker_wrote():
    error = b'{"code": "invalid_input", "message": "no number", "row": 3}'
    job = decoded(traceback("whatever"), status=b"failed", my_error=error)
    assert job.error is not None
    assert job.error.to_dict() == {"code": "invalid_input", "message": "no number", "row": 3}


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("Traceback:\n  ...\nproducer.errors.Expired: too late", "expired", "too late"),
        ("yard.errors.InvalidInput: instances[0]: no", "invalid_input", "instances[0]: no"),
        ("yard.errors.JobTimeout: slow", "timeout", "slow"),
        ("rq.timeouts.JobTimeoutException: Task exceeded 60 s", "timeout", "Task exceeded 60 s"),
        ("ValueError: bad", "predict_failed", "ValueError: bad"),
        ("KeyError", "predict_failed", "KeyError"),
        ("some words without a name", "predict_failed", "some words without a name"),
        ("", "predict_failed", ""),
    ],
)
def test_a_stock_workers_traceback_becomes_a_failure(text: str, code: str, message: str):
    job = decoded(traceback(text), status=b"failed")
    assert job.error is not None
    assert job.error.code == code
    assert message in job.error.message


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {},
        {"exc_string": b"not base64!"},
        {"exc_string": base64.b64encode(b"\x78\x9c broken")},
        {"exc_string": base64.b64encode(BOMB)},
    ],
)
def test_a_failure_without_a_readable_reason_is_still_a_failure(entry: dict[str, Any] | None):
    tracemalloc.start()
    job = decoded(entry, status=b"failed")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert job.error is not None
    assert job.error.code == "predict_failed"
    assert peak < 8_000_000


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (b"queued", "queued"),
        (b"started", "started"),
        (b"canceled", "canceled"),
        (b"stopped", "canceled"),
        (b"deferred", "queued"),
        (b"scheduled", "queued"),
        (b"\xff", "queued"),
    ],
)
def test_rqs_other_statuses_have_a_meaning(status: bytes, meaning: str):
    job = decoded(status=status)
    assert job.status == meaning
    assert (job.timings is None) == (meaning == "queued" or meaning == "started")


def test_a_job_of_an_unversioned_queue_has_no_version_yet():
    job = decoded(status=b"queued", origin=b"iris")
    assert (job.model, job.version, job.queue) == ("iris", None, "iris")


@pytest.mark.parametrize("attempts", [b"", b"-1", b"x", b"1" * 5000, "\u0663".encode(), b"\xff"])
def test_attempts_that_are_no_small_number_do_no_harm(attempts: bytes):
    assert decoded(status=b"queued", my_attempts=attempts).attempts in (0, 3)


@pytest.mark.parametrize(
    "run",
    [b"", b"[]", b"{", b'{"batch": "x", "load": "y"}', b'{"batch": true}', b'{"batch": {"a": 1}}'],
)
def test_measurements_that_are_none_do_no_harm(run: bytes):
    job = decoded(result({}), status=b"finished", my_run=run, **DATES)
    assert job.batch_size is None
    assert job.timings is not None
    assert job.timings.load == 0.0


@pytest.mark.parametrize("date", [b"", b"nope", b"2026-01-02T03:04:05", b"\xff\xfe"])
def test_a_date_that_is_none_makes_a_time_of_zero(date: bytes):
    job = decoded(result({}), status=b"finished", **DATES | {"created_at": date})
    assert job.timings is not None
    assert job.timings.total == 0.0


@pytest.mark.parametrize(
    ("created", "queued", "queue_ms"),
    [
        (b"2036-01-02T03:04:05Z", None, 0.0),  # never negative
        (b"2006-01-02T03:04:05Z", b"2026-01-02T03:04:05.000200Z", 1.0),
        (b"2036-01-02T03:04:05Z", b"2026-01-02T03:04:05.001100Z", 0.1),
    ],
)
def test_the_time_that_a_claim_believed_counts(
    created: bytes, queued: bytes | None, queue_ms: float
):
    dates = DATES | {"created_at": created} | ({"my_queued_at": queued} if queued else {})
    job = decoded(result({}), status=b"finished", **dates)
    assert job.timings is not None
    assert job.timings.queue == queue_ms
    assert job.timings.total >= queue_ms
    assert job.created_at == created.decode()


ANY_FIELD = (
    st.none()
    | st.binary(max_size=20)
    | st.sampled_from([b"finished", b"failed", b"iris@v1", b"{}", b"2026-01-02T03:04:05Z", b"7"])
)


@given(
    st.lists(ANY_FIELD, min_size=len(FIELDS), max_size=len(FIELDS)),
    st.dictionaries(
        st.sampled_from([b"type", b"return_value", b"exc_string"]), st.binary(max_size=30)
    ),
)
def test_whatever_redis_holds_becomes_a_job_or_none(
    values: list[bytes | None], newest: dict[bytes, bytes]
):
    job = decode_job("j1", (values, newest))
    assert (job is None) == (values[0] is None)
    if job is not None:
        wire.dumps(job.to_dict())
        assert (job.result is not None) == (job.status is JobStatus.FINISHED)
        assert (job.error is not None) == (job.status is JobStatus.FAILED)
