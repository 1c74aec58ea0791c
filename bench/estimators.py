"""Models as data scientists bring them: fitted on the spot, each with rows to predict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.datasets import load_diabetes, load_digits, load_iris
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline

from models.examples.examples import EXAMPLES
from models.examples.sentences import NEGATIVE, POSITIVE
from yard.contract.values import ModelRef

_SEED = 0
_WORDS, _TEXTS = 8_000, 2_000


@dataclass(frozen=True, slots=True)
class Fitted:
    """An estimator and real rows for it."""

    estimator: Any
    rows: list[Any]


def _example(name: str, version: str) -> Fitted:
    rows: Mapping[str, Callable[[], list[Any]]] = {
        "iris": lambda: load_iris().data.tolist(),
        "diabetes": lambda: load_diabetes(scaled=False).data.tolist(),
        "sentiment": lambda: [*POSITIVE, *NEGATIVE],
    }
    return Fitted(EXAMPLES[ModelRef(name, version)]().estimator, rows[name]())


def iris_forest(trees: int) -> RandomForestClassifier:
    """A model as ``iris`` v2, which has 100 trees, with another number of trees."""
    data = load_iris()
    forest = RandomForestClassifier(trees, random_state=_SEED)
    return forest.fit(data.data, data.target_names[data.target])


def _digits(estimator: Any) -> Fitted:
    rows, labels = load_digits(return_X_y=True)
    return Fitted(estimator.fit(rows, labels), rows.tolist())


def _texts() -> Fitted:
    """Texts of a large vocabulary, whose words are drawn as those of a language: by Zipf's law."""
    random = np.random.default_rng(_SEED)
    ranks = np.minimum(random.zipf(1.2, size=(_TEXTS, 40)), _WORDS)
    texts = [" ".join(f"word{rank}" for rank in row) for row in ranks.tolist()]
    labels = np.array(["even", "odd"])[ranks[:, 0] % 2]
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1_000))
    return Fitted(model.fit(texts, labels), texts)


#: By the name that the tables show; the forest is the one that a goal is about.
FOREST = "forest of 100 trees"
ESTIMATORS: Mapping[str, Callable[[], Fitted]] = {
    "iris v1, regression": lambda: _example("iris", "v1"),
    "iris v2, 100 trees": lambda: _example("iris", "v2"),
    "diabetes v1, ridge": lambda: _example("diabetes", "v1"),
    "sentiment v1, texts": lambda: _example("sentiment", "v1"),
    FOREST: lambda: _digits(RandomForestClassifier(100, max_depth=12, random_state=_SEED)),
    "gradient boosting": lambda: _digits(GradientBoostingClassifier(random_state=_SEED)),
    "histogram boosting": lambda: _digits(HistGradientBoostingClassifier(random_state=_SEED)),
    "network, 256 and 128": lambda: _digits(
        MLPClassifier((256, 128), max_iter=60, random_state=_SEED)
    ),
    "texts, 8,000 words": _texts,
}
#: The models of a quick run.
FEW = ("iris v1, regression", FOREST, "texts, 8,000 words")
