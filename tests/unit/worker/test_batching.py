"""From claimed jobs to outcomes: checking alone, stacking, splitting, finding the culprit."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from math import ceil, log2
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.inference.batching import Member, check, next_stack, predict_members, read_call
from worker.queue.lease import Claimed, Flaw
from yard.contract.payload import Call, encode_call
from yard.contract.values import Column, Failure, Output, Signature

ECHO = Signature(
    inputs=[Column(name="x")],
    outputs=[
        Output(name="predictions", type="float64"),
        Output(name="probabilities", type="float64", shape=(2,)),
    ],
    classes=["a", "b"],
    task="classifier",
)


def member(number: int, rows: int = 1, outputs: tuple[str, ...] | None = None) -> Member:
    return Member(f"job{number}", [[float(number)]] * rows, outputs)


class Model:
    """Echoes rows; raises, or misbehaves, on given numbers."""

    def __init__(
        self, bad: AbstractSet[float] = frozenset(), error: BaseException | None = None
    ) -> None:
        self.bad = bad
        self.error = error or ValueError("no")
        self.calls = 0

    def __call__(self, rows: list[list[Any]]) -> dict[str, list[Any]]:
        self.calls += 1
        if any(row[0] in self.bad for row in rows):
            raise self.error
        return {
            "predictions": [row[0] for row in rows],
            "probabilities": [[row[0], 1.0] for row in rows],
        }


def claimed(data: bytes, flaw: Flaw = "") -> Claimed:
    return Claimed("job1", "2026-01-02T03:04:05Z", 1, 0, "", "", flaw, data)


@pytest.mark.parametrize(
    ("job", "code", "words"),
    [
        (claimed(b"", "expired"), "expired", "deadline"),
        (claimed(b"", "too_large"), "invalid_job", "too_large"),
        (claimed(b"", "status"), "invalid_job", "status"),
        (claimed(b"\x80\x04K\x01."), "invalid_job", "pickle"),
        (claimed(b'["os.system",null,["touch p"],{}]'), "invalid_job", "not allowed"),
    ],
)
def test_what_is_no_job_of_ours_fails_with_its_reason(job: Claimed, code: str, words: str) -> None:
    failure = read_call(job, 1000)
    assert isinstance(failure, Failure)
    assert failure.code == code
    assert words in failure.message


def test_a_call_is_read_from_what_rq_writes() -> None:
    data = encode_call({"instances": [[1.0]], "outputs": ["predictions"]})
    assert read_call(claimed(data), 1000) == Call(instances=[[1.0]], outputs=["predictions"])


def test_a_bad_row_is_named_and_never_enters_the_stack() -> None:
    failure = check("job1", Call(instances=[[1.0], ["x"]]), ECHO, 10)
    assert failure == Failure("invalid_input", "instances[1][0]: must be a number, not a string", 1)


def test_each_job_gets_its_own_rows_back() -> None:
    members = [member(1, rows=2), member(2), member(3, rows=3)]
    outcomes: dict[str, Any] = predict_members(members, Model(), ECHO)
    assert outcomes["job1"] == {
        "predictions": [1.0, 1.0],
        "probabilities": [[1.0, 1.0]] * 2,
        "classes": ["a", "b"],
    }
    assert outcomes["job3"]["predictions"] == [3.0] * 3


def test_only_wanted_outputs_are_given_and_classes_go_with_probabilities() -> None:
    asked = [member(1, outputs=("predictions",)), member(2)]
    outcomes: dict[str, Any] = predict_members(asked, Model(), ECHO)
    assert outcomes["job1"] == {"predictions": [1.0]}
    assert set(outcomes["job2"]) == {"predictions", "probabilities", "classes"}


@pytest.mark.parametrize(
    "error", [ValueError("no"), SystemExit(1), KeyboardInterrupt(), MemoryError()]
)
def test_whatever_the_model_raises_only_the_culprit_fails(error: BaseException) -> None:
    model = Model({7.0}, error)
    outcomes = predict_members([member(n) for n in range(32)], model, ECHO)
    failed = {job for job, outcome in outcomes.items() if isinstance(outcome, Failure)}
    assert failed == {"job7"}
    assert model.calls <= 2 * log2(32) + 1


@given(count=st.integers(1, 70), bad=st.sets(st.integers(0, 69), max_size=4))
def test_any_culprits_fail_and_all_others_finish(count: int, bad: set[int]) -> None:
    model = Model({float(n) for n in bad})
    outcomes = predict_members([member(n) for n in range(count)], model, ECHO)
    assert set(outcomes) == {f"job{n}" for n in range(count)}
    failed = {job for job, outcome in outcomes.items() if isinstance(outcome, Failure)}
    assert failed == {f"job{n}" for n in bad if n < count}
    halving = 1 + 2 * len(failed) * max(1, ceil(log2(count)) if count > 1 else 1)
    assert model.calls <= (halving if len(failed) < 4 else max(halving, count + 7))


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (lambda rows: {"predictions": [0.0]}, "1 predictions for"),
        (lambda rows: {"predictions": [float("nan")] * len(rows)}, "not finite"),
        (lambda rows: {"predictions": [[0.0, float("inf")]] * len(rows)}, "not finite"),
    ],
)
def test_outputs_that_are_no_answer_fail_the_job(
    outputs: Callable[[list[Any]], dict[str, list[Any]]], words: str
) -> None:
    outcome = predict_members([member(1, rows=2)], outputs, ECHO)["job1"]
    assert isinstance(outcome, Failure)
    assert outcome.code == "predict_failed"
    assert words in outcome.message


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=40),
    most=st.integers(1, 50),
)
def test_stacks_keep_the_order_and_the_bound(sizes: list[int], most: int) -> None:
    members = [member(n, rows=rows) for n, rows in enumerate(sizes)]
    left, found = members, []
    while left:
        found.append(next_stack(left, most, is_batchable=True))
        left = left[len(found[-1]) :]
    assert [one for stack in found for one in stack] == members
    for stack in found:
        assert len(stack) == 1 or sum(len(one.rows) for one in stack) <= most


def test_members_that_may_not_be_mixed_are_alone() -> None:
    members = [member(n) for n in range(3)]
    assert next_stack(members, 100, is_batchable=False) == members[:1]


def test_a_model_that_raises_on_everything_is_not_bisected_to_the_end() -> None:
    model = Model({float(n) for n in range(64)})
    outcomes = predict_members([member(n) for n in range(64)], model, ECHO)
    assert all(isinstance(outcome, Failure) for outcome in outcomes.values())
    assert len(outcomes) == 64
    assert model.calls <= 64 + 7


@pytest.mark.parametrize("bad", [{5.0}, set(map(float, range(64)))])
def test_a_search_for_culprits_that_takes_too_long_ends_with_one_outcome_at_least(
    bad: set[float],
) -> None:
    model = Model(bad)
    members = [member(n) for n in range(64)]
    outcomes = predict_members(members, model, ECHO, is_over=lambda: model.calls >= 3)
    assert 0 < len(outcomes) < 64
    assert model.calls <= 4


def test_what_ends_a_predict_from_outside_is_not_the_models() -> None:
    model = Model({1.0}, TimeoutError())
    with pytest.raises(TimeoutError):
        predict_members([member(1)], model, ECHO, raised_on=(TimeoutError,))
