"""Signature of a fitted estimator, derived from the estimator and an example.

`models.publish.publisher` derives it once a version; every request is checked against it for as
long as the version lives. Names and classes come from the estimator, the columns' types from the
example.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from sklearn.base import is_classifier, is_clusterer, is_outlier_detector, is_regressor
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
from sklearn.pipeline import FeatureUnion, Pipeline

from models.runtimes import arrays, sklearn_calls
from yard.contract import Column, ColumnType, Output, Signature, Task, check_rows
from yard.errors import ConfigurationError, InvalidInput

#: The name of a text model's one input.
TEXT = "text"
#: A number that only a 64-bit column holds, and one that a 32-bit column holds, too.
_BEYOND_32_BITS, _WITHIN_32_BITS = 1e300, 1e30

_TYPES: dict[type, ColumnType] = {
    str: "string",
    bool: "bool",
    int: "float64",  # 5 in an example means that numbers are taken, not that 5.1 is not
    float: "float64",
}


def derive_signature(
    estimator: Any, example: Sequence[Any], feature_names: Sequence[str] | None = None
) -> Signature:
    """Returns the signature of a fitted estimator.

    Args:
        estimator: Fitted, of scikit-learn's kind.
        example: Rows that it answers, in the form of a request's ``instances``.
        feature_names: The names of the inputs, in order; by default those that it was fitted with,
            or ``x0``, ``x1`` and so on.

    Raises:
        InvalidInput: The example or the names do not fit the estimator.
        ConfigurationError: It is nothing that predicts or transforms.
        Exception: Any error of the estimator on the example.
    """
    if not example:
        raise InvalidInput.at(["example"], "must hold at least one row")
    task = find_task(estimator)
    names = _names(estimator, example, feature_names)
    columns = tuple(
        Column(name=name, type=_type(name, [_cell(row, place, name) for row in example]))
        for place, name in enumerate(names)
    )
    inputs = Signature(inputs=columns, outputs=(Output(name="predictions", type="float64"),))
    rows = check_rows(inputs, instances=list(example))
    to_inputs = sklearn_calls.find_inputs(estimator, inputs, rows)
    classes = _classes(estimator, task)
    return Signature(
        inputs=_narrow_columns(estimator, columns, rows),
        outputs=_outputs(estimator, task, classes, to_inputs(rows)),
        classes=classes,
        task=task,
    )


def find_task(estimator: Any) -> Task:
    """Returns the kind of estimator.

    Raises:
        ConfigurationError: It neither predicts nor transforms.
    """
    can_predict = hasattr(estimator, "predict")
    kinds = (
        ("classifier", is_classifier),
        ("regressor", is_regressor),
        ("clusterer", is_clusterer),
        ("outlier_detector", is_outlier_detector),
    )
    for task, is_kind in kinds:
        if can_predict and _is_of_kind(is_kind, estimator):
            return cast(Task, task)
    if hasattr(estimator, "transform") and not can_predict:
        return "transformer"
    if can_predict:
        return "regressor"
    raise ConfigurationError(
        f"{type(estimator).__name__} has neither predict nor transform for new rows"
    )


def takes_text(estimator: Any) -> bool:
    """True if the first step turns strings into numbers."""
    estimator = getattr(estimator, "best_estimator_", estimator)  # the outcome of a search
    while isinstance(estimator, Pipeline):
        estimator = estimator.steps[0][1]
    if isinstance(estimator, FeatureUnion):
        return all(takes_text(part) for _, part in estimator.transformer_list)
    return isinstance(estimator, CountVectorizer | HashingVectorizer)


def _is_of_kind(is_kind: Any, estimator: Any) -> bool:
    try:
        return bool(is_kind(estimator))
    except (AttributeError, TypeError):  # no tags: not made with scikit-learn's base class
        return False


def _names(
    estimator: Any, example: Sequence[Any], feature_names: Sequence[str] | None
) -> list[str]:
    fitted = getattr(estimator, "feature_names_in_", None)
    width = 1 if takes_text(estimator) else getattr(estimator, "n_features_in_", None)
    if width is None:
        width = _width(example[0])
    names = feature_names
    if names is None:
        names = fitted if fitted is not None else [f"x{place}" for place in range(width)]
        if takes_text(estimator):
            names = [TEXT]
    names = [str(name) for name in names]
    if len(names) != width:
        raise InvalidInput.at(
            ["feature_names"], f"has {len(names)} names, the estimator takes {width} inputs"
        )
    if len(set(names)) != len(names):
        raise InvalidInput.at(["feature_names"], "names an input twice")
    return names


def _width(row: Any) -> int:
    return len(row) if isinstance(row, list | tuple | dict) else 1


def _cell(row: Any, place: int, name: str) -> Any:
    """Returns a cell, or None where the row is faulty; `check_rows` then reports where."""
    if isinstance(row, dict):
        return row.get(name)
    if isinstance(row, list | tuple):
        return row[place] if place < len(row) else None
    return row if place == 0 else None


def _type(name: str, cells: Sequence[Any]) -> ColumnType:
    known = {_TYPES[type(cell)] for cell in cells if type(cell) in _TYPES}
    if len(known) > 1:
        raise InvalidInput.at(["example", name], f"is of several types: {', '.join(sorted(known))}")
    return known.pop() if known else "float64"


def _narrow_columns(
    estimator: Any, columns: tuple[Column, ...], rows: arrays.Rows
) -> tuple[Column, ...]:
    """Returns the columns, of 32 bits if the estimator refuses numbers of 64 bits; trees do."""
    places = [place for place, column in enumerate(columns) if column.type == "float64"]
    if not places or _accepts(estimator, columns, rows, _BEYOND_32_BITS):
        return columns
    if not _accepts(estimator, columns, rows, _WITHIN_32_BITS):
        return columns
    return tuple(
        Column(name=column.name, type="float32") if place in places else column
        for place, column in enumerate(columns)
    )


def _accepts(estimator: Any, columns: tuple[Column, ...], rows: arrays.Rows, number: float) -> bool:
    row = [
        number if column.type == "float64" else cell
        for column, cell in zip(columns, rows[0], strict=True)
    ]
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # an overflow inside is no refusal
            sklearn_calls.predict_method(estimator)(arrays.table_converter(columns)([row]))
    except Exception:
        return False
    return True


def _classes(estimator: Any, task: Task) -> tuple[Any, ...] | None:
    """Returns a classifier's labels; None for several outputs, each of which has a list of them."""
    classes = getattr(estimator, "classes_", None) if task == "classifier" else None
    if not isinstance(classes, np.ndarray) or classes.ndim != 1:
        return None
    return tuple(arrays.to_plain(classes.tolist()))


