"""Rows against a signature: bad input is refused with its place, and nothing is coerced."""

from __future__ import annotations

import math
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.refusals import BAD_NUMBERS, BAD_OUTPUTS, BAD_ROWS, Refusal, columns
from tests.helpers.stand_ins import IRIS, ROW, TEXT
from yard.contract import wire
from yard.contract.validation import MAX_INPUT_ERRORS, check_outputs, check_rows
from yard.contract.values import Column, Output, Signature
from yard.errors import InvalidInput, TooLarge

TYPES = ("float64", "float32", "int64", "bool", "string")


def signature(*types: str) -> Signature:
    named = [{"name": f"x{n}", "type": kind} for n, kind in enumerate(types)]
    inputs = [Column.model_validate(column) for column in named]
    return Signature(inputs=inputs, outputs=[Output(name="predictions", type="float64")])


MIXED = signature("int64", "bool", "string", "float32")


ROWS = BAD_ROWS | BAD_NUMBERS


@pytest.mark.parametrize("refusal", ROWS.values(), ids=ROWS)
def test_bad_rows_are_refused_with_their_place(refusal: Refusal):
    with pytest.raises(InvalidInput) as caught:
        check_rows(IRIS, **refusal.arguments)
    assert caught.value.code == refusal.code
    assert caught.value.errors[0]["loc"] == refusal.loc
    assert refusal.msg in caught.value.errors[0]["msg"]


def test_the_message_says_the_place_as_one_would_write_it():
    with pytest.raises(InvalidInput) as caught:
        check_rows(IRIS, instances=[ROW, [1, "x", 1, 1]])
    assert caught.value.message == "instances[1][1]: must be a number, not a string"


@pytest.mark.parametrize("given_", [{}, {"instances": [ROW], "inputs": {"a": [1]}}])
def test_exactly_one_of_rows_and_columns_is_given(given_: dict[str, Any]):
    with pytest.raises(InvalidInput, match="exactly one of"):
        check_rows(IRIS, **given_)


@pytest.mark.parametrize(
    ("kind", "value", "msg"),
    [
        ("float32", 3.5e38, "too large for a number of 32 bits"),
        ("float32", -3.5e38, "too large for a number of 32 bits"),
        ("float32", 10**39, "64 bits"),
        ("float32", math.nan, "must be finite"),
        ("int64", 1.0, "must be a whole number, not a number"),
        ("int64", True, "must be a whole number, not a boolean"),
        ("int64", "1", "must be a whole number, not a string"),
        ("int64", 2**63, "does not fit into 64 bits"),
        ("int64", -(2**63) - 1, "does not fit into 64 bits"),
        ("bool", 1, "must be true or false, not a number"),
        ("bool", "true", "must be true or false, not a string"),
        ("bool", None, "must be true or false, not null"),
        ("string", 1, "must be a string, not a number"),
        ("string", None, "must be a string, not null"),
        ("string", ["x"], "must be a string, not a list"),
    ],
)
def test_a_value_of_another_type_is_refused(kind: str, value: Any, msg: str):
    for call in (
        {"instances": [[value]]},
        {"instances": [{"x0": value}]},
        {"inputs": {"x0": [value]}},
    ):
        with pytest.raises(InvalidInput) as caught:
            check_rows(signature(kind), **call)
        assert msg in caught.value.errors[0]["msg"]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("float64", [0, -0.0, 1.7976931348623157e308, 5e-324, 2**63, 2**64 - 1, -(2**63)]),
        ("float32", [3.4028234663852886e38, 1, -1.5]),
        ("int64", [2**63 - 1, -(2**63), 0]),
        ("bool", [True, False]),
        ("string", ["", "a\0b", "\u00e9", "5.1"]),
    ],
)
def test_values_at_the_edge_of_their_type_are_taken_as_they_are(kind: str, values: list[Any]):
    for call in (
        {"instances": values},
        {"instances": [[v] for v in values]},
        {"inputs": {"x0": values}},
    ):
        rows = check_rows(signature(kind), **call)
        assert rows == [[value] for value in values]
        assert [type(row[0]) for row in rows] == [type(value) for value in values]


def test_large_values_whose_sum_overflows_are_fine():
    rows = [[1.7e308, 1.7e308, -1.7e308, 0.0]]
    assert check_rows(IRIS, instances=rows) == rows


def test_all_forms_of_the_same_rows_are_equal():
    rows = [[1, True, "x", 0.5], [2, False, "y", 1.5]]
    names = MIXED.names
    assert check_rows(MIXED, instances=rows) == rows
    assert check_rows(MIXED, instances=[dict(zip(names, row, strict=True)) for row in rows]) == rows
    assert check_rows(MIXED, instances=[tuple(row) for row in rows]) == rows
    by_name = dict(zip(names, zip(*rows, strict=True), strict=True))
    assert check_rows(MIXED, inputs=by_name) == rows


def test_objects_may_name_inputs_in_any_order_and_mix_with_lists():
    rows = [{"d": 4, "c": 3, "b": 2, "a": 1}, [5, 6, 7, 8]]
    assert check_rows(IRIS, instances=rows) == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_a_text_model_takes_bare_strings():
    assert check_rows(TEXT, instances=["good", "bad"]) == [["good"], ["bad"]]


def test_a_row_over_the_bound_is_too_large_before_any_row_is_looked_at():
    assert len(check_rows(IRIS, instances=[ROW] * 10_000)) == 10_000
    with pytest.raises(TooLarge, match="10001 rows, the bound is 10000"):
        check_rows(IRIS, instances=[None] * 10_001)
    with pytest.raises(TooLarge, match="11 rows, the bound is 10"):
        check_rows(IRIS, inputs=columns("abcd", ["x"] * 11), most_rows=10)


