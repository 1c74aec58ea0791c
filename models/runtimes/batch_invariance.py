"""Batch invariance: answers that do not depend on the rows beside them, to the last bit.

BLAS multiplies a single row by another routine than several, and the rows left over at the end of a
matrix by another than those before, so that the last bits of a row's answer change with the rows
beside it. A client must not notice that its job was batched. Padded to whole groups of 8 rows,
every row goes through the same routine: measured bit-equal for linear models, networks, PCA,
k-means and neighbours with 4 to 700 columns. It costs a few microseconds a call, or where every row
is expensive, the time of 8 rows for a single one. Tables of numbers are always padded, since a few
trials would not show rounding that shows in one row of a hundred; texts only if trials show a
difference. The trials run when the model is loaded, because the result depends on the processor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from yard.contract import Signature

Rows = list[list[Any]]
Answers = dict[str, list[Any]]

#: Rows in a group: the doubles that the widest vector registers hold (AVX-512).
GROUP = 8
#: Rows of a trial: two groups and a rest of one.
_TRIED = 2 * GROUP + 1
#: Rows of a trial of a slow model, while it is being published.
_TRIED_SLOW = 3
#: Seconds that the single predicts may take; slow models are tried on fewer rows.
_BUDGET_S = 0.02
#: A model whose single predict takes longer is not tried again if publishing has tried it.
_SLOW_S = 0.1
#: Differences above these are more than rounding: answers depend on the rows beside them.
_RELATIVE, _ABSOLUTE = 1e-6, 1e-9


@dataclass(frozen=True, slots=True)
class BatchInvariance:
    """Result of the trials.

    Attributes:
        group: Batches are padded to a multiple of this.
        is_exact: True if answers in a batch were those of single rows, bit by bit; False where that
            was not tried.
        is_batchable: True if they were, except for rounding.
    """

    group: int
    is_exact: bool
    is_batchable: bool


def find_batch_invariance(
    predict: Callable[[Rows, int], Answers],
    rows: Rows,
    *,
    pads: bool,
    is_batchable: bool | None = None,
    each_s: float | None = None,
) -> BatchInvariance:
    """Tries whether rows get the same answers alone and together.

    Args:
        predict: Answers rows, padded to a multiple of the second argument.
        rows: At least one, see `rows_to_try`.
        pads: Whether to pad without a trial of unpadded batches.
        is_batchable: The result at publishing; None while the version is being published.
        each_s: Seconds that a single row takes, where that was measured.
    """
    if is_batchable is False:  # padding would change the answer
        return BatchInvariance(1, is_exact=False, is_batchable=False)
    if each_s is None:
        each_s = _seconds(predict, rows)
    if is_batchable and each_s > _SLOW_S:
        return BatchInvariance(GROUP if pads else 1, is_exact=False, is_batchable=True)
    count = max(2, min(len(rows), int(_BUDGET_S / max(each_s, 1e-6))))
    for group in (GROUP,) if pads else (1, GROUP):
        if _differences(predict, rows, count, group, exact=True) == 0:
            return BatchInvariance(group, is_exact=True, is_batchable=True)
    is_close = _differences(predict, rows, count, GROUP, exact=False) == 0
    return BatchInvariance(1, is_exact=False, is_batchable=is_close)


def rows_to_try(
    predict: Callable[[Rows, int], Answers],
    signature: Signature,
    example: Rows,
    is_batchable: bool | None = None,
) -> tuple[Rows, float]:
    """Returns rows for `find_batch_invariance`, and the seconds that a single row takes.

    They are varied, or the example if the model refuses those. A single row is timed first: of a
    slow model few rows are tried, and one where publishing has tried it.

    Args:
        predict: Answers rows, padded to a multiple of the second argument.
        signature: Its inputs.
        example: At least one row.
        is_batchable: The result at publishing; None while the version is being published.

    Raises:
        Exception: Any error of the model on its example.
    """
    each_s = _seconds(predict, example)
    is_slow = each_s > _SLOW_S
    if is_slow and is_batchable is not None:
        return example[:1], each_s
    if not is_slow:
        predict(example, 1)
    rows = _varied(signature, example)[: _TRIED_SLOW if is_slow else _TRIED]
    try:
        predict(rows, 1)
    except Exception:  # say, a number that stands for a category
        return [example[step % len(example)] for step in range(len(rows))], each_s
    return rows, each_s


def _varied(signature: Signature, rows: Rows) -> Rows:
    """Returns `_TRIED` rows like the example's, with other numbers, so that rounding shows."""
    real = [column.type in ("float64", "float32") for column in signature.inputs]
    return [
        [
            cell * (1 - step / 64) if is_real else cell
            for cell, is_real in zip(rows[step % len(rows)], real, strict=True)
        ]
        for step in range(_TRIED)
    ]


def _seconds(predict: Callable[[Rows, int], Answers], rows: Rows) -> float:
    """Returns the seconds of a single row; the first call pays for imports."""
    predict(rows[:1], 1)
    started = time.perf_counter()
    predict(rows[:1], 1)
    return time.perf_counter() - started


def _differences(
    predict: Callable[[Rows, int], Answers], rows: Rows, count: int, group: int, *, exact: bool
) -> int:
    """Counts the first ``count`` rows that get other answers alone than in batches."""
    same = _is_equal if exact else _is_close
    sizes = sorted({min(size, len(rows)) for size in (len(rows), GROUP + 3, 3)}, reverse=True)
    together = [predict(rows[:size], group) for size in sizes]
    differ = 0
    for place in range(count):
        alone = predict(rows[place : place + 1], group)
        differ += any(
            not same(answer[0], answers[name][place])
            for answers in together
            for name, answer in alone.items()
            if place < len(answers[name])
        )
    return differ


def _is_equal(one: Any, other: Any) -> bool:
    return bool(one == other)


def _is_close(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_is_close, one, other))
    if isinstance(one, float):
        return bool(abs(one - other) <= max(_ABSOLUTE, _RELATIVE * max(abs(one), abs(other))))
    return bool(one == other)