def _outputs(
    estimator: Any, task: Task, classes: tuple[Any, ...] | None, inputs: Any
) -> tuple[Output, ...]:
    with warnings.catch_warnings():
        # The array has no column names, which the estimator may have been fitted with.
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        values = sklearn_calls.to_dense(sklearn_calls.predict_method(estimator)(inputs))
        predictions = Output(
            name="predictions",
            type="float64" if task == "regressor" else _output_type(values),
            shape=values.shape[1:],
        )
        if classes is None or not hasattr(estimator, "predict_proba"):
            return (predictions,)
        probabilities = estimator.predict_proba(inputs)
    if np.ndim(probabilities) != 2 or probabilities.shape[1] != len(classes):
        return (predictions,)
    return (predictions, Output(name="probabilities", type="float64", shape=(len(classes),)))


def _output_type(values: Any) -> ColumnType:
    match values.dtype.kind:
        case "f":
            return "float64"
        case "i" | "u":
            return "int64"
        case "b":
            return "bool"
    kinds = {type(value) for value in arrays.to_plain(values.ravel().tolist())}
    of: dict[type, ColumnType] = _TYPES | {int: "int64"}
    if len(kinds) == 1 and (kind := kinds.pop()) in of:
        return of[kind]
    raise ConfigurationError("it predicts values that are not all numbers, or all strings")
