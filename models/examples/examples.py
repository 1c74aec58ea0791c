"""Example models, small, trained on data that scikit-learn or this package ships.

`modelyard up` publishes them where the store is empty, so that there is something to try. Training
is deterministic and takes about a second in all; nothing is downloaded.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from redis import Redis
from redis.exceptions import RedisError
from sklearn.datasets import load_diabetes, load_digits, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.examples.sentences import NEGATIVE, POSITIVE
from models.optimize import compile
from models.publish import publish, quantize, register_store
from models.store import Repository
from yard.contract import Column, ModelRef, Output, Signature, keys
from yard.errors import ConfigurationError, Unavailable, UnknownModel, VersionExists, described

_SEED = 0
_ROWS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class TrainedExample:
    """A trained example: the arguments of `models.publish.publisher.publish`."""

    estimator: Any
    example: Sequence[Any]
    note: str
    feature_names: Sequence[str] | None = None
    metrics: Mapping[str, float] | None = None
    #: True publishes it as an ONNX file, where the converter is installed, however fast that is.
    as_onnx: bool = False


def iris_by_regression() -> TrainedExample:
    """Trains ``iris`` v1: the species of an iris, by logistic regression."""
    return _iris(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000)),
        "Logistic regression on scaled measurements; fast.",
    )


def iris_by_forest() -> TrainedExample:
    """Trains ``iris`` v2: the same by 100 trees."""
    return _iris(
        RandomForestClassifier(n_estimators=100, random_state=_SEED),
        "A random forest of 100 trees; slower, to flip to and to compare.",
    )


def diabetes() -> TrainedExample:
    """Trains ``diabetes`` v1: progression of the disease after a year, a number."""
    data = load_diabetes(scaled=False)  # in years, kg/m2 and so on, as measured
    estimator, score = _fitted(make_pipeline(StandardScaler(), Ridge()), data.data, data.target)
    return TrainedExample(
        estimator,
        data.data[:_ROWS_SHOWN].tolist(),
        "Progression of diabetes one year after the measurements, by ridge regression.",
        feature_names=[str(name) for name in data.feature_names],
        metrics={"r2": score},
    )


def sentiment() -> TrainedExample:
    """Trains ``sentiment`` v1: praise or complaint in a sentence."""
    texts = [*POSITIVE, *NEGATIVE]
    labels = ["positive"] * len(POSITIVE) + ["negative"] * len(NEGATIVE)
    estimator = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10, max_iter=1_000))
    return TrainedExample(
        estimator.fit(texts, labels),
        ["What a lovely film!", "It broke on the first day, what a waste of money."],
        f"Praise or complaint, learned from {len(texts)} English sentences; a toy.",
    )


def digits() -> TrainedExample:
    """Trains ``digits`` v1: which digit 64 points show, by a small network."""
    data = load_digits()
    # 40 steps of L-BFGS take a third of a second; that it goes on to learn does not matter here.
    network = MLPClassifier((64,), solver="lbfgs", max_iter=40, random_state=_SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator, score = _fitted(network, data.data, data.target)
    return TrainedExample(
        estimator,
        data.data[:_ROWS_SHOWN].tolist(),
        "Handwritten digits of 8 by 8 points, by a network of 64 neurons.",
        metrics={"accuracy": score},
        as_onnx=True,
    )


#: The examples in the order in which they are published.
EXAMPLES: Mapping[ModelRef, Callable[[], TrainedExample]] = {
    ModelRef("iris", "v1"): iris_by_regression,
    ModelRef("iris", "v2"): iris_by_forest,
    ModelRef("diabetes", "v1"): diabetes,
    ModelRef("sentiment", "v1"): sentiment,
    ModelRef("digits", "v1"): digits,
}
#: Versions with weights of 8 bits, and the example that each is made of.
SMALLER: Mapping[ModelRef, ModelRef] = {
    ModelRef("digits", "v1-int8"): ModelRef("digits", "v1"),
}
#: The version of each that gets the traffic first.
FIRST = "v1"


def publish_examples(
    repository: Repository,
    redis: Redis | None,
    progress: Callable[[str], None] = lambda line: None,
) -> list[ModelRef]:
    """Publishes the examples that the store lacks, and gives traffic to models without a route.

    Args:
        repository: The store to publish to.
        redis: Registers them there; None leaves that to `register_store`.
        progress: Called with each progress line.

    Returns:
        The versions that were published.

    Raises:
        Unavailable: Redis is away; another call goes on.
    """
    published = []
    for ref, train in EXAMPLES.items():
        if not _is_stored(repository, ref):
            progress(f"publishing {ref}")
            if _publish(repository, redis, ref, train()):
                published.append(ref)
    for ref, parent in SMALLER.items():
        if _is_stored(repository, parent) and not _is_stored(repository, ref):
            progress(f"publishing {ref}")
            if _make_smaller(repository, redis, ref, parent, progress):
                published.append(ref)
    if redis is not None:
        register_store(repository, redis)
        activate_examples(repository, redis)
    return published


def activate_examples(repository: Repository, redis: Redis) -> None:
    """Gives v1 the traffic of each example model in the store that has no active key.

    Raises:
        Unavailable: Redis is away.
    """
    for ref in EXAMPLES:
        if ref.version == FIRST and _is_stored(repository, ref):
            try:
                redis.set(keys.key("active", ref.model), ref.version, nx=True)
            except RedisError as error:
                raise Unavailable(f"Redis does not answer: {described(error)}") from error


def _publish(
    repository: Repository, redis: Redis | None, ref: ModelRef, trained: TrainedExample
) -> bool:
    """Returns True if it was published here; another process may publish it at the same time."""
    with tempfile.TemporaryDirectory(prefix="modelyard-example-") as folder:
        try:
            publish(
                repository,
                redis,
                _onnx_file(trained, Path(folder)) if trained.as_onnx else trained.estimator,
                ref.model,
                ref.version,
                trained.example,
                feature_names=trained.feature_names,
                note=trained.note,
                metrics=trained.metrics,
            )
        except VersionExists:
            return False
    return True


def _onnx_file(trained: TrainedExample, folder: Path) -> Any:
    """Returns the path of the estimator's graph; without a converter, the estimator itself."""
    columns = tuple(Column(name=f"x{place}") for place in range(len(trained.example[0])))
    outputs = (Output(name="predictions", type="int64"),)
    signature = Signature(inputs=columns, outputs=outputs, task="classifier")
    path = folder / "model.onnx"
    try:
        path.write_bytes(compile.convert(trained.estimator, signature, "float64", is_text=False))
    except ImportError:
        return trained.estimator
    return path


