"""Tensors of an ONNX graph: made from rows, and converted to answers.

`models.runtimes.onnx_session` runs a graph with it, and `models.publish.onnx_signature` derives a
graph's signature with it. A graph takes one table of all columns, or a tensor for each column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime

from models.runtimes import arrays
from yard.contract import Output, Signature
from yard.errors import ConfigurationError, PredictFailed

_DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}
#: Converts rows to tensors, by input name.
Feeds = Callable[[arrays.Rows], dict[str, Any]]


def output_names(session: onnxruntime.InferenceSession, signature: Signature) -> list[str]:
    """Returns the graph's outputs in the signature's order: by name, else by place.

    Raises:
        ConfigurationError: There are too few.
    """
    known = [output.name for output in session.get_outputs()]
    if set(signature.output_names) <= set(known):
        return list(signature.output_names)
    if len(known) < len(signature.outputs):
        raise ConfigurationError(
            f"ONNX: has the outputs {', '.join(known)}, the signature has "
            f"{', '.join(signature.output_names)}"
        )
    return known[: len(signature.outputs)]


def find_feeds(session: onnxruntime.InferenceSession, signature: Signature) -> Feeds:
    """Returns the conversion of rows to tensors: one of all columns, or one for each, in order.

    Raises:
        ConfigurationError: The graph's inputs are neither, or of a type that no column has.
    """
    inputs = session.get_inputs()
    for known in inputs:
        if known.type not in _DTYPES:
            raise ConfigurationError(f"ONNX: input {known.name!r} is of type {known.type}")
    if len(inputs) == 1:
        return _one_feed(inputs[0])
    if len(inputs) != len(signature.inputs):
        raise ConfigurationError(
            f"ONNX: has {len(inputs)} inputs, the signature has {len(signature.inputs)}"
        )
    return _many_feeds(inputs)


def stack_probabilities(maps: Sequence[Mapping[Any, float]]) -> Any:
    """Returns ``(rows, classes)`` from the list of mappings that skl2onnx returns by default."""
    keys = list(maps[0]) if maps else []
    return np.array([[row[key] for key in keys] for row in maps], dtype=np.float32)


def reshape_output(output: Output, value: Any, count: int) -> Any:
    """Returns ``value`` as ``(count, *shape)``: converters give columns of one instead of scalars.

    Raises:
        PredictFailed: There are not as many answers as rows.
    """
    if len(value) != count:
        raise PredictFailed(f"output {output.name!r} has {len(value)} answers for {count} rows")
    if output.type == "bool":  # a graph's labels are strings or whole numbers
        value = value.astype(np.bool_)
    return value if value.shape[1:] == output.shape else value.reshape(count, *output.shape)


def _one_feed(known: Any) -> Feeds:
    name, dtype, is_flat = known.name, _DTYPES[known.type], len(known.shape) == 1

    def feed(rows: arrays.Rows) -> dict[str, Any]:
        values = np.array(rows, dtype=dtype)
        return {name: values[:, 0] if is_flat else values}

    return feed


def _many_feeds(inputs: Sequence[Any]) -> Feeds:
    known = [(each.name, _DTYPES[each.type], len(each.shape) == 1) for each in inputs]

    def feed(rows: arrays.Rows) -> dict[str, Any]:
        columns = zip(*rows, strict=True)
        return {
            name: np.array(cells, dtype=dtype).reshape(-1 if is_flat else (-1, 1))
            for (name, dtype, is_flat), cells in zip(known, columns, strict=True)
        }

    return feed


def rows_per_run(session: onnxruntime.InferenceSession) -> int | None:
    """Returns the number of rows that the graph takes at once; None for any number.

    Raises:
        ConfigurationError: Some other number than one, or inputs that are no table.
    """
    counts = set()
    for known in session.get_inputs():
        if not 1 <= len(known.shape) <= 2:
            raise ConfigurationError(
                f"ONNX: input {known.name!r} has the shape {known.shape}; what can be served takes "
                "rows of plain values"
            )
        counts.add(known.shape[0] if isinstance(known.shape[0], int) else None)
    if counts == {1} or counts == {None}:
        return counts.pop()
    raise ConfigurationError("ONNX: takes a fixed number of rows at once; make the first axis free")
