"""Plain Python values of what callers hold: arrays of NumPy, frames and columns of pandas.

None of these libraries is imported: an array is what has ``tolist``, a frame what has ``columns``
and is read by them. What is plain already, as all that comes from JSON, costs one look at its type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from yard.contract import Request

_PLAIN = (list, tuple, dict, type(None))


def plain_request(request: Request) -> Request:
    """Returns the request with arrays and frames as lists, and columns of a frame as ``inputs``.

    Lists are not looked into; `deeply_plain_request` does that.
    """
    instances, inputs = request.instances, request.inputs
    if is_frame(instances) and inputs is None and _are_names(instances):
        return replace(request, instances=None, inputs=_columns(instances))
    if not isinstance(instances, _PLAIN):
        instances = list(rows_of(instances)) if is_frame(instances) else _listed(instances)
    if is_frame(inputs):
        inputs = _columns(inputs)
    elif isinstance(inputs, Mapping) and not _is_plain_dict(inputs):
        inputs = {name: _listed(values) for name, values in inputs.items()}
    if instances is request.instances and inputs is request.inputs:
        return request
    return replace(request, instances=instances, inputs=inputs)


def deeply_plain_request(request: Request) -> Request | None:
    """Returns the request with scalars and arrays inside its lists as plain values, too.

    Returns:
        None if it holds none.
    """
    if not _holds_arrays(request.instances) and not _holds_arrays(request.inputs):
        return None
    return replace(request, instances=_deep(request.instances), inputs=_deep(request.inputs))


def is_frame(value: Any) -> bool:
    """True for a table with named columns, as those of pandas."""
    return not isinstance(value, _PLAIN) and hasattr(value, "columns") and hasattr(value, "dtypes")


def rows_of(rows: Any) -> Any:
    """Returns the rows: of a frame with names as objects by name, else as lists, as they are."""
    if not is_frame(rows):
        return rows if isinstance(rows, _PLAIN) or not hasattr(rows, "tolist") else _listed(rows)
    columns = [_listed(rows[name]) for name in rows.columns]
    if not _are_names(rows):
        return [list(row) for row in zip(*columns, strict=True)]
    names = list(rows.columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _are_names(frame: Any) -> bool:
    """True if the columns have names; those of a frame made of an array have numbers."""
    return all(isinstance(name, str) for name in frame.columns)


def _columns(frame: Any) -> dict[str, Any]:
    return {str(name): _listed(frame[name]) for name in frame.columns}


def _listed(value: Any) -> Any:
    """The list of an array's or a column's values; what is no such thing as it is."""
    if hasattr(value, "toarray"):  # a sparse matrix
        value = value.toarray()
    for name in ("tolist", "to_list"):
        if not isinstance(value, _PLAIN) and hasattr(value, name):
            return getattr(value, name)()
    return value


def _is_plain_dict(value: Mapping[Any, Any]) -> bool:
    return type(value) is dict and all(isinstance(inner, _PLAIN) for inner in value.values())


def _holds_arrays(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_arrays, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_arrays, value))
    return hasattr(value, "tolist")


def _deep(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _deep(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_deep(inner) for inner in value]
    return _listed(value)
