"""Rows against a signature: every bad input is refused with its place, and nothing is coerced."""

from __future__ import annotations

import math
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def columns(names: str, values: list[Any]) -> dict[str, list[Any]]:
    return {name: list(values) for name in names}


# What is wrong -> instances, loc and message of the first error.
BAD_INSTANCES: dict[str, tuple[Any, list[str | int], str]] = {
    "no list": ("abc", ["instances"], "must be a list of rows, not a string"),
    "an object": ({"a": 1}, ["instances"], "must be a list of rows, not an object"),
    "a number": (5, ["instances"], "must be a list of rows, not a number"),
    "false": (False, ["instances"], "must be a list of rows, not a boolean"),
    "no row": ([], ["instances"], "must hold at least one row"),
    "an empty row": ([[]], ["instances", 0], "has 0 values, the signature has 4 inputs"),
    "too few values": ([ROW, ROW[:3]], ["instances", 1], "has 3 values, the signature has 4"),
    "too many values": ([[*ROW, 1]], ["instances", 0], "has 5 values, the signature has 4"),
    "a bare value": ([5.1], ["instances", 0], "must be a list of 4 values or an object"),
    "a null row": ([ROW, None], ["instances", 1], "list of 4 values or an object, not null"),
    "a string for a row": (["abcd"], ["instances", 0], "or an object, not a string"),
    "a string": ([ROW, [1, "5.1", 1, 1]], ["instances", 1, 1], "must be a number, not a string"),
    "a boolean": ([[1, 1, True, 1]], ["instances", 0, 2], "must be a number, not a boolean"),
    "a null": ([[None, 1, 1, 1]], ["instances", 0, 0], "must be a number, not null"),
    "a list": ([[1, 1, 1, [1]]], ["instances", 0, 3], "must be a number, not a list"),
    "an object for a value": ([[1, 1, 1, {}]], ["instances", 0, 3], "not an object"),
    "NaN": ([[1, 1, 1, math.nan]], ["instances", 0, 3], "must be finite"),
    "infinity": ([[1, math.inf, 1, 1]], ["instances", 0, 1], "must be finite"),
    "infinities that cancel": ([[math.inf, -math.inf, 1, 1]], ["instances", 0, 0], "be finite"),
    "an integer beyond a double": ([[10**400, 1, 1, 1]], ["instances", 0, 0], "too large"),
    "integers that cancel": ([[10**400, -(10**400), 1, 1]], ["instances", 0, 0], "too large"),
    "an integer beyond JSON's": ([[1, -(2**63) - 1, 1, 1]], ["instances", 0, 1], "64 bits"),
    "a missing input": ([{"a": 1, "b": 1, "c": 1}], ["instances", 0, "d"], "is missing"),
    "an unknown input": (
        [dict.fromkeys("abcde", 1)],
        ["instances", 0, "e"],
        "unknown input; there are 'a', 'b', 'c', 'd'",
    ),
    "a named string": ([dict.fromkeys("abc", 1) | {"d": "1"}], ["instances", 0, "d"], "a number"),
}

BAD_INPUTS: dict[str, tuple[Any, list[str | int], str]] = {
    "a list": ([[1]], ["inputs"], "must be an object of columns by name, not a list"),
    "nothing": ({}, ["inputs", "a"], "is missing"),
    "one missing": (columns("abc", [1]), ["inputs", "d"], "is missing"),
    "one unknown": (columns("abcde", [1]), ["inputs", "e"], "unknown input"),
    "no list": (columns("abc", [1]) | {"d": 1}, ["inputs", "d"], "must be a list of values"),
    "ragged": (
        columns("abc", [1, 2]) | {"d": [1]},
        ["inputs", "d"],
        "has 1 values, 'a' has 2",
    ),
    "empty": (columns("abcd", []), ["inputs"], "must hold at least one row"),
    "a string": (
        columns("abc", [1, 2]) | {"d": [1, "2"]},
        ["inputs", "d", 1],
        "must be a number, not a string",
    ),
    "NaN": (columns("bcd", [1]) | {"a": [math.nan]}, ["inputs", "a", 0], "must be finite"),
}


@pytest.mark.parametrize(("instances", "loc", "msg"), BAD_INSTANCES.values(), ids=BAD_INSTANCES)
def test_bad_instances_are_refused_with_their_place(instances: Any, loc: list[str | int], msg: str):
    with pytest.raises(InvalidInput) as caught:
        check_rows(IRIS, instances=instances)
    assert caught.value.errors[0]["loc"] == loc
    assert msg in caught.value.errors[0]["msg"]


@pytest.mark.parametrize(("inputs", "loc", "msg"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_inputs_are_refused_with_their_place(inputs: Any, loc: list[str | int], msg: str):
    with pytest.raises(InvalidInput) as caught:
        check_rows(IRIS, inputs=inputs)
    assert caught.value.errors[0]["loc"] == loc
    assert msg in caught.value.errors[0]["msg"]


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


@pytest.mark.parametrize(
    ("outputs", "loc", "msg"),
    [
        ("predictions", ["outputs"], "must be a list"),
        ([], ["outputs"], "at least one"),
        ({"predictions": 1}, ["outputs"], "must be a list"),
        (["predictions", "magic"], ["outputs", 1], "'predictions', 'probabilities'"),
        ([["predictions"]], ["outputs", 0], "unknown output"),
        ([None], ["outputs", 0], "unknown output"),
    ],
)
def test_unknown_outputs_are_refused(outputs: Any, loc: list[str | int], msg: str):
    with pytest.raises(InvalidInput) as caught:
        check_outputs(IRIS, outputs)
    assert caught.value.errors[0]["loc"] == loc
    assert msg in caught.value.errors[0]["msg"]


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
    """Whether a value is of a column's type, said without the code under test."""
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
