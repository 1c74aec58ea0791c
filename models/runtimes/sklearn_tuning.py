"""How a fitted estimator is changed so that it serves: on one core, from arrays, without warnings.

Whoever has opened an estimator calls this before it answers a row, `models.publish.sandbox_tasks`
while it is published and `models.runtimes.sklearn_joblib` in a worker. Nothing that was learned is
touched, and every nested estimator is reached.
"""

from __future__ import annotations

from typing import Any

from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer

from models.runtimes.memory_size import reachable


def take_arrays(estimator: Any) -> Any:
    """The same estimator on one core, with columns that were chosen by name chosen by place.

    With ``n_jobs`` set it would start threads in a worker that owns one core, and threads add up in
    any order. Names are those of a data frame, which a worker would need pandas for; which place
    each had is known since the estimator was fitted.
    """
    for item in reachable(estimator):
        if isinstance(item, BaseEstimator) and vars(item).get("n_jobs") is not None:
            item.n_jobs = None
        if isinstance(item, ColumnTransformer) and hasattr(item, "feature_names_in_"):
            _choose_by_place(item)
    return estimator


def fit_for_serving(estimator: Any) -> Any:
    """What `take_arrays` gives, with the names taken out that only matter in training.

    ``feature_names_in_`` makes scikit-learn warn at each predict that an array has no names; that
    the order is right is the signature's business.
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
    """A name alone stands for a column, a list of one for a table of one column."""
    return places[0] if isinstance(columns, str | int) else list(places)
