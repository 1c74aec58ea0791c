"""Compilation of an estimator to ONNX, used only where it answers the same and is faster.

Runs in the child process that publishes (`models.publish.sandbox_tasks`): skl2onnx writes the
estimator as an ONNX graph, in doubles where it can and else in single precision; both answer the
example and some thousand rows made around it (`models.optimize.synthetic_rows`); both are timed.
The first graph that agrees on every row, label by label and number by number within a tolerance,
and is faster, is taken. The decision and its figures go into the manifest. Any failure is a reason,
not an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.manifest import Compiled
from models.optimize.equivalence import (
    ONNX,
    answer_all,
    answer_within,
    compare,
    measure_speeds,
    speedups,
)
from models.runtimes import Loaded, SklearnModel, arrays, memory_size
from yard.contract import ColumnType, Signature
from yard.errors import described

#: Required speedup at one of `models.optimize.equivalence.SIZES`, and least speedup at each.
FASTER, NOT_SLOWER = 1.25, 0.8
#: Least number of rows for a comparison.
_LEAST_ROWS = 50
#: A number that 32 bits do not hold.
_BEYOND_32_BITS = 1e39
#: Characters of a converter's error that are kept; some are very long.
_MOST_CHARACTERS = 160
#: Versions of the operators: the converter writes these best and every onnxruntime reads them.
_OPSETS = {"": 18, "ai.onnx.ml": 3}


@dataclass(frozen=True, slots=True)
class CompileOutcome:
    """The decision, and the graph where it is used."""

    decision: Compiled
    graph: bytes | None = None

    def because(self, reason: str) -> CompileOutcome:
        """Returns the same with another reason."""
        return replace(self, decision=self.decision.model_copy(update={"reason": reason[:2_000]}))


@dataclass(frozen=True, slots=True)
class _Reference:
    """Reference of a comparison: the rows that the original answers, and the answers."""

    original: SklearnModel
    rows: arrays.Rows
    expected: dict[str, list[Any]]


def compile_estimator(
    estimator: Any,
    original: SklearnModel,
    example: arrays.Rows,
    synthetic_rows: arrays.Rows,
    report_progress: Callable[[str], None] = lambda line: None,
) -> CompileOutcome:
    """Converts, compares, times and decides.

    Args:
        estimator: Fitted.
        original: The same, ready to predict.
        example: Rows that it answers.
        synthetic_rows: More rows, see `models.optimize.synthetic_rows`; those that the original
            refuses do not count.
        report_progress: Called with each progress line.
    """
    if not original.batch_invariance.is_batchable:
        return _not_compiled("its rows depend on each other, which a graph would not show")
    try:
        from skl2onnx import convert_sklearn  # noqa: F401  # checked here, used below
    except ImportError as error:
        missing = error.name or "skl2onnx"
        return _not_compiled(f"{missing} is not installed here: pip install 'modelyard[convert]'")
    reasons: dict[str, list[str]] = {}  # by reason: the precisions
    reference: _Reference | None = None
    for number, type_ in _precisions(original.signature):
        candidate = _try_convert(estimator, original, type_, example)
        if isinstance(candidate, str):
            outcome = _not_compiled(candidate)
        else:
            if reference is None:  # needed only if a form converts
                report_progress(
                    f"comparing the original with a compiled form on {len(synthetic_rows)} rows"
                )
                reference = _Reference(
                    original, *answer_within(original, [*example, *synthetic_rows])
                )
            if (count := len(reference.rows)) < len(example) + min(
                _LEAST_ROWS, len(synthetic_rows)
            ):
                return _not_compiled(
                    f"too slow or too choosy to be compared: {count} rows answered"
                )
            outcome = _decide(reference, *candidate, type_)
        if outcome.graph is not None:
            return outcome.because(f"in {number} {outcome.decision.reason}")
        reasons.setdefault(outcome.decision.reason, []).append(number)
    texts = [f"in {' and '.join(numbers)} {reason}" for reason, numbers in reasons.items()]
    return outcome.because("; ".join(texts))


def _not_compiled(reason: str) -> CompileOutcome:
    return CompileOutcome(Compiled(chosen="", reason=reason[:2_000]))


def _try_convert(
    estimator: Any, original: SklearnModel, type_: ColumnType, example: arrays.Rows
) -> tuple[bytes, Loaded] | str:
    """Returns a graph with inputs of ``type_``, ready to predict; or the reason for none."""
    from models.runtimes import OnnxModel

    signature = original.signature
    try:
        graph = convert(estimator, signature, type_, is_text=original.takes_texts)
        candidate = OnnxModel(graph, signature, example)
    except Exception as error:
        return f"it does not convert: {_shortened(described(error))}"
    if not candidate.batch_invariance.is_batchable:
        return "its answers change with the rows beside them"
    return graph, candidate


def _decide(
    reference: _Reference, graph: bytes, candidate: Loaded, type_: ColumnType
) -> CompileOutcome:
    """Returns the decision on one graph."""
    original, rows, expected = reference.original, reference.rows, reference.expected
    try:
        actual = answer_all(candidate, rows, expected)
        comparison = compare(original.signature, expected, actual)
        if type_ == "float32" and _overflows(original, candidate, rows[0]):
            return _not_compiled("it does not hold all the numbers that the original takes")
    except Exception as error:
        return _not_compiled(f"it does not answer: {described(error)}")
    if comparison.disagreements:
        reason = f"it answers {comparison.disagreements} of {comparison.rows} rows otherwise"
        return CompileOutcome(comparison.decision("", reason))
    rates = measure_speeds({"original": original, "candidate": candidate}, rows)
    times = speedups(rates)
    reason = f"it answers all {comparison.rows} rows the same and is {_times_as_fast(times)}"
    if min(times.values()) < NOT_SLOWER or max(times.values()) < FASTER:
        return CompileOutcome(comparison.decision("", f"{reason}, which is no gain", rates))
    return CompileOutcome(comparison.decision(ONNX, reason, rates), graph)


def _times_as_fast(times: dict[int, float]) -> str:
    """Returns ``21 times as fast at 1 row and 4.2 times as fast at 64 rows``."""
    return " and ".join(
        f"{ratio:.{0 if ratio >= 10 else 1}f} times as fast at {size} row{'s' * (size > 1)}"
        for size, ratio in times.items()
    )


def _overflows(original: SklearnModel, candidate: Loaded, row: list[Any]) -> bool:
    """True if numbers beyond 32 bits, which only the original takes, get other answers."""
    beyond = [
        _BEYOND_32_BITS if column.type == "float64" else cell
        for column, cell in zip(original.signature.inputs, row, strict=True)
    ]
    if beyond == row:
        return False
    answered_rows, expected = answer_within(original, [beyond])
    if not answered_rows:
        return False
    with np.errstate(over="ignore"):
        actual = answer_all(candidate, answered_rows, expected)
    return compare(original.signature, expected, actual).disagreements > 0


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."


def convert(estimator: Any, signature: Signature, type_: ColumnType, *, is_text: bool) -> bytes:
    """Returns the estimator as an ONNX file; the same bytes for the same estimator.

    Raises:
        Exception: Any error of the converter; its errors have no common class.
    """
    from skl2onnx import convert_sklearn
    from sklearn.base import is_classifier
    from sklearn.feature_extraction.text import CountVectorizer

    estimator = getattr(estimator, "best_estimator_", estimator)  # the outcome of a search
    options: dict[int, dict[str, Any]] = {
        # Without it a graph needs a locale that slim systems do not have.
        id(item): {"locale": "C"}
        for item in memory_size.reachable(estimator)
        if isinstance(item, CountVectorizer)
    }
    if is_classifier(estimator) and hasattr(estimator, "predict_proba"):
        options[id(estimator)] = {"zipmap": False}
    model = convert_sklearn(
        estimator,
        name="modelyard",  # else a random one
        initial_types=_types(signature, type_, is_text=is_text),
        options=options,
        target_opset=_OPSETS,
    )
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _types(signature: Signature, type_: ColumnType, *, is_text: bool) -> list[tuple[str, Any]]:
    """Returns one tensor where all columns are of one type, else one for each column."""
    from skl2onnx.common import data_types

    kinds: dict[ColumnType, Any] = {
        "float64": data_types.DoubleTensorType,
        "float32": data_types.FloatTensorType,
        "int64": data_types.Int64TensorType,
        "bool": data_types.BooleanTensorType,
        "string": data_types.StringTensorType,
    }
    columns = [
        kinds[type_ if column.type in ("float64", "float32") else column.type]
        for column in signature.inputs
    ]
    if is_text or len(set(columns)) == 1:
        return [("rows", columns[0]([None, len(columns)]))]
    return [(f"column{place}", kind([None, 1])) for place, kind in enumerate(columns)]


def _precisions(signature: Signature) -> Iterator[tuple[str, ColumnType]]:
    """Yields the precisions to try, in order: doubles keep the answers closest."""
    if any(column.type in ("float64", "float32") for column in signature.inputs):
        yield "doubles", "float64"
    yield "single precision", "float32"
