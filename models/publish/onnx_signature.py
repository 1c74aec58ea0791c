"""Signature of an ONNX file, derived from its graph and its answers to the example.

The graph names its inputs and their types; its answers show what its outputs mean: labels beside
numbers that add up to one are a classifier's, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.formats import OnnxFile
from models.publish.sklearn_signature import TEXT
from models.runtimes import tensors
from yard.contract import Column, ColumnType, Output, Signature, Task, check_rows
from yard.errors import ConfigurationError, InvalidInput

_TYPES: dict[str, ColumnType] = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int64",
    "tensor(bool)": "bool",
    "tensor(string)": "string",
}
_KINDS: dict[str, ColumnType] = {
    "f": "float64",
    "i": "int64",
    "u": "int64",
    "b": "bool",
    "O": "string",
    "U": "string",
}
#: Allowed distance of the sum of a row's probabilities from one.
_SUM = 1e-3


@dataclass(frozen=True, slots=True)
class _GraphOutput:
    name: str
    values: Any
    classes: tuple[Any, ...] | None = None


def derive_onnx_signature(
    session: Any, known: OnnxFile, example: Sequence[Any], feature_names: Sequence[str] | None
) -> Signature:
    """Returns the signature of a graph.

    Args:
        session: Of onnxruntime.
        known: The file's contents.
        example: Rows that it answers, in the form of a request's ``instances``.
        feature_names: The names of the inputs, in order, instead of the graph's own.

    Raises:
        InvalidInput: The example or the names do not fit.
        ConfigurationError: Its inputs or outputs are nothing that rows can be made of.
        Exception: Any error of onnxruntime on the example.
    """
    if not example:
        raise InvalidInput.at(["example"], "must hold at least one row")
    most = tensors.rows_per_run(session)
    columns = _columns(session, example, feature_names)
    inputs = Signature(inputs=columns, outputs=(Output(name="predictions", type="float64"),))
    rows = check_rows(inputs, instances=list(example))[:most]
    feeds = tensors.find_feeds(session, inputs)(rows)
    names = [output.name for output in session.get_outputs()]
    graph_outputs = [
        _graph_output(name, value, len(rows))
        for name, value in zip(names, session.run(None, feeds), strict=True)
    ]
    return _signature_of(columns, graph_outputs, known)


def _columns(
    session: Any, example: Sequence[Any], feature_names: Sequence[str] | None
) -> tuple[Column, ...]:
    inputs = session.get_inputs()
    for each in inputs:
        if each.type not in _TYPES:
            raise ConfigurationError(
                f"ONNX: input {each.name!r} is of type {each.type}, which no column has"
            )
    if len(inputs) > 1:
        for each in inputs:
            if len(each.shape) == 2 and each.shape[1] != 1:
                raise ConfigurationError(
                    f"ONNX: has several inputs, of which {each.name!r} takes {each.shape}; what "
                    "can be served has one input for each column, or one of all columns"
                )
        kinds = [each.type for each in inputs]
        names = [str(each.name) for each in inputs]
    else:
        width = _width(inputs[0], example)
        kinds = [inputs[0].type] * width
        is_text = kinds == ["tensor(string)"]
        names = [TEXT] if is_text else [f"x{place}" for place in range(width)]
    if feature_names is not None:
        if len(feature_names) != len(names) or len(set(feature_names)) != len(names):
            raise InvalidInput.at(
                ["feature_names"],
                f"must be {len(names)} different names, one for each input that it takes",
            )
        names = [str(name) for name in feature_names]
    return tuple(
        Column(name=name, type=_TYPES[kind]) for name, kind in zip(names, kinds, strict=True)
    )


def _width(known: Any, example: Sequence[Any]) -> int:
    if len(known.shape) == 1:
        return 1
    if len(known.shape) == 2 and isinstance(known.shape[1], int):
        return int(known.shape[1])
    first = example[0]
    return len(first) if isinstance(first, list | tuple | dict) else 1


def _graph_output(name: str, value: Any, count: int) -> _GraphOutput:
    """Returns one output's answers to the example as ``(rows, ...)``."""
    if isinstance(value, list):
        classes = tuple(value[0]) if value and isinstance(value[0], dict) else ()
        if not classes:
            raise ConfigurationError(f"ONNX: output {name!r} is a list of no known form")
        return _GraphOutput(name, tensors.stack_probabilities(value), classes)
    values = np.asarray(value)
    if values.ndim == 0 or len(values) != count or values.dtype.kind not in _KINDS:
        raise ConfigurationError(
            f"ONNX: output {name!r} has the shape {values.shape} for {count} rows; it must have an "
            "answer for each"
        )
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    return _GraphOutput(name, values)


def _signature_of(
    columns: tuple[Column, ...], graph_outputs: Sequence[_GraphOutput], known: OnnxFile
) -> Signature:
    first, rest = graph_outputs[0], graph_outputs[1:]
    is_label = first.values.ndim == 1 and first.values.dtype.kind != "f"
    if is_label and rest and _are_probabilities(rest[0].values):
        classes = rest[0].classes or known.labels
        fits = classes is not None and len(classes) == rest[0].values.shape[1]
        return Signature(
            inputs=columns,
            outputs=(_output("predictions", first), _output("probabilities", rest[0])),
            classes=classes if fits else None,
            task="classifier",
        )
    task: Task = "transformer"
    if is_label:
        task = "clusterer" if rest else "classifier"
    elif first.values.ndim == 1:
        task = "regressor"
    outputs = (_output("predictions", first), *(_output(each.name, each) for each in rest))
    return Signature(inputs=columns, outputs=outputs, task=task)


def _are_probabilities(values: Any) -> bool:
    return bool(
        values.ndim == 2
        and values.dtype.kind == "f"
        and (values >= 0).all()
        and (np.abs(values.sum(axis=1) - 1) <= _SUM).all()
    )


def _output(name: str, graph_output: _GraphOutput) -> Output:
    kind = _KINDS[graph_output.values.dtype.kind]
    return Output(name=name, type=kind, shape=graph_output.values.shape[1:])