def test_several_faults_are_named_in_order_up_to_a_bound():
    with pytest.raises(InvalidInput) as caught:
        check_rows(IRIS, instances=[[1, "x", None, 1], ROW, [1]])
    assert [error["loc"] for error in caught.value.errors] == [
        ["instances", 0, 1],
        ["instances", 0, 2],
        ["instances", 2],
    ]
    assert caught.value.message.endswith("(and 2 more)")
    for call in ({"instances": [["x"] * 4] * 100}, {"inputs": columns("abcd", ["x"] * 100)}):
        with pytest.raises(InvalidInput) as caught:
            check_rows(IRIS, **call)
        assert len(caught.value.errors) == MAX_INPUT_ERRORS


@pytest.mark.parametrize(
    "call",
    [
        {"instances": [{f"n{n}": 1 for n in range(1_000_000)}]},
        {"inputs": {f"n{n}": [1] for n in range(1_000_000)}},
        {"instances": [["x"] * 1_000_000]},
        {"inputs": columns("abcd", [None] * 10_000)},
    ],
    ids=["names of a row", "names of columns", "values of a row", "values of columns"],
)
def test_a_body_full_of_faults_costs_no_time_or_memory(call: dict[str, Any]):
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(InvalidInput) as caught:
        check_rows(IRIS, **call)
    spent = time.process_time() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(caught.value.errors) <= MAX_INPUT_ERRORS
    assert peak < 1_000_000
    assert spent < 0.5


def test_long_names_and_many_inputs_are_shortened_in_messages():
    wide = signature(*["float64"] * 1000)
    with pytest.raises(InvalidInput) as caught:
        check_rows(wide, instances=[{"y" * 10_000: 1}])
    assert len(caught.value.errors[0]["loc"][-1]) <= 80
    assert "and 990 more" in caught.value.errors[0]["msg"]
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("refusal", BAD_OUTPUTS.values(), ids=BAD_OUTPUTS)
def test_unknown_outputs_are_refused(refusal: Refusal):
    with pytest.raises(InvalidInput) as caught:
        check_outputs(IRIS, refusal.arguments["outputs"])
    assert caught.value.errors[0]["loc"] == refusal.loc
    assert refusal.msg in caught.value.errors[0]["msg"]


def test_wanted_outputs_are_taken_and_none_means_all():
    assert check_outputs(IRIS, ["probabilities"]) == ("probabilities",)
    assert check_outputs(IRIS, None) is None


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.sampled_from(["", "a", "5.1", "x0"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["x0", "x1", "x2", "y"]), inner, max_size=4)
    ),
    max_leaves=12,
)
SIGNATURES = st.lists(st.sampled_from(TYPES), min_size=1, max_size=3).map(lambda t: signature(*t))
ARGUMENTS = st.dictionaries(st.sampled_from(["instances", "inputs"]), ANYTHING, max_size=2)


def fits(kind: str, value: Any) -> bool:
    """True if a value is of a column's type, by rules beside the code under test."""
    if kind == "string":
        return type(value) is str
    if kind == "bool":
        return type(value) is bool
    if kind == "int64":
        return type(value) is int and -(2**63) <= value < 2**63
    bound = 3.4028234663852886e38 if kind == "float32" else math.inf
    return type(value) in (int, float) and math.isfinite(value) and abs(value) <= bound


@given(SIGNATURES, ARGUMENTS)
def test_any_value_becomes_rows_of_the_right_types_or_is_refused(
    wanted: Signature, arguments: dict[str, Any]
):
    try:
        rows = check_rows(wanted, most_rows=3, **arguments)
    except (InvalidInput, TooLarge):
        return
    assert 1 <= len(rows) <= 3
    for row in rows:
        assert len(row) == len(wanted.inputs)
        assert all(fits(column.type, v) for column, v in zip(wanted.inputs, row, strict=True))
    assert wire.loads(wire.dumps(rows)) == rows


VALUES = {
    "float64": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1),
    "float32": st.floats(allow_nan=False, allow_infinity=False, width=32),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "bool": st.booleans(),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
}


@given(SIGNATURES, st.data())
def test_good_rows_come_back_the_same_from_every_form(wanted: Signature, data: st.DataObject):
    cells = st.tuples(*(VALUES[column.type] for column in wanted.inputs)).map(list)
    rows = data.draw(st.lists(cells, min_size=1, max_size=4))
    by_name = dict(zip(wanted.names, zip(*rows, strict=True), strict=True))
    objects = [dict(zip(wanted.names, row, strict=True)) for row in rows]
    assert check_rows(wanted, instances=rows) == rows
    assert check_rows(wanted, instances=objects) == rows
    assert check_rows(wanted, inputs=by_name) == rows


@given(st.lists(st.lists(ANYTHING, min_size=2, max_size=2), min_size=1, max_size=3))
def test_the_fast_way_takes_nothing_that_the_slow_way_refuses(rows: list[list[Any]]):
    """A column of strings beside the numbers makes `check_rows` take the slow way."""
    numbers, beside = signature("float64", "float64"), signature("float64", "float64", "string")

    def outcome(wanted: Signature, instances: list[list[Any]]) -> Any:
        try:
            return [row[:2] for row in check_rows(wanted, instances=instances)]
        except InvalidInput as error:
            return error.errors

    assert outcome(numbers, rows) == outcome(beside, [[*row, ""] for row in rows])
