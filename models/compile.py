"""A faster form of an estimator, used only where it answers the same and is faster.

Runs in the child process that publishes (`models.inspecting`): skl2onnx writes the estimator as an
ONNX graph, in doubles where it can and else in single precision; both answer the example and some
thousand rows made around it (`models.trials`); both are timed. The first graph that agrees on every
row, label by label and number by number within a tolerance, and is faster, is taken. The decision
and its figures go into the manifest. Anything that goes wrong is a reason, not an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.proofs import Compiled, Tolerance
from models.runtimes import Loaded, arrays, described
from models.runtimes.sizes import reachable
from models.runtimes.sklearn_joblib import SklearnModel
from producer.contract import ColumnType, Signature

#: The runtime of the compiled form.
ONNX = "onnx"
#: What numbers may differ by, relative to themselves and to their usual size (root mean square).
RTOL, ATOL_OF_SIZE = 1e-4, 1e-5
#: Never ask for more than this, where all answers are zero.
_LEAST_ATOL = 1e-9
#: Must be so many times as fast at one of `SIZES`, and nowhere slower than that.
FASTER, NOT_SLOWER = 1.1, 0.95
#: Rows in a call that are timed.
SIZES = (1, 64)
#: Seconds for the answers of the original, and the least rows that count as a comparison.
_ANSWERS_S, _LEAST_ROWS = 5.0, 50
_CHUNK = 256
#: What 32 bits do not hold.
_BEYOND_32_BITS = 1e39
#: Characters of a converter's error that are kept; some are lectures.
_SAID = 160
#: Each timing is the best of so many, each of about so many seconds.
_REPEATS, _TIMING_S = 3, 0.02
#: Versions of the operators: those that the converter writes best and every onnxruntime reads.
_OPSETS = {"": 18, "ai.onnx.ml": 3}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it: the decision, and the graph where it is used."""

    decision: Compiled
    graph: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Compared:
    """What a graph is compared with: the rows that the original answers, and the answers."""

    original: SklearnModel
    asked: arrays.Rows
    wanted: dict[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two models' answers to the same rows compare."""

    rows: int
    disagreements: int
    max_difference: float
    tolerance: Tolerance


def compile_estimator(
    estimator: Any,
    original: SklearnModel,
    example: arrays.Rows,
    trials: arrays.Rows,
    tell: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Convert, compare, time and decide.

    Args:
        estimator: Fitted.
        original: The same, ready to predict.
        example: Rows that it answers.
        trials: More rows, see `models.trials`; those that the original refuses do not count.
        tell: Is told what is going on.
    """
    if not original.alignment.is_batchable:
        return _kept("its rows depend on each other, which a graph would not show")
    try:
        from skl2onnx import convert_sklearn  # noqa: F401  # asked for here, used below
    except ImportError as error:
        missing = error.name or "skl2onnx"
        return _kept(f"{missing} is not installed here: pip install 'modelyard[convert]'")
    faults: list[str] = []
    compared: _Compared | None = None
    for number, type_ in _precisions(original.signature):
        candidate = _converted(estimator, original, type_, example)
        if isinstance(candidate, str):
            outcome = _kept(f"in {number} {candidate}")
        else:
            if compared is None:  # only now: what does not convert need not be asked
                tell(f"comparing the original with a compiled form on {len(trials)} rows")
                compared = _Compared(original, *answered(original, [*example, *trials]))
            if len(compared.asked) < len(example) + min(_LEAST_ROWS, len(trials)):
                count = len(compared.asked)
                return _kept(f"too slow or too choosy to be compared: {count} rows answered")
            outcome = _judged(compared, *candidate, type_, number)
        if outcome.graph is not None:
            return outcome
        faults.append(outcome.decision.reason)
    reason = "; ".join(dict.fromkeys(faults))[:2_000]
    return Outcome(outcome.decision.model_copy(update={"reason": reason}))


def answered(
    model: Loaded, rows: arrays.Rows, budget_s: float = _ANSWERS_S
) -> tuple[arrays.Rows, dict[str, list[Any]]]:
    """The rows that ``model`` answers, and the answers, by output; stops when the time is over."""
    ends_at = time.monotonic() + budget_s
    asked: arrays.Rows = []
    answers: dict[str, list[Any]] = {name: [] for name in model.signature.output_names}
    for start in range(0, len(rows), _CHUNK):
        for taken, got in _chunk(model, rows[start : start + _CHUNK], ends_at):
            asked += taken
            for name, values in got.items():
                answers[name] += values
        if time.monotonic() > ends_at:
            break
    return asked, answers


def compare(
    signature: Signature,
    wanted: dict[str, list[Any]],
    got: dict[str, list[Any]],
    *,
    rtol: float = RTOL,
    atol_of_size: float = ATOL_OF_SIZE,
) -> Agreement:
    """Row by row: labels must be equal, numbers close, relative to themselves and to their size."""
    from models.golden import are_labels

    count = len(next(iter(wanted.values())))
    differs = np.zeros(count, dtype=bool)
    tolerance, greatest = Tolerance(atol=_LEAST_ATOL), 0.0
    for name, expected in wanted.items():
        if are_labels(signature, name):
            differs |= np.array([a != b for a, b in zip(expected, got[name], strict=True)])
            continue
        one = np.array(expected, dtype=np.float64).reshape(count, -1)
        other = np.array(got[name], dtype=np.float64).reshape(count, -1)
        usual = float(np.sqrt(np.mean(np.square(np.minimum(np.abs(one), 1e150)))))
        known = Tolerance(rtol=rtol, atol=max(_LEAST_ATOL, atol_of_size * usual))
        far = np.abs(one - other)
        differs |= ~(far <= known.atol + known.rtol * np.abs(one)).all(axis=1)
        tolerance, greatest = known, max(greatest, float(np.nanmax(far, initial=0.0)))
    return Agreement(count, int(differs.sum()), min(greatest, 1e300), tolerance)


def speeds(models: dict[str, Loaded], rows: arrays.Rows) -> dict[str, dict[str, float]]:
    """Rows a second of each model by the rows in a call; they take turns, the best counts."""
    best: dict[str, dict[str, float]] = {name: {} for name in models}
    for size in SIZES:
        asked = [rows[place % len(rows)] for place in range(size)]
        for _ in range(_REPEATS):
            for name, model in models.items():
                rate = round(size / _seconds(model, asked), 1)
                best[name][str(size)] = max(rate, best[name].get(str(size), 0.0))
    return best


def ratios(rows_per_s: dict[str, dict[str, float]]) -> dict[int, float]:
    """How many times as fast the candidate is, by the rows in a call."""
    one, other = rows_per_s["original"], rows_per_s["candidate"]
    return {size: other[str(size)] / max(one[str(size)], 1e-9) for size in SIZES}


def _kept(reason: str) -> Outcome:
    return Outcome(Compiled(chosen="", reason=reason[:2_000]))


def _converted(
    estimator: Any, original: SklearnModel, type_: ColumnType, example: arrays.Rows
) -> tuple[bytes, Loaded] | str:
    """A graph with numbers of ``type_`` as its inputs, ready to predict; or why there is none."""
    from models.runtimes.onnx_session import OnnxModel

    signature = original.signature
    try:
        graph = convert(estimator, signature, type_, is_text=original.takes_texts)
        candidate = OnnxModel(graph, signature, example)
    except Exception as error:
        return f"it does not convert: {_shortened(described(error))}"
    if not candidate.alignment.is_batchable:
        return "its answers change with the rows beside them"
    return graph, candidate


def _judged(
    compared: _Compared, graph: bytes, candidate: Loaded, type_: ColumnType, number: str
) -> Outcome:
    """What comes of one graph."""
    original, asked, wanted = compared.original, compared.asked, compared.wanted
    signature = original.signature
    try:
        got = all_answers(candidate, asked, wanted)
        agreement = compare(signature, wanted, got)
        if type_ == "float32" and _overflows(original, candidate, asked[0]):
            return _kept(f"{number} does not hold all the numbers that it takes")
    except Exception as error:
        return _kept(f"compiled in {number} it does not answer: {described(error)}")
    known: dict[str, Any] = {
        "candidate": ONNX,
        "rows": agreement.rows,
        "disagreements": agreement.disagreements,
        "max_difference": agreement.max_difference,
        "tolerance": agreement.tolerance,
    }
    if agreement.disagreements:
        reason = (
            f"compiled in {number} it answers {agreement.disagreements} of {agreement.rows} rows "
            "otherwise"
        )
        return Outcome(Compiled(chosen="", reason=reason, **known))
    rates = speeds({"original": original, "candidate": candidate}, asked)
    times = ratios(rates)
    said = " and ".join(
        f"{times[size]:.{'0f' if times[size] >= 10 else '1f'}} times as fast at {size} "
        f"row{'s' * (size > 1)}"
        for size in SIZES
    )
    is_faster = min(times.values()) >= NOT_SLOWER and max(times.values()) >= FASTER
    reason = f"compiled in {number} it answers all {agreement.rows} rows the same and is {said}"
    return Outcome(
        Compiled(
            chosen=ONNX if is_faster else "",
            reason=reason if is_faster else f"{reason}, which is no gain",
            rows_per_s=rates,
            **known,
        ),
        graph if is_faster else None,
    )


def _overflows(original: SklearnModel, candidate: Loaded, row: list[Any]) -> bool:
    """Whether numbers beyond 32 bits, which only the original takes in, are answered otherwise."""
    beyond = [
        _BEYOND_32_BITS if column.type == "float64" else cell
        for column, cell in zip(original.signature.inputs, row, strict=True)
    ]
    if beyond == row:
        return False
    asked, wanted = answered(original, [beyond])
    if not asked:
        return False
    with np.errstate(over="ignore"):
        got = all_answers(candidate, asked, wanted)
    return compare(original.signature, wanted, got).disagreements > 0


def _shortened(said: str) -> str:
    return said if len(said) <= _SAID else f"{said[:_SAID]}..."


def convert(estimator: Any, signature: Signature, type_: ColumnType, *, is_text: bool) -> bytes:
    """The estimator as an ONNX file; the same bytes for the same estimator.

    Raises:
        Exception: Whatever the converter raises; its errors have no common class.
    """
    from skl2onnx import convert_sklearn
    from sklearn.base import is_classifier
    from sklearn.feature_extraction.text import CountVectorizer

    estimator = getattr(estimator, "best_estimator_", estimator)  # the outcome of a search
    options: dict[int, dict[str, Any]] = {
        # Without it a graph needs a locale that slim systems do not have.
        id(item): {"locale": "C"}
        for item in reachable(estimator)
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
    """One tensor where all columns are of one type, else one for each column."""
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
    """What to try, in order: doubles keep the answers closest."""
    if any(column.type in ("float64", "float32") for column in signature.inputs):
        yield "doubles", "float64"
    yield "single precision", "float32"


def _chunk(
    model: Loaded, rows: arrays.Rows, ends_at: float
) -> Iterator[tuple[arrays.Rows, dict[str, list[Any]]]]:
    try:
        yield rows, model.predict(rows)
    except Exception:  # one of them is to blame; which one is found by asking for each
        for row in rows:
            if time.monotonic() > ends_at:
                return
            try:
                answer = model.predict([row])
            except Exception:
                continue
            yield [row], answer


def all_answers(
    candidate: Loaded, asked: arrays.Rows, wanted: dict[str, list[Any]]
) -> dict[str, list[Any]]:
    """The candidate's answers to each row; where it has none, one that equals nothing."""
    try:
        got: dict[str, list[Any]] = {name: [] for name in wanted}
        for start in range(0, len(asked), _CHUNK):
            for name, values in candidate.predict(asked[start : start + _CHUNK]).items():
                got[name] += values
        return got
    except Exception:
        return _each_answer(candidate, asked, wanted)


def _each_answer(
    candidate: Loaded, asked: arrays.Rows, wanted: dict[str, list[Any]]
) -> dict[str, list[Any]]:
    nothing = {
        name: np.full(np.shape(values[0]), np.nan).tolist() for name, values in wanted.items()
    }
    got: dict[str, list[Any]] = {name: [] for name in wanted}
    for row in asked:
        try:
            answer = candidate.predict([row])
        except Exception:
            answer = {name: [value] for name, value in nothing.items()}
        for name, values in answer.items():
            got[name] += values
    return got


def _seconds(model: Loaded, rows: arrays.Rows) -> float:
    """What one call takes."""
    started = time.perf_counter()
    model.predict(rows)
    once = time.perf_counter() - started
    calls = max(1, int(_TIMING_S / max(once, 1e-6)))
    started = time.perf_counter()
    for _ in range(calls):
        model.predict(rows)
    return (time.perf_counter() - started) / calls
