"""A model that takes its time without taking a core, as one on an accelerator does.

On two cores, a model that computes could not be scaled to four workers; one that waits can.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin


class Paced(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Predicts its first column, after a while.

    Args:
        batch_s: What each predict takes, in seconds.
        row_s: What each row adds; rows that the runtime repeats to fill a batch up add nothing.
    """

    def __init__(self, batch_s: float = 0.002, row_s: float = 0.0015) -> None:
        self.batch_s = batch_s
        self.row_s = row_s

    def fit(self, X: Any, y: Any = None) -> Paced:
        self.n_features_in_ = np.asarray(X).shape[1]
        return self

    def predict(self, X: Any) -> Any:
        numbers = np.asarray(X, dtype=float)[:, 0]
        time.sleep(self.batch_s + self.row_s * len(np.unique(numbers)))
        return numbers