def _make_smaller(
    repository: Repository,
    redis: Redis | None,
    ref: ModelRef,
    parent: ModelRef,
    progress: Callable[[str], None],
) -> bool:
    """Returns True if it was published here; without a converter there is nothing to make it of."""
    try:
        note = f"{parent.version} with weights of 8 bits, a quarter of its size."
        made = quantize(repository, redis, ref.model, parent.version, ref.version, note=note)
    except VersionExists:
        return False
    except ConfigurationError as error:
        progress(f"{ref} is left out: {error.message}")
        return False
    return made.manifest is not None


def _is_stored(repository: Repository, ref: ModelRef) -> bool:
    try:
        return ref.version in repository.versions(ref.model)
    except UnknownModel:
        return False


def _iris(estimator: Any, note: str) -> TrainedExample:
    data = load_iris()
    estimator, score = _fitted(estimator, data.data, np.array(data.target_names)[data.target])
    return TrainedExample(
        estimator,
        data.data[[0, 50, 100]].tolist(),  # one of each
        note,
        feature_names=[str(name) for name in data.feature_names],
        metrics={"accuracy": score},
    )


def _fitted(estimator: Any, rows: Any, targets: Any) -> tuple[Any, float]:
    """Returns the estimator fitted to everything, and its score on a held-out quarter."""
    seen, unseen, seen_targets, unseen_targets = train_test_split(
        rows, targets, test_size=0.25, random_state=_SEED
    )
    score = float(estimator.fit(seen, seen_targets).score(unseen, unseen_targets))
    return estimator.fit(rows, targets), round(score, 4)
