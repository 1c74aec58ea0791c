"""The rate of processes that do nothing but predict: no queue, no Redis, no result.

The ceiling of what a second worker can add on this machine: two processes that only compute share
its memory and caches, and on some machines its cores.
"""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

from bench.yard import ROW

#: Seconds for which each process predicts.
_LASTS_S = 2.0


def rows_s(artefact: Path, processes: int, batch: int) -> float:
    """Rows a second of so many processes together, each with the estimator of a joblib file.

    Args:
        artefact: The file.
        processes: How many predict at the same time.
        batch: Rows in a predict.
    """
    context = multiprocessing.get_context("spawn")
    start, found = context.Barrier(processes), context.SimpleQueue()
    running = [
        context.Process(target=_predict, args=(artefact, batch, start, found), daemon=True)
        for _ in range(processes)
    ]
    for process in running:
        process.start()
    for process in running:
        process.join()
    return float(sum(found.get() for _ in running))


def _predict(artefact: Path, batch: int, start: Any, found: Any) -> None:
    import joblib
    import numpy as np

    estimator = joblib.load(artefact)
    rows = np.array([ROW] * batch)
    estimator.predict_proba(rows)
    start.wait()
    began, count = time.perf_counter(), 0
    while (taken_s := time.perf_counter() - began) < _LASTS_S:
        estimator.predict_proba(rows)
        count += 1
    found.put(count * batch / taken_s)
