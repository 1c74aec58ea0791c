"""Strict validation of rows against a signature, into lists in signature order.

The gateway and the client check before a job exists, the worker checks jobs that others pushed;
both call `check_rows`, in plain Python, so that the submitting side needs no numpy. Nothing is
coerced: "5.1" is no number, true is no number, null is nothing. Each fault is named with its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from yard.contract.values import Column, Signature
from yard.errors import InvalidInput, TooLarge

#: Most faults that one error names.
MAX_INPUT_ERRORS = 20

_FLOAT32_MAX = 3.4028234663852886e38
_INT64_MIN, _INT64_MAX, _UINT64_MAX = -(2**63), 2**63 - 1, 2**64 - 1
_NUMERIC = ("float64", "float32")
_PLAIN_NUMBERS = ({float}, {int}, {float, int})


def check_rows(
    signature: Signature,
    *,
    instances: Any = None,
    inputs: Any = None,
    most_rows: int = 10_000,
) -> list[list[Any]]:
    """Returns the rows as lists in signature order, every cell of its column's type.

    Args:
        signature: The version's signature.
        instances: Rows: lists in signature order, objects by input name, or bare values if there is
            one input.
        inputs: Columns by input name, all of one length. Exactly one of the two is given.
        most_rows: Rows at most.

    Returns:
        ``(rows, columns)`` nested lists, at least one row.

    Raises:
        InvalidInput: Naming each faulty place, up to `MAX_INPUT_ERRORS`.
        TooLarge: There are more than ``most_rows`` rows.
    """
    if (instances is None) == (inputs is None):
        raise InvalidInput.at([], "give exactly one of 'instances' (rows) and 'inputs' (columns)")
    if instances is None:
        return _from_columns(signature, inputs, most_rows)
    if not isinstance(instances, list | tuple):
        raise InvalidInput.at(["instances"], f"must be a list of rows, not {_kind(instances)}")
    _check_count(len(instances), most_rows, "instances")
    if all(column.type in _NUMERIC for column in signature.inputs) and _are_plain(
        signature, instances
    ):
        return list(instances)
    return _from_rows(signature, instances)


def check_outputs(signature: Signature, outputs: Any) -> tuple[str, ...] | None:
    """Returns the wanted outputs, or None for all.

    Raises:
        InvalidInput: Naming an output that the signature does not have.
    """
    if outputs is None:
        return None
    if not isinstance(outputs, list | tuple) or not outputs:
        raise InvalidInput.at(["outputs"], "must be a list of at least one output name")
    for place, name in enumerate(outputs):
        if name not in signature.output_names:
            raise InvalidInput.at(
                ["outputs", place], f"unknown output; there are {_listed(signature.output_names)}"
            )
    return tuple(outputs)


def _are_plain(signature: Signature, rows: Sequence[Any]) -> bool:
    """True if every row is a list of finite numbers, as wide as it must be: the common case."""
    width = len(signature.inputs)
    narrow = any(column.type == "float32" for column in signature.inputs)
    try:
        for row in rows:
            if type(row) is not list or len(row) != width:
                return False
            kinds = set(map(type, row))
            if kinds not in _PLAIN_NUMBERS:
                return False
            # An infinity or a NaN stays in a sum; a mere overflow is sorted out cell by cell.
            if not isfinite(sum(row)):
                return False
            if int in kinds and not (min(row) >= _INT64_MIN and max(row) <= _INT64_MAX):
                return False
            if narrow and (max(row) > _FLOAT32_MAX or min(row) < -_FLOAT32_MAX):
                return False
    except OverflowError:  # an int beyond a double
        return False
    return True


def _from_rows(signature: Signature, instances: Sequence[Any]) -> list[list[Any]]:
    errors: list[dict[str, Any]] = []
    rows: list[list[Any]] = []
    for place, instance in enumerate(instances):
        rows.append(_row(signature, instance, ["instances", place], errors))
        if len(errors) >= MAX_INPUT_ERRORS:
            break
    if errors:
        raise InvalidInput.of(errors[:MAX_INPUT_ERRORS])
    return rows


def _row(
    signature: Signature, instance: Any, loc: list[str | int], errors: list[dict[str, Any]]
) -> list[Any]:
    """One row in signature order; faults go to ``errors``."""
    columns = signature.inputs
    if isinstance(instance, dict):
        return _row_by_name(signature, instance, loc, errors)
    if isinstance(instance, list | tuple):
        if len(instance) != len(columns):
            errors.append(
                {
                    "loc": loc,
                    "msg": f"has {len(instance)} values, the signature has {len(columns)} inputs",
                }
            )
            return []
        return [
            _cell(column, value, [*loc, place], errors)
            for place, (column, value) in enumerate(zip(columns, instance, strict=True))
        ]
    if len(columns) == 1:
        return [_cell(columns[0], instance, loc, errors)]
    errors.append(
        {
            "loc": loc,
            "msg": f"must be a list of {len(columns)} values or an object, not {_kind(instance)}",
        }
    )
    return []


def _row_by_name(
    signature: Signature,
    instance: Mapping[str, Any],
    loc: list[str | int],
    errors: list[dict[str, Any]],
) -> list[Any]:
    for name in instance:
        if len(errors) >= MAX_INPUT_ERRORS:  # a body may hold a million names
            return []
        if name not in signature.positions:
            errors.append(
                {
                    "loc": [*loc, str(name)[:80]],
                    "msg": f"unknown input; there are {_listed(signature.names)}",
                }
            )
    row = []
    for column in signature.inputs:
        if column.name in instance:
            row.append(_cell(column, instance[column.name], [*loc, column.name], errors))
        else:
            errors.append({"loc": [*loc, column.name], "msg": "is missing"})
    return row


def _from_columns(signature: Signature, inputs: Any, most_rows: int) -> list[list[Any]]:
    if not isinstance(inputs, dict):
        raise InvalidInput.at(
            ["inputs"], f"must be an object of columns by name, not {_kind(inputs)}"
        )
    errors: list[dict[str, Any]] = []
    for name, values in inputs.items():
        if len(errors) >= MAX_INPUT_ERRORS:
            break
        if name not in signature.positions:
            errors.append(
                {
                    "loc": ["inputs", str(name)[:80]],
                    "msg": f"unknown input; there are {_listed(signature.names)}",
                }
            )
        elif not isinstance(values, list | tuple):
            errors.append(
                {"loc": ["inputs", name], "msg": f"must be a list of values, not {_kind(values)}"}
            )
    errors += [
        {"loc": ["inputs", name], "msg": "is missing"}
        for name in signature.names
        if name not in inputs
    ]
    if errors:
        raise InvalidInput.of(errors[:MAX_INPUT_ERRORS])
    lengths = {name: len(inputs[name]) for name in signature.names}
    count = lengths[signature.names[0]]
    for name, length in lengths.items():
        if length != count:
            msg = f"has {length} values, {signature.names[0]!r} has {count}"
            raise InvalidInput.at(["inputs", name], msg)
    _check_count(count, most_rows, "inputs")
    for column in signature.inputs:
        for place, value in enumerate(inputs[column.name]):
            _cell(column, value, ["inputs", column.name, place], errors)
            if len(errors) >= MAX_INPUT_ERRORS:
                raise InvalidInput.of(errors)
    if errors:
        raise InvalidInput.of(errors)
    return [list(row) for row in zip(*(inputs[name] for name in signature.names), strict=True)]


def _check_count(count: int, most: int, what: str) -> None:
    if count == 0:
        raise InvalidInput.at([what], "must hold at least one row")
    if count > most:
        raise TooLarge(f"{what} has {count} rows, the bound is {most}")


def _cell(column: Column, value: Any, loc: list[str | int], errors: list[dict[str, Any]]) -> Any:
    """``value`` if it is of the column's type; else its fault goes to ``errors``."""
    fault = _fault(column, value)
    if fault is not None:
        errors.append({"loc": loc, "msg": fault})
    return value


def _fault(column: Column, value: Any) -> str | None:
    kind = type(value)
    match column.type:
        case "string":
            return None if kind is str else f"must be a string, not {_kind(value)}"
        case "bool":
            return None if kind is bool else f"must be true or false, not {_kind(value)}"
        case "int64":
            if kind is not int:
                return f"must be a whole number, not {_kind(value)}"
            return None if _INT64_MIN <= value <= _INT64_MAX else "does not fit into 64 bits"
    if kind is not float and kind is not int:
        return f"must be a number, not {_kind(value)}"
    if kind is int and not _INT64_MIN <= value <= _UINT64_MAX:  # JSON of ours has no longer ones
        return "is too large for a whole number, it does not fit into 64 bits"
    if not isfinite(value):
        return "must be finite, not NaN or infinity"
    if column.type == "float32" and abs(value) > _FLOAT32_MAX:
        return "is too large for a number of 32 bits"
    return None


def _kind(value: Any) -> str:
    """JSON's name of the type of ``value``."""
    names = {
        type(None): "null",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
    }
    names |= {list: "a list", tuple: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:10])
    return shown + (f" and {len(names) - 10} more" if len(names) > 10 else "")
