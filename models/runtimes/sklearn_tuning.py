"""Changes to a fitted estimator for serving: on one core, from arrays, without warnings.

Callers apply it after opening an estimator, before it answers a row: `models.publish.sandbox_tasks`
while it is published and `models.runtimes.sklearn_joblib` in a worker. Nothing that was learned is
touched, and every nested estimator is reached.
"""

from __future__ import annotations

from typing import Any

from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer

from models.runtimes.memory_size import reachable


def take_arrays(estimator: Any) -> Any:
    """Sets the estimator to one core, and columns chosen by name to columns chosen by place.

    With ``n_jobs`` set it would start threads in a worker that owns one core, and threads add up in
    any order. Names are those of a data frame, which a worker would need pandas for; the place of
    each is known since the estimator was fitted.
    """
    for item in reachable(estimator):
        if isinstance(item, BaseEstimator) and vars(item).get("n_jobs") is not None:
            item.n_jobs = None
        if isinstance(item, ColumnTransformer) and hasattr(item, "feature_names_in_"):
            _choose_by_place(item)
    return estimator


def fit_for_serving(estimator: Any) -> Any:
    """Applies `take_arrays`, and removes names that only matter in training.

    ``feature_names_in_`` makes scikit-learn warn at each predict that an array has no names; the
    signature ensures the right order.
    """
    for item in reachable(take_arrays(estimator)):
        if isinstance(item, BaseEstimator):
            vars(item).pop("feature_names_in_", None)
    return estimator


def _choose_by_place(item: ColumnTransformer) -> None:
    places = getattr(item, "_transformer_to_input_indices", {})
    item.transformers_ = [
        (name, step, _placed(columns, places[name]) if name in places else columns)
        for name, step, columns in item.transformers_
    ]


def _placed(columns: Any, places: list[int]) -> Any:
    """Returns places for names: a single name selects a column, a list of one a table."""
    return places[0] if isinstance(columns, str | int) else list(places)
