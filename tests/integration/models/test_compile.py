"""A compiled form is used only where it answers the same and is faster; the manifest says why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from models.manifest import Manifest
from models.optimize import compile as compiling
from models.optimize.equivalence import answer_within, compare
from models.optimize.synthetic_rows import rows_around
from models.publish import sandbox_tasks
from models.publish.publisher import publish
from models.publish.sklearn_signature import derive_signature
from models.runtimes import load
from models.runtimes.golden import check_golden
from models.runtimes.onnx_session import OnnxModel
from models.runtimes.sklearn_joblib import SklearnModel
from models.sandbox.limits import Limits
from models.store.repository import Repository
from tests.helpers import ROOT
from yard.contract.validation import check_rows

random = np.random.default_rng(0)
X = random.normal(size=(200, 4)) * [1, 10, 100, 0.1]
Y = np.digitize(X[:, 0] + X[:, 1] / 10, [-0.5, 0.5])
LABELS = np.array(["low", "mid", "high"])[Y]
NUMBERS = X @ [1.0, 2.0, 0.5, 3.0]
ROWS = X[:5].tolist()
TEXTS = ["good day", "bad day", "a good film", "what a bad film"] * 3
SAID = [1, 0, 1, 0] * 3
MIXED = np.array([[step % 7 * 1.5, "abc"[step % 3], step % 2 == 0] for step in range(60)], object)


@pytest.fixture
def store(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "store")


CASES: dict[str, tuple[Any, Any, Any]] = {
    "forest with names": (RandomForestClassifier(20), X, LABELS),
    "scaled regression": (make_pipeline(StandardScaler(), LogisticRegression()), X, LABELS),
    "ridge": (make_pipeline(StandardScaler(), Ridge()), X, NUMBERS),
    "several numbers": (Ridge(), X, np.stack([NUMBERS, -NUMBERS], axis=1)),
    "boosting": (GradientBoostingRegressor(n_estimators=20), X, NUMBERS),
    "histogram boosting": (HistGradientBoostingRegressor(max_iter=20), X, NUMBERS),
    "network": (make_pipeline(StandardScaler(), MLPClassifier((16,), max_iter=50)), X, Y),
    "true and false": (LogisticRegression(max_iter=2000), X, Y > 0),
    "clusters": (KMeans(3, n_init=1), X, None),
    "outliers": (IsolationForest(n_estimators=20, random_state=0), X, None),
    "components": (make_pipeline(StandardScaler(), PCA(2)), X, None),
    "texts": (make_pipeline(TfidfVectorizer(), LogisticRegression()), TEXTS, SAID),
    "search": (GridSearchCV(LogisticRegression(max_iter=2000), {"C": [1, 10]}, cv=2), X, LABELS),
    "mixed columns": (
        make_pipeline(
            ColumnTransformer(
                [("n", StandardScaler(), [0]), ("c", OneHotEncoder(handle_unknown="ignore"), [1])]
            ),
            LogisticRegression(),
        ),
        MIXED,
        np.array(["x", "y"])[np.arange(60) % 2],
    ),
}


#: Speeds that are no reason against a form.
FAST = {"original": {"1": 1.0, "64": 1.0}, "candidate": {"1": 9.0, "64": 9.0}}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in the converter
@pytest.mark.parametrize("case", CASES)
def test_it_is_compiled_and_answers_like_the_original(case):
    estimator, inputs, targets = CASES[case]
    estimator.fit(inputs, targets)
    example = inputs[:5] if case == "texts" else inputs[:5].tolist()
    signature = derive_signature(estimator, example)
    example = check_rows(signature, instances=example)
    found = outcome(estimator, example, measure_speeds=lambda models, rows: FAST)
    assert found.graph is not None, found.decision.reason
    assert found.decision.rows > 2_000
    assert found.decision.disagreements == 0
    compiled = OnnxModel(found.graph, signature, example)
    original = SklearnModel(estimator, signature, example, holds_threads=False)
    rows = [[text] for text in TEXTS] if case == "texts" else [list(row) for row in inputs[:60]]
    wanted, got = original.predict(rows), compiled.predict(rows)
    assert compare(signature, wanted, got).disagreements == 0
    assert type(got["predictions"][0]) is type(wanted["predictions"][0])
    alone = [compiled.predict([row]) for row in rows[:20]]
    for name, answers in got.items():
        assert [answer[name][0] for answer in alone] == answers[:20]


def test_a_forest_is_served_compiled_and_its_original_is_kept(store):
    manifest = publish(store, None, FOREST, "m", "v1", ROWS)
    assert (manifest.format, manifest.runtime) == ("joblib", "onnx")
    assert [file.name for file in manifest.files] == ["model.joblib", "model.onnx"]
    assert manifest.compiled is not None
    assert manifest.compiled.chosen == "onnx"
    assert set(manifest.compiled.rows_per_s) == {"original", "candidate"}
    assert manifest.golden is not None
    assert manifest.golden.tolerance == manifest.compiled.tolerance
    assert {"onnxruntime", "skl2onnx", "scikit-learn", "python"} <= manifest.libraries.keys()
    loaded = load(manifest, store)
    check_golden(loaded, manifest)
    assert loaded.predict(X.tolist())["predictions"] == FOREST.predict(X).tolist()


def reason(manifest: Manifest) -> str:
    assert manifest.compiled is not None
    assert manifest.runtime == "sklearn"
    assert manifest.compiled.chosen == "sklearn"
    assert [file.name for file in manifest.files] == ["model.joblib"]
    return manifest.compiled.reason


def test_what_does_not_convert_is_published_as_it_is_with_the_reason(store):
    hashing = make_pipeline(HashingVectorizer(n_features=64), LogisticRegression())
    manifest = publish(store, None, hashing.fit(TEXTS, SAID), "m", "v1", ["good"])
    assert "it does not convert: MissingShapeCalculator" in reason(manifest)
    check_golden(load(manifest, store), manifest)


def test_a_reason_that_holds_for_both_precisions_is_said_once(store):
    doubled = make_pipeline(FunctionTransformer(np.abs), Ridge()).fit(X, NUMBERS)
    said = reason(publish(store, None, doubled, "m", "v1", ROWS))
    assert said.startswith("in doubles and single precision it does not convert: RuntimeError")
    assert said.count("FunctionTransformer") == 1


def test_it_can_be_told_not_to_compile(store):
    manifest = publish(store, None, LinearRegression().fit(X, NUMBERS), "m", "v1", ROWS,
                       compile=False)  # fmt: skip
    assert reason(manifest) == "it was not asked for"


def test_rows_that_depend_on_each_other_are_not_compiled(store):
    centred = make_pipeline(FunctionTransformer(_centred), LinearRegression()).fit(X, NUMBERS)
    manifest = publish(store, None, centred, "m", "v1", ROWS)
    assert "depend on each other" in reason(manifest)
    assert not manifest.batchable
    assert "rows beside it" in manifest.unbatchable_reason


def _centred(rows: Any) -> Any:
    return rows - rows.mean(axis=0)


class Converting(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # no types
    """Predicts zero, and does something odd when rows are made around its example."""

    def __init__(self, deed: str) -> None:
        self.deed = deed

    def fit(self, X: Any, y: Any = None) -> Converting:
        self.n_features_in_ = 4
        return self

    def predict(self, X: Any) -> Any:
        return np.zeros(len(X))

    @property
    def feature(self) -> None:
        if self.deed == "crash":
            os.abort()
        if self.deed == "hang":
            time.sleep(1_000)
        raise RuntimeError("out of order")


@pytest.mark.parametrize(
    ("deed", "said"), [("crash", "SIGABRT"), ("hang", "more than 3 s"), ("raise", "out of order")]
)
def test_a_converter_that_crashes_or_hangs_leaves_it_uncompiled(store, deed, said):
    manifest = publish(store, None, Converting(deed).fit(X), "m", "v1", ROWS,
                       limits=Limits(wall_s=3.0))  # fmt: skip
    assert reason(manifest).startswith("the converter failed: ")
    assert said in reason(manifest)
    check_golden(load(manifest, store), manifest)


class Exchange:
    """The arguments of a task of the child, without a child."""

    def __init__(self, artefact: bytes, **request: Any) -> None:
        self.artefact, self.request = artefact, request
        self.said: dict[str, Any] = {}
        self.made = b""

    def send(self, **answer: Any) -> None:
        self.said |= answer

    def write_output(self, content: bytes) -> None:
        self.made = content


def outcome(estimator: Any, example: Any = ROWS, **patches: Any) -> compiling.CompileOutcome:
    signature = derive_signature(estimator, example)
    model = SklearnModel(estimator, signature, example, holds_threads=False)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in patches.items():
            patch.setattr(compiling, name, value)
        synthetic_rows = rows_around(estimator, signature, example)
        return compiling.compile_estimator(estimator, model, example, synthetic_rows)


FOREST = RandomForestClassifier(5, random_state=0).fit(X, LABELS)


def test_a_form_that_answers_one_row_otherwise_is_not_used():
    other = RandomForestClassifier(5, random_state=1).fit(X, LABELS)
    convert = compiling.convert

    def swapped(estimator: Any, *args: Any, **kwargs: Any) -> bytes:
        return convert(other, *args, **kwargs)

    found = outcome(FOREST, convert=swapped)
    assert found.graph is None
    assert found.decision.disagreements > 0
    assert "rows otherwise" in found.decision.reason


def test_a_form_that_is_not_faster_is_not_used():
    rates = {"original": {"1": 10.0, "64": 10.0}, "candidate": {"1": 10.2, "64": 10.2}}
    found = outcome(FOREST, measure_speeds=lambda models, rows: rates)
    assert found.graph is None
    assert "which is no gain" in found.decision.reason
    slower = {"original": {"1": 10.0, "64": 10.0}, "candidate": {"1": 99.0, "64": 7.0}}
    assert outcome(FOREST, measure_speeds=lambda models, rows: slower).graph is None
    assert outcome(FOREST).graph is not None


def test_without_the_converter_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    found = outcome(FOREST)
    assert found.graph is None
    assert "pip install 'modelyard[convert]'" in found.decision.reason


def test_single_precision_is_not_used_where_it_cannot_hold_what_the_original_takes():
    ridge = Ridge().fit(X, NUMBERS)
    only_single = lambda signature: iter([("single precision", "float32")])  # noqa: E731
    found = outcome(ridge, _precisions=only_single)
    assert found.graph is None
    assert "does not hold all the numbers" in found.decision.reason


def test_the_same_estimator_gives_the_same_bytes():
    signature = derive_signature(FOREST, ROWS)
    once, twice = (compiling.convert(FOREST, signature, "float32", is_text=False) for _ in range(2))
    assert once == twice


def test_rows_are_made_at_the_very_numbers_where_trees_decide():
    signature = derive_signature(FOREST, ROWS)
    rows: Any = np.array(rows_around(FOREST, signature, ROWS))
    thresholds = {
        float(value) for tree in FOREST.estimators_ for value in tree.tree_.threshold.tolist()
    }
    assert rows.shape == (2_000, 4)
    assert len(thresholds & set(rows[:, 1].tolist())) > 10


def test_the_original_answers_what_it_can_of_the_rows():
    encoder = make_pipeline(OneHotEncoder(handle_unknown="error"), Ridge())
    colours = np.array([["red"], ["green"], ["blue"]] * 10, dtype=object)
    encoder.fit(colours, np.arange(30))
    signature = derive_signature(encoder, [["red"]])
    model = SklearnModel(encoder, signature, [["red"]], holds_threads=False)
    asked, answers = answer_within(model, [["red"], ["mauve"], ["blue"]])
    assert asked == [["red"], ["blue"]]
    assert len(answers["predictions"]) == 2


def test_what_a_child_finds_is_said_before_it_compiles():
    import io

    import joblib

    raw = io.BytesIO()
    joblib.dump(FOREST, raw)
    exchange: Any = Exchange(
        raw.getvalue(), format="joblib", example=ROWS, feature_names=None, compiles=True
    )
    sandbox_tasks.describe_artefact(exchange)
    assert list(exchange.said) == ["found", "progress", "compiled"]
    assert exchange.said["found"]["kind"] == "RandomForestClassifier"
    json.dumps(exchange.said)
    signature = derive_signature(FOREST, ROWS)
    assert OnnxModel(exchange.made, signature, ROWS).predict(ROWS)["predictions"] == (
        FOREST.predict(X[:5]).tolist()
    )


def test_serving_a_compiled_version_imports_no_scikit_learn(store):
    manifest = publish(store, None, FOREST, "m", "v1", ROWS)
    assert manifest.runtime == "onnx"
    code = (
        "import sys; from pathlib import Path; from models.store.repository import Repository;"
        "from models.runtimes import load; from models.runtimes.golden import check_golden;"
        "from yard.contract.values import ModelRef;"
        f"store = Repository(Path({str(store.root)!r})); m = store.manifest(ModelRef('m', 'v1'));"
        "check_golden(load(m, store), m);"
        "print(sorted({'sklearn', 'scipy', 'joblib', 'skl2onnx', 'onnx'} & sys.modules.keys()))"
    )
    root = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_publishing_a_file_imports_no_scikit_learn_here(store, tmp_path):
    import joblib

    joblib.dump(FOREST, tmp_path / "m.joblib")
    code = (
        "import sys; from pathlib import Path; from models.store.repository import Repository;"
        "from models.publish.publisher import publish;"
        f"publish(Repository(Path({str(store.root)!r})), None, {str(tmp_path / 'm.joblib')!r},"
        f"'m', 'v1', {ROWS!r});"
        "print(sorted({'sklearn', 'numpy', 'joblib', 'onnxruntime'} & sys.modules.keys()))"
    )
    root = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    assert store.models() == ["m"]
