"""A classifier's labels and probabilities, from one call wherever that is certain to be right.

Labels are by definition what ``predict`` returns, and asking for both costs two passes. For most
classifiers the label is the class of the highest probability, but not for all (an SVC fits its
probabilities separately), and not where two are nearly equal: ``predict`` compares the scores
before they are rounded into probabilities. So one call is made for the classifiers that are listed
here, if they agree on the example; and where the two best of any row lie closer than `_MARGIN`, far
wider than rounding, ``predict`` decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from yard.contract import Signature

# By name: importing them all would cost every worker 6 MB for unused classes.
#: ``predict`` is written as the first highest of ``predict_proba``: equal always, ties included.
_BY_PROBABILITY = frozenset(
    {
        "sklearn.calibration.CalibratedClassifierCV",
        "sklearn.ensemble.ExtraTreesClassifier",
        "sklearn.ensemble.RandomForestClassifier",
        "sklearn.tree.DecisionTreeClassifier",
        "sklearn.tree.ExtraTreeClassifier",
    }
)
#: ``predict`` takes the highest score, and probabilities rise with the scores: equal but for ties.
_BY_SCORE = frozenset(
    {
        "sklearn.discriminant_analysis.LinearDiscriminantAnalysis",
        "sklearn.discriminant_analysis.QuadraticDiscriminantAnalysis",
        "sklearn.ensemble.HistGradientBoostingClassifier",
        "sklearn.linear_model.LogisticRegression",
        "sklearn.linear_model.LogisticRegressionCV",
        "sklearn.naive_bayes.BernoulliNB",
        "sklearn.naive_bayes.GaussianNB",
        "sklearn.naive_bayes.MultinomialNB",
        "sklearn.neural_network.MLPClassifier",
    }
)
_MARGIN = 1e-9


@dataclass(frozen=True, slots=True)
class Labels:
    """Way to compute a classifier's outputs.

    Attributes:
        estimator: Has ``predict`` and ``predict_proba``.
        classes: Its labels in the order of the probabilities, ``(classes,)``.
        is_one_call: Whether labels are taken from the probabilities.
        margin: Distance that the two best must have for that; None for any distance.
    """

    estimator: Any
    classes: Any
    is_one_call: bool
    margin: float | None

    def outputs(self, inputs: Any) -> Mapping[str, Any]:
        """Returns ``predictions`` ``(rows,)`` and ``probabilities`` ``(rows, classes)``."""
        probabilities = self.estimator.predict_proba(inputs)
        if self.is_one_call and self._is_clear(probabilities):
            predictions = self.classes.take(probabilities.argmax(axis=1))
        else:
            predictions = self.estimator.predict(inputs)
        return {"predictions": predictions, "probabilities": probabilities}

    def _is_clear(self, probabilities: Any) -> bool:
        if self.margin is None:
            return True
        best = probabilities.max(axis=1, keepdims=True)
        return bool(np.count_nonzero(probabilities >= best - self.margin) == len(probabilities))


def with_two_calls(estimator: Any, signature: Signature) -> Labels | None:
    """Computes each output by its own call; None if the signature has no ``probabilities``."""
    if "probabilities" not in signature.output_names:
        return None
    return Labels(estimator, np.asarray(estimator.classes_), is_one_call=False, margin=None)


def with_one_call(labels: Labels, inputs: Any) -> Labels:
    """Computes both by one call, if that is certain to be right and is so for ``inputs``."""
    kind = _name(_last(labels.estimator))
    if kind not in _BY_PROBABILITY | _BY_SCORE:
        return labels
    margin = None if kind in _BY_PROBABILITY else _MARGIN
    faster = replace(labels, is_one_call=True, margin=margin)
    mine, true = (way.outputs(inputs)["predictions"] for way in (faster, labels))
    return faster if np.array_equal(mine, true) else labels


def _name(estimator: Any) -> str:
    """Returns the public name of its very class; a subclass may have a predict of its own."""
    kind = type(estimator)
    return ".".join([*kind.__module__.split(".")[:2], kind.__qualname__])


def _last(estimator: Any) -> Any:
    """Returns the estimator at the end of nested pipelines."""
    while _name(estimator) == "sklearn.pipeline.Pipeline":
        estimator = estimator.steps[-1][1]
    return estimator
