"""Equivalence of two models on the same rows, and the speed of each.

`models.optimize.compile` compares an estimator and its compiled form,
`models.optimize.int8_weights` a graph and its smaller form, the benchmark any models. Rows that the
first does not answer do not count; a row that the second does not answer counts as a disagreement.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.manifest import Compiled, Tolerance
from models.runtimes import Loaded, arrays, golden
from yard.contract import Signature

#: The runtime of the second: both optimizers write ONNX.
ONNX = "onnx"
#: Allowed difference of numbers, relative to themselves and to their usual size (root mean square).
RTOL, ATOL_OF_SIZE = 1e-4, 1e-5
#: Least tolerance, where all answers are zero.
_LEAST_ATOL = 1e-9
#: Rows in a timed call.
SIZES = (1, 64)
#: Seconds for the answers of the first.
_ANSWERS_S = 5.0
_CHUNK = 256
#: Each timing is the best of so many, each of about so many seconds.
_REPEATS, _TIMING_S = 3, 0.02


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of two models' answers to the same rows."""

    rows: int
    disagreements: int
    max_difference: float
    tolerance: Tolerance

    def decision(
        self, chosen: str, reason: str, rows_per_s: Mapping[str, Mapping[str, float]] | None = None
    ) -> Compiled:
        """Returns these figures as a manifest's `Compiled`, with the decision."""
        return Compiled(
            candidate=ONNX,
            chosen=chosen,
            reason=reason,
            rows=self.rows,
            disagreements=self.disagreements,
            max_difference=self.max_difference,
            tolerance=self.tolerance,
            rows_per_s={name: dict(rates) for name, rates in (rows_per_s or {}).items()},
        )


def answer_within(
    model: Loaded, rows: arrays.Rows, budget_s: float = _ANSWERS_S
) -> tuple[arrays.Rows, dict[str, list[Any]]]:
    """Returns the rows that ``model`` answers within the budget, and the answers, by output."""
    ends_at = time.monotonic() + budget_s
    answered_rows: arrays.Rows = []
    answers: dict[str, list[Any]] = {name: [] for name in model.signature.output_names}
    for start in range(0, len(rows), _CHUNK):
        for taken, actual in _chunk(model, rows[start : start + _CHUNK], ends_at):
            answered_rows += taken
            for name, values in actual.items():
                answers[name] += values
        if time.monotonic() > ends_at:
            break
    return answered_rows, answers


def compare(
    signature: Signature,
    expected: dict[str, list[Any]],
    actual: dict[str, list[Any]],
    *,
    rtol: float = RTOL,
    atol_of_size: float = ATOL_OF_SIZE,
) -> Comparison:
    """Compares row by row: labels must be equal, numbers close.

    Numbers may differ by a part of themselves, and of their usual size.
    """
    count = len(next(iter(expected.values())))
    differs = np.zeros(count, dtype=bool)
    tolerance, greatest = Tolerance(atol=_LEAST_ATOL), 0.0
    for name, expected_values in expected.items():
        if golden.are_labels(signature, name):
            differs |= np.array(
                [a != b for a, b in zip(expected_values, actual[name], strict=True)]
            )
            continue
        one = np.array(expected_values, dtype=np.float64).reshape(count, -1)
        other = np.array(actual[name], dtype=np.float64).reshape(count, -1)
        usual = float(np.sqrt(np.mean(np.square(np.minimum(np.abs(one), 1e150)))))
        known = Tolerance(rtol=rtol, atol=max(_LEAST_ATOL, atol_of_size * usual))
        far = np.abs(one - other)
        differs |= ~(far <= known.atol + known.rtol * np.abs(one)).all(axis=1)
        tolerance, greatest = known, max(greatest, float(np.nanmax(far, initial=0.0)))
    return Comparison(count, int(differs.sum()), min(greatest, 1e300), tolerance)


def measure_speeds(models: dict[str, Loaded], rows: arrays.Rows) -> dict[str, dict[str, float]]:
    """Returns rows a second of each model by the rows in a call: the best of several turns."""
    best: dict[str, dict[str, float]] = {name: {} for name in models}
    for size in SIZES:
        answered_rows = [rows[place % len(rows)] for place in range(size)]
        for _ in range(_REPEATS):
            for name, model in models.items():
                rate = round(size / _seconds(model, answered_rows), 1)
                best[name][str(size)] = max(rate, best[name].get(str(size), 0.0))
    return best


def speedups(rows_per_s: dict[str, dict[str, float]]) -> dict[int, float]:
    """Returns the speed of the candidate relative to the original, by the rows in a call."""
    one, other = rows_per_s["original"], rows_per_s["candidate"]
    return {size: other[str(size)] / max(one[str(size)], 1e-9) for size in SIZES}


def _chunk(
    model: Loaded, rows: arrays.Rows, ends_at: float
) -> Iterator[tuple[arrays.Rows, dict[str, list[Any]]]]:
    try:
        yield rows, model.predict(rows)
    except Exception:  # one row is to blame; asking for each finds it
        for row in rows:
            if time.monotonic() > ends_at:
                return
            try:
                answer = model.predict([row])
            except Exception:
                continue
            yield [row], answer


def answer_all(
    candidate: Loaded, answered_rows: arrays.Rows, expected: dict[str, list[Any]]
) -> dict[str, list[Any]]:
    """Returns the candidate's answer to each row; where it has none, one that equals nothing."""
    try:
        actual: dict[str, list[Any]] = {name: [] for name in expected}
        for start in range(0, len(answered_rows), _CHUNK):
            for name, values in candidate.predict(answered_rows[start : start + _CHUNK]).items():
                actual[name] += values
        return actual
    except Exception:
        return _each_answer(candidate, answered_rows, expected)


def _each_answer(
    candidate: Loaded, answered_rows: arrays.Rows, expected: dict[str, list[Any]]
) -> dict[str, list[Any]]:
    nothing = {
        name: np.full(np.shape(values[0]), np.nan).tolist() for name, values in expected.items()
    }
    actual: dict[str, list[Any]] = {name: [] for name in expected}
    for row in answered_rows:
        try:
            answer = candidate.predict([row])
        except Exception:
            answer = {name: [value] for name, value in nothing.items()}
        for name, values in answer.items():
            actual[name] += values
    return actual


def _seconds(model: Loaded, rows: arrays.Rows) -> float:
    """Returns the seconds of one call."""
    started = time.perf_counter()
    model.predict(rows)
    once = time.perf_counter() - started
    calls = max(1, int(_TIMING_S / max(once, 1e-6)))
    started = time.perf_counter()
    for _ in range(calls):
        model.predict(rows)
    return (time.perf_counter() - started) / calls
