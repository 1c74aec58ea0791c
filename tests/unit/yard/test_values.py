"""The values that travel: their alphabets, and their JSON, which clients rely on."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from pydantic import ValidationError

from tests.helpers.refusals import BAD_JOB_IDS, BAD_NAMES
from tests.helpers.stand_ins import IRIS
from yard.contract.values import (
    Column,
    Failure,
    Job,
    JobStatus,
    ModelRef,
    Output,
    Route,
    Signature,
    Timings,
    check_job_id,
    is_job_id,
    is_name,
)
from yard.errors import (
    Expired,
    InvalidInput,
    InvalidName,
    JobCanceled,
    JobFailed,
    PredictFailed,
)


@pytest.mark.parametrize("name", ["a", "7", "iris", "v1", "v1.2-rc_3", "con", "v" * 63, "a.b.c"])
def test_names_of_the_alphabet_are_taken(name: str):
    assert is_name(name)
    assert str(ModelRef(name, name)) == f"{name}@{name}"


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_outside_the_alphabet_are_refused_for_models_and_versions(name: str):
    assert not is_name(name)
    with pytest.raises(InvalidName, match="is no model name"):
        ModelRef(name, "v1")
    with pytest.raises(InvalidName, match="is no version name"):
        ModelRef("iris", name)


def test_the_message_about_a_name_is_short_whatever_the_name():
    with pytest.raises(InvalidName) as caught:
        ModelRef("x" * 10_000_000, "v1")
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("job_id", BAD_JOB_IDS.values(), ids=BAD_JOB_IDS)
def test_ids_outside_the_alphabet_are_refused(job_id: str):
    assert not is_job_id(job_id)
    with pytest.raises(InvalidName) as caught:
        check_job_id(job_id)
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("job_id", ["a", "A-z_9", "x" * 64, "0" * 32])
def test_ids_of_the_alphabet_are_taken(job_id: str):
    assert check_job_id(job_id) == job_id


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": IRIS.inputs[:3]},
        {"inputs": (*IRIS.inputs[:3], Column(name="e"))},
        {"inputs": (*IRIS.inputs[:3], Column(name="d", type="float32"))},
        {"inputs": IRIS.inputs[::-1]},
        {"outputs": IRIS.outputs[:1]},
        {"outputs": (IRIS.outputs[0], Output(name="probabilities", type="float64", shape=(4,)))},
        {"classes": ("setosa", "virginica", "versicolor")},
        {"task": "regressor"},
    ],
)
def test_signatures_that_differ_have_other_ids(change: dict[str, Any]):
    changed = Signature.model_validate(IRIS.model_dump() | change)
    assert changed.id != IRIS.id


def test_a_signature_read_back_from_json_is_the_same():
    again = Signature.model_validate_json(IRIS.model_dump_json())
    assert again == IRIS
    assert again.id == IRIS.id
    assert len(again.id) == 16


def test_a_signature_knows_where_each_input_stands():
    assert IRIS.names == ("a", "b", "c", "d")
    assert IRIS.positions == {"a": 0, "b": 1, "c": 2, "d": 3}
    assert IRIS.output_names == ("predictions", "probabilities")


@pytest.mark.parametrize("inputs", [[], [{"name": ""}], [{"name": "a", "type": "float16"}], [{}]])
def test_a_signature_without_sane_inputs_is_refused(inputs: list[Any]):
    with pytest.raises(ValidationError):
        Signature(inputs=inputs, outputs=IRIS.outputs)


def job(status: JobStatus, **known: Any) -> Job:
    return Job("j1", status, "iris", "v1", "iris@v1", **known)


def test_the_three_last_statuses_are_terminal():
    assert {s.value for s in JobStatus if s.is_terminal} == {"finished", "failed", "canceled"}
    assert {s.value for s in JobStatus if not s.is_terminal} == {"queued", "started"}


def test_a_queued_job_has_neither_result_nor_error():
    assert job(JobStatus.QUEUED, created_at="2026-01-02T03:04:05.678901Z").to_dict() == {
        "id": "j1",
        "status": "queued",
        "model": "iris",
        "version": "v1",
        "queue": "iris@v1",
        "created_at": "2026-01-02T03:04:05.678901Z",
        "started_at": None,
        "ended_at": None,
        "attempts": 0,
        "url": "/v1/jobs/j1",
    }


def test_an_ended_job_has_all_that_the_contract_names():
    known = job(
        JobStatus.FINISHED, result={"predictions": [1]}, timings=Timings(1, 2, 3, 6), batch_size=17
    ).to_dict()
    assert known["result"] == {"predictions": [1]}
    assert known["timings_ms"] == {"queue": 1, "load": 2, "predict": 3, "total": 6}
    assert known["batch_size"] == 17
    assert "error" not in known


def test_an_error_names_its_row_only_where_one_is_at_fault():
    with_row = job(JobStatus.FAILED, error=Failure("invalid_input", "no", 3)).to_dict()
    assert with_row["error"] == {"code": "invalid_input", "message": "no", "row": 3}
    without = job(JobStatus.FAILED, error=Failure("expired", "too late")).to_dict()
    assert without["error"] == {"code": "expired", "message": "too late"}
    assert "result" not in without


def test_a_finished_job_reads_like_its_result():
    assert job(JobStatus.FINISHED, result={"predictions": ["setosa"]})["predictions"] == ["setosa"]


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (Failure("expired", "m"), Expired),
        (Failure("predict_failed", "m"), PredictFailed),
        (Failure("invalid_input", "m", 3), InvalidInput),
        (Failure("a_code_of_tomorrow", "m"), JobFailed),
    ],
)
def test_a_failed_job_raises_the_error_that_it_stands_for(failure: Failure, kind: type[JobFailed]):
    with pytest.raises(kind) as caught:
        job(JobStatus.FAILED, error=failure)["predictions"]
    assert caught.value.message == "m"
    assert caught.value.row == failure.row


def test_a_canceled_job_raises_canceled():
    with pytest.raises(JobCanceled, match="j1"):
        job(JobStatus.CANCELED).raise_if_failed()


def test_an_open_job_has_no_result_to_read():
    with pytest.raises(KeyError, match="queued"):
        job(JobStatus.QUEUED)["predictions"]


@pytest.mark.parametrize(
    ("errors", "row"),
    [
        ([{"loc": ["instances", 3, 1], "msg": ""}], 3),
        ([{"loc": ["inputs", "a", 2], "msg": ""}], 2),
        ([{"loc": ["deadline_ms"], "msg": ""}, {"loc": ["instances", 5], "msg": ""}], 5),
        ([{"loc": ["outputs", 1], "msg": ""}], None),
        ([{"loc": [], "msg": ""}], None),
        ([], None),
    ],
)
def test_an_input_error_knows_the_first_row_at_fault(errors: list[Any], row: int | None):
    assert InvalidInput("m", errors).row == row


def test_a_routes_shares_add_up_to_one():
    route = Route("iris", "weights", {"v1": 90, "v2": 10}, "v1", 3)
    assert route.shares == {"v1": 0.9, "v2": 0.1}
    assert Route("iris", "none", {}, None, 1).shares == {}


def test_a_routes_json_has_the_names_of_the_contract():
    known = Route("iris", "active", {"v1": 1.0}, "v1", 3, ("p",), {"active": "v9"}, "t").to_dict()
    assert known == {
        "model": "iris",
        "mode": "active",
        "active": "v1",
        "weights": {"v1": 1.0},
        "shares": {"v1": 1.0},
        "revision": 3,
        "problems": ["p"],
        "keys": {"active": "v9"},
        "changed_at": "t",
    }


@pytest.mark.parametrize("value", [ModelRef("a", "b"), job(JobStatus.QUEUED), Failure("a", "b")])
def test_what_travels_is_frozen(value: Any):
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
        value.model = "other"
