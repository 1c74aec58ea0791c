"""Conversion of rows to arrays and of arrays to plain values, one call each way.

Rows come from `yard.contract.validation`, checked, as nested lists; estimators take arrays, or a
list of strings where the input is text. Answers go back as lists of str, int, float, bool, which
JSON can carry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from yard.contract import Column, ColumnType, Output
from yard.errors import PredictFailed

Rows = list[list[Any]]
ToInputs = Callable[[Rows], Any]

_DTYPES: dict[frozenset[ColumnType], Any] = {
    frozenset({"int64"}): np.int64,
    frozenset({"bool"}): np.bool_,
    # ``float32`` says which numbers a cell may hold. Doubles are passed on, so that an answer is
    # bit by bit that of the bare estimator on the same rows: a scaler before a tree computes in
    # doubles.
    frozenset({"float64"}): np.float64,
    frozenset({"float32"}): np.float64,
    frozenset({"float64", "float32"}): np.float64,
}


def table_converter(columns: Sequence[Column]) -> ToInputs:
    """Returns a function that makes ``(rows, columns)`` arrays, of objects if types are mixed."""
    dtype = _DTYPES.get(frozenset(column.type for column in columns), np.object_)

    def to_array(rows: Rows) -> Any:
        return np.array(rows, dtype=dtype)

    return to_array


def to_texts(rows: Rows) -> list[str]:
    """Returns the strings of a single column, as vectorizers take them."""
    return [row[0] for row in rows]


def output_values(output: Output, values: Any, count: int) -> list[Any]:
    """Returns the first ``count`` answers of one output, in plain Python values.

    Args:
        output: The output in the signature.
        values: ``(rows, *output.shape)``, an array or what can become one.
        count: Rows of the request; rows of padding come after them.

    Raises:
        PredictFailed: A number is not finite; ``row`` is the first with one.
    """
    values = np.asarray(values)[:count]
    if output.type in ("float64", "float32"):
        values = values.astype(np.float64, copy=False)
        if not np.isfinite(values).all():
            raise _not_finite(output, values)
        return values.tolist()  # type: ignore[no-any-return]
    listed: list[Any] = values.tolist()
    return to_plain(listed) if values.dtype.hasobject else listed


def to_plain(value: Any) -> Any:
    """Returns ``value`` with NumPy's scalars inside lists made Python's."""
    if isinstance(value, list):
        return [to_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _not_finite(output: Output, values: Any) -> PredictFailed:
    row = int(np.argmin(np.isfinite(values).reshape(len(values), -1).all(axis=1)))
    return PredictFailed(f"output {output.name!r} of row {row} is not a finite number", row)
