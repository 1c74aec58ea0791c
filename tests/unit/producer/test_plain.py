"""Arrays and frames become plain values, by what they have; plain requests stay the same object."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from producer.plain import deeply_plain_request, plain_request, rows_of
from yard.contract import Request


class Frame:
    """A table as pandas has it: columns by name, each with `tolist`."""

    def __init__(self, columns: dict[Any, Any]) -> None:
        self.columns = list(columns)
        self.dtypes = [None] * len(columns)
        self._columns = columns

    def __getitem__(self, name: Any) -> Any:
        return np.array(self._columns[name])


class Sparse:
    def toarray(self) -> Any:
        return np.array([[0, 1]])


FRAME = Frame({"a": [1, 2], "b": [0.5, 1.5]})


@pytest.mark.parametrize(
    ("given", "instances", "inputs"),
    [
        ({"instances": np.array([[1.0, 2.0]])}, [[1.0, 2.0]], None),
        ({"instances": np.array(["x", "y"])}, ["x", "y"], None),
        ({"instances": Sparse()}, [[0, 1]], None),
        ({"instances": FRAME}, None, {"a": [1, 2], "b": [0.5, 1.5]}),
        ({"instances": Frame({0: [1, 2], 1: [3, 4]})}, [[1, 3], [2, 4]], None),
        ({"inputs": FRAME}, None, {"a": [1, 2], "b": [0.5, 1.5]}),
        ({"inputs": {"a": np.array([1]), "b": [2]}}, None, {"a": [1], "b": [2]}),
    ],
)
def test_arrays_and_frames_become_lists(given, instances, inputs):
    plain = plain_request(Request("m", **given))
    assert (plain.instances, plain.inputs) == (instances, inputs)


@pytest.mark.parametrize(
    "request_", [Request("m", instances=[[1, 2]]), Request("m", inputs={"a": [1]}), Request("m")]
)
def test_what_is_plain_is_not_copied(request_):
    assert plain_request(request_) is request_
    assert deeply_plain_request(request_) is None


def test_arrays_and_scalars_inside_of_lists_become_plain():
    rows = [np.array([1.5, 2.5]), [np.float64(3), np.int64(4)], {"x": np.float32(0.5)}]
    plain = deeply_plain_request(Request("m", instances=rows))
    assert plain is not None
    assert plain.instances == [[1.5, 2.5], [3.0, 4], {"x": 0.5}]
    assert [type(cell) for cell in plain.instances[1]] == [float, int]


def test_what_is_no_array_is_left_to_the_check():
    for value in ("text", 5, object()):
        assert plain_request(Request("m", instances=cast("Any", value))).instances is value


def test_rows_of_a_frame_are_rows_and_not_its_names():
    assert rows_of(FRAME) == [{"a": 1, "b": 0.5}, {"a": 2, "b": 1.5}]
    rows = iter([1])
    assert rows_of(rows) is rows


def test_a_frame_of_pandas():
    pandas = pytest.importorskip("pandas")
    plain = plain_request(Request("m", instances=pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]})))
    assert plain.inputs == {"a": [1, 2], "b": ["x", "y"]}
