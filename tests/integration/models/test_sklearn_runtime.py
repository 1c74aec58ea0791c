"""The scikit-learn runtime: the estimator's own answers, to the last bit, alone and in batches."""

from __future__ import annotations

import io
import math
import pickle
import re
import threading
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
import threadpoolctl  # type: ignore[import-untyped]  # ships no types
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.murmurhash import murmurhash3_32

from models.manifest import File, Golden, Manifest, Tolerance, build
from models.publish.sklearn_signature import derive_signature
from models.runtimes import batch_invariance, labels, load, registry, threads
from models.runtimes.memory_size import measure
from models.runtimes.sklearn_joblib import SklearnModel, open_joblib
from models.runtimes.sklearn_tuning import take_arrays
from models.store.repository import Repository
from yard.contract.values import Column, Output, Signature
from yard.errors import ModelUnavailable, PredictFailed

X, Y = load_iris(return_X_y=True)
NAMES = load_iris().target_names[Y]
ROWS: list[list[Any]] = X.tolist()
DIGITS, DIGIT = (part[:200] for part in load_digits(return_X_y=True))


def dumped(estimator: Any) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(estimator, buffer)
    return buffer.getvalue()


def model_of(estimator: Any, example: list[Any] | None = None) -> SklearnModel:
    """A copy of the estimator as a worker would have it."""
    copy = open_joblib(dumped(estimator))
    rows = [[row] if isinstance(row, str) else row for row in example or ROWS[::50]]
    return SklearnModel(copy, derive_signature(copy, rows), rows, holds_threads=False)


def manifest_of(raw: bytes, signature: Signature, **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "model": "iris",
        "version": "v1",
        "format": "joblib",
        "runtime": "sklearn",
        "files": (File.of("model.joblib", raw),),
        "signature": signature,
        "example": tuple(ROWS[:2]),
        "libraries": {"scikit-learn": sklearn.__version__},
        "created_at": "2026-01-02T03:04:05Z",
    }
    return build(**fields | changes)


@pytest.fixture
def store(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


@pytest.fixture(scope="module")
def regression() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(X, NAMES)


def stored(store: Repository, estimator: Any, raw: bytes | None = None, **changes: Any) -> Manifest:
    raw = dumped(estimator) if raw is None else raw
    signature = changes.pop("signature", None) or derive_signature(estimator, ROWS[:2])
    manifest = manifest_of(raw, signature, **changes)
    store.publish(manifest, {"model.joblib": raw})
    return manifest


def test_a_classifier_gives_its_labels_and_probabilities_in_plain_values(store, regression):
    loaded = load(stored(store, regression), store)
    answers = loaded.predict(ROWS)
    assert list(answers) == ["predictions", "probabilities"]
    assert answers["predictions"] == regression.predict(X).tolist()
    np.testing.assert_allclose(answers["probabilities"], regression.predict_proba(X), rtol=1e-12)
    assert {type(value) for value in answers["predictions"]} == {str}
    assert {type(value) for row in answers["probabilities"] for value in row} == {float}


def test_rows_of_whole_numbers_are_the_same_as_of_fractions(regression):
    model = model_of(regression)
    assert model.predict([[5, 3, 1, 0]]) == model.predict([[5.0, 3.0, 1.0, 0.0]])


@pytest.mark.parametrize(
    ("estimator", "example", "outputs"),
    [
        (LinearRegression().fit(X, Y * 2), None, {"predictions": float}),
        (KMeans(3, n_init=1, random_state=0).fit(X), None, {"predictions": int}),
        (IsolationForest(n_estimators=5, random_state=0).fit(X), None, {"predictions": int}),
        (GaussianNB().fit(X, Y), None, {"predictions": int, "probabilities": list}),
        (GaussianNB().fit(X, Y > 0), None, {"predictions": bool, "probabilities": list}),
        (GaussianNB().fit(X, Y + 0.0), None, {"predictions": float, "probabilities": list}),
        (SVC().fit(X, NAMES.astype(object)), None, {"predictions": str}),
        (PCA(2).fit(X), None, {"predictions": list}),
        (StandardScaler().fit(X), None, {"predictions": list}),
        (LinearRegression().fit(X, np.c_[Y, Y]), None, {"predictions": list}),
        (DecisionTreeClassifier().fit(X, np.c_[Y, Y]), None, {"predictions": list}),
        (TfidfVectorizer().fit(["a good day", "bad"]), ["good"], {"predictions": list}),
    ],
)
def test_every_kind_of_estimator_answers_in_plain_values(estimator, example, outputs):
    model = model_of(estimator, example)
    rows = [[text] for text in example] if example else ROWS[:3]
    answers = model.predict(rows)
    assert {name: type(values[0]) for name, values in answers.items()} == outputs
    assert {len(values) for values in answers.values()} == {len(rows)}
    for output in model.signature.outputs:
        assert np.shape(answers[output.name]) == (len(rows), *output.shape)


BATCHED = [
    make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
    RandomForestClassifier(10, random_state=0),
    MLPClassifier((20,), max_iter=30, random_state=0),
    KNeighborsClassifier(weights="distance"),
    HistGradientBoostingClassifier(max_iter=5),
    make_pipeline(PCA(10), GaussianNB()),
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("estimator", BATCHED, ids=lambda estimator: type(estimator).__name__)
def test_a_row_answers_the_same_alone_and_in_any_batch(estimator):
    rows = DIGITS.tolist()
    model = model_of(estimator.fit(DIGITS, DIGIT), rows[:3])
    assert model.batch_invariance.is_exact
    together = model.predict(rows)
    for size in (1, 2, 3, 7, 8, 9, 64):
        for start in (0, 5, 100):
            part = model.predict(rows[start : start + size])
            assert part == {name: all_[start : start + size] for name, all_ in together.items()}


def test_a_regressor_answers_the_same_alone_and_in_any_batch():
    """A matrix times a vector: left-over rows go through another routine than the others."""
    model = model_of(Ridge().fit(DIGITS, DIGIT), DIGITS[:2].tolist())
    together = model.predict(DIGITS.tolist())["predictions"]
    for size in (1, 2, 3, 5, 9, 11):
        parts = [
            value
            for start in range(0, 200, size)
            for value in model.predict(DIGITS[start : start + size].tolist())["predictions"]
        ]
        assert parts == together


def test_bare_scikit_learn_does_not_or_the_filling_up_would_be_in_vain(regression):
    with threadpoolctl.threadpool_limits(1):
        alone = np.concatenate([regression.predict_proba(X[i : i + 1]) for i in range(len(X))])
        together = regression.predict_proba(X)
    if np.array_equal(alone, together):
        pytest.skip("this processor's BLAS has one routine for all")
    assert np.abs(alone - together).max() < 1e-12


class Centred(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Its answers depend on the rows beside them, as a bad model's may."""

    def fit(self, X: Any, y: Any) -> Centred:
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X: Any) -> Any:
        return X[:, 0] - X[:, 0].mean()


def test_a_model_whose_rows_depend_on_each_other_is_found_out():
    found = model_of(Centred().fit(X, Y)).batch_invariance
    assert not found.is_exact
    assert not found.is_batchable


def test_such_a_model_gets_its_rows_bare(store):
    """Rows that fill up would change its answer."""
    manifest = stored(store, Centred().fit(X, Y), batchable=False)
    loaded = load(manifest, store)
    assert loaded.predict([[1.0, 0, 0, 0], [2.0, 0, 0, 0]])["predictions"] == [-0.5, 0.5]


def test_a_slow_model_is_not_tried_at_length_at_each_load(monkeypatch):
    times = iter(range(100))  # a predict takes a second
    monkeypatch.setattr("time.perf_counter", lambda: float(next(times)))
    asked: list[int] = []

    def predict(rows: list[list[Any]], group: int) -> dict[str, list[Any]]:
        asked.append(group)
        return {"predictions": [0.0] * len(rows)}

    found = batch_invariance.find_batch_invariance(predict, ROWS, pads=True, is_batchable=True)
    assert asked == [1, 1]
    assert found.group == batch_invariance.GROUP
    assert batch_invariance.find_batch_invariance(
        predict, ROWS, pads=True
    ).is_exact  # but when published


class Counted(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Takes a second of a clock of the test's own for each row."""

    now = 0.0
    n_features_in_ = 4

    def predict(self, X: Any) -> Any:
        Counted.now += len(X)
        return X[:, 0]


def test_a_slow_version_loads_after_few_predicts(store, monkeypatch):
    """It was loaded after some 20 rows, before anything was known of its pace."""
    golden = Golden(outputs={"predictions": [row[0] for row in ROWS[:20]]}, tolerance=Tolerance())
    manifest = stored(store, Counted(), example=tuple(ROWS[:20]), golden=golden)
    monkeypatch.setattr("time.perf_counter", lambda: Counted.now)
    Counted.now = 0.0
    proofs: list[tuple[int, float]] = []
    loaded = load(manifest, store, lambda *proof: proofs.append(proof))
    assert Counted.now <= 6 + 2 * batch_invariance.GROUP
    assert proofs
    assert loaded.predict(ROWS[:3])["predictions"] == [row[0] for row in ROWS[:3]]


class Odd(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Calls a test's function for rows that begin with a number below zero, and only for those."""

    n_features_in_ = 4
    answer: Any = None

    def fit(self, X: Any, y: Any) -> Odd:
        self.fitted_ = True
        return self

    def predict(self, X: Any) -> Any:
        if X[0][0] >= 0:
            return np.zeros(len(X))
        return self.answer(X)


ODD = [-1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_answer_that_is_not_finite_fails_and_names_its_row(monkeypatch, bad):
    monkeypatch.setattr(
        Odd, "answer", staticmethod(lambda X: np.array([0.0, 0.0, bad] + [0.0] * 5))
    )
    with pytest.raises(PredictFailed, match="output 'predictions' of row 2 is not") as caught:
        model_of(Odd()).predict([ODD] * 3)
    assert caught.value.row == 2


def test_too_few_or_too_many_answers_fail(monkeypatch):
    model = model_of(Odd())
    for answer in (lambda X: np.zeros(len(X) - 1), lambda X: np.zeros(len(X) + 1)):
        monkeypatch.setattr(Odd, "answer", staticmethod(answer))
        with pytest.raises(PredictFailed, match="answers for 8 rows"):
            model.predict([ODD])


def test_what_the_model_raises_comes_out_as_it_is(monkeypatch):
    def fail(X: Any) -> Any:
        raise ZeroDivisionError("its own fault")

    monkeypatch.setattr(Odd, "answer", staticmethod(fail))
    with pytest.raises(ZeroDivisionError, match="its own fault"):
        model_of(Odd()).predict([ODD])


def test_one_call_serves_both_outputs_where_that_is_sure(regression):
    for estimator in (regression, RandomForestClassifier(5, random_state=0).fit(X, NAMES)):
        model = model_of(estimator)
        assert model._labels is not None
        assert model._labels.is_one_call
        calls: list[Any] = []
        model._labels.estimator.predict = lambda inputs, calls=calls: calls.append(inputs)
        model.predict(ROWS)
        assert calls == []


def test_labels_are_those_of_predict_where_probabilities_tie():
    """The scores differ by less than the probabilities can show; `predict` sees the scores."""
    estimator = LogisticRegression().fit([[-1.0], [1.0]], [0, 1])
    estimator.coef_, estimator.intercept_ = np.array([[1.0]]), np.array([0.0])
    model = model_of(estimator, [[-1.0], [1.0]])
    assert model._labels is not None
    assert model._labels.is_one_call
    tiny = [[1e-17], [-1e-17], [0.0], [1.0]]
    probabilities = estimator.predict_proba(tiny)
    assert probabilities.argmax(axis=1).tolist() == [0, 0, 0, 1]
    assert estimator.predict(tiny).tolist() == [1, 0, 0, 1]
    assert model.predict(tiny)["predictions"] == [1, 0, 0, 1]


class Contrary(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Its labels are not the classes of the highest probabilities, as an SVC's may not be."""

    n_features_in_ = 4
    classes_ = np.array([0, 1])

    def fit(self, X: Any, y: Any) -> Contrary:
        self.fitted_ = True
        return self

    def predict(self, X: Any) -> Any:
        return np.ones(len(X), dtype=int)

    def predict_proba(self, X: Any) -> Any:
        return np.tile([0.9, 0.1], (len(X), 1))


def test_labels_are_always_those_of_predict():
    answers = model_of(Contrary()).predict(ROWS[:3])
    assert answers["predictions"] == [1, 1, 1]
    assert answers["probabilities"] == [[0.9, 0.1]] * 3


class OverridingRegression(LogisticRegression):  # type: ignore[misc]  # scikit-learn has no types
    """A kind whose labels are known, but for what its author did to it."""

    def predict(self, X: Any) -> Any:
        labels = super().predict(X)
        labels[X[:, 0] < 0] = 2
        return labels


def test_a_subclass_with_a_predict_of_its_own_is_asked_itself():
    estimator = OverridingRegression(max_iter=1000).fit(X, Y)
    rows = [[-1.0, 3.5, 1.4, 0.2], ROWS[0]]
    assert model_of(estimator).predict(rows)["predictions"] == [2, 0]


def test_a_column_of_strings_is_text_for_a_vectorizer_and_a_table_for_an_encoder():
    words = ["red", "green", "blue", "red"]
    texts = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(words, [0, 1, 1, 0])
    assert model_of(texts, ["red"]).predict([["red"], ["green"]])["predictions"] == [0, 1]
    table = np.array(words, dtype=object).reshape(-1, 1)
    codes = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(table, [0, 1, 1, 0])
    assert model_of(codes, ["red"]).predict([["red"], ["green"]])["predictions"] == [0, 1]


def test_mixed_columns_keep_their_types():
    rows = [["red", 1.5, True], ["green", 2.5, False], ["red", 3.5, True]]
    table = np.array(rows, dtype=object)
    columns = make_column_transformer((OneHotEncoder(), [0]), ("passthrough", [1, 2]))
    estimator = make_pipeline(columns, RandomForestRegressor(5, random_state=0))
    model = model_of(estimator.fit(table, [1.0, 2.0, 3.0]), rows)
    assert [column.type for column in model.signature.inputs] == ["string", "float32", "bool"]
    assert model.predict(rows)["predictions"] == estimator.predict(table).tolist()


def test_whole_numbers_of_64_bits_keep_all_their_digits():
    signature = Signature(
        inputs=(Column(name="id", type="int64"),),
        outputs=(Output(name="predictions", type="int64"),),
    )
    model = SklearnModel(Largest(), signature, [[1]], holds_threads=False)
    assert model.predict([[2**53 + 1], [-(2**63)]])["predictions"] == [2**53 + 1, -(2**63)]


def test_numbers_of_32_bits_are_counted_with_in_64_as_the_bare_estimator_does():
    signature = Signature(
        inputs=(Column(name="x", type="float32"),),
        outputs=(Output(name="predictions", type="float64"),),
    )
    estimator = LinearRegression().fit([[0.0], [1.0]], [0.0, 3.0])
    model = SklearnModel(estimator, signature, [[0.1]], holds_threads=False)
    assert model.predict([[0.1]])["predictions"] == [pytest.approx(0.3, rel=1e-12)]


class Largest(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    def predict(self, X: Any) -> Any:
        return X.max(axis=1)


def test_an_estimator_fitted_with_named_columns_does_not_warn_at_each_predict():
    estimator = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(X, Y)
    estimator[0].feature_names_in_ = np.array(["a", "b", "c", "d"], dtype=object)
    with pytest.warns(UserWarning, match="valid feature names"):
        estimator.predict(X[:1])
    model = model_of(estimator)
    assert model.signature.names == ("a", "b", "c", "d")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(ROWS[:1])


def fitted_on_a_frame(chosen: dict[str, list[int]], names: list[str], rows: list[Any]) -> Any:
    """A model as fitted on a data frame, its columns chosen by name, without pandas here."""
    steps = {"number": StandardScaler(), "kind": OneHotEncoder(), "text": TfidfVectorizer()}
    columns = ColumnTransformer(
        [
            (name, steps[name], where[0] if name == "text" else where)
            for name, where in chosen.items()
        ]
    )
    model = make_pipeline(columns, LogisticRegression())
    model.fit(np.array(rows, dtype=object), np.arange(len(rows)) % 2)
    columns.feature_names_in_ = np.array(names, dtype=object)
    columns.transformers_ = [
        (name, step, names[where] if isinstance(where, int) else [names[place] for place in where])
        for name, step, where in columns.transformers_
    ]
    return model


def test_columns_that_were_chosen_by_name_are_found_by_place_without_a_data_frame():
    rows = [[float(place), "ab"[place % 2], f"word {place % 3} good"] for place in range(30)]
    names = ["age", "sex", "said"]
    model = fitted_on_a_frame({"text": [2], "kind": [1], "number": [0]}, names, rows)
    with pytest.raises(ValueError, match="using strings is only supported for"):
        model.predict(np.array(rows, dtype=object))
    served = model_of(take_arrays(open_joblib(dumped(model))), rows[:4])
    assert list(served.signature.names) == names
    by_place = fitted_on_a_frame({"text": [2], "kind": [1], "number": [0]}, names, rows)
    by_place[0].transformers_ = [
        (name, step, {"text": 2, "kind": [1], "number": [0]}[name])
        for name, step, _ in by_place[0].transformers_
    ]
    wanted = by_place.predict_proba(np.array(rows, dtype=object))
    np.testing.assert_allclose(served.predict(rows)["probabilities"], wanted, rtol=1e-12)


def test_a_forest_starts_no_threads_of_its_own():
    estimator = RandomForestClassifier(20, n_jobs=-1, random_state=0).fit(X, Y)
    model = model_of(make_pipeline(StandardScaler().fit(X), estimator))
    assert model._estimator[-1].n_jobs is None
    assert estimator.n_jobs == -1  # the caller's own is left alone
    before = threading.active_count()
    model.predict(ROWS)
    assert threading.active_count() == before


def threads_now() -> set[int]:
    return {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}


@pytest.fixture
def two_threads() -> Any:
    with threadpoolctl.threadpool_limits(limits=2):
        yield


@pytest.mark.usefixtures("two_threads")
def test_a_worker_predicts_with_one_thread_in_whichever_thread_it_does(
    store, regression, monkeypatch
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    loaded = load(stored(store, regression), store)
    seen = []

    def work() -> None:
        with threadpoolctl.threadpool_limits(limits=2):
            loaded.predict(ROWS[:1])
            seen.append(threads_now())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [{1}]


@pytest.mark.usefixtures("two_threads")
def test_the_operator_decides_on_threads_with_the_variable(store, regression, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(threads, "_known", None)
    monkeypatch.setattr(threads, "_scans", 0)
    before = threads_now()
    load(stored(store, regression), store).predict(ROWS[:1])
    assert threads_now() == before == {2}


def test_the_size_is_that_of_the_arrays_and_dictionaries_inside():
    class Holder:
        def __init__(self, **parts: Any) -> None:
            self.__dict__ = parts

    array = np.zeros((1000, 100))
    assert measure(Holder(a=array)) == pytest.approx(800_000, rel=0.01)
    assert measure(Holder(a=array, b=array, c=array[:10])) == pytest.approx(800_000, rel=0.01)
    assert measure(Holder(words={f"word {n}": n for n in range(1000)})) > 100_000
    assert measure(Holder(a=np.array(["x" * 10_000] * 2, dtype=object))) > 10_000
    code = (measure, np, Holder, np.mean, np.log1p, murmurhash3_32, len, np.zeros(3).sum)
    assert measure(Holder(code=code)) < 5_000


def test_the_size_of_a_forest_counts_its_trees_and_that_of_a_packed_artefact_what_it_unpacks_to(
    store,
):
    estimator = RandomForestClassifier(30, random_state=0).fit(X, Y)
    nodes = sum(tree.tree_.node_count for tree in estimator.estimators_)
    buffer = io.BytesIO()
    joblib.dump(estimator, buffer, compress=9)
    manifest = stored(store, estimator, buffer.getvalue())
    size_bytes = load(manifest, store).size_bytes
    assert nodes * 64 < size_bytes < nodes * 64 * 10
    assert size_bytes > 2 * manifest.size_bytes


def test_a_plain_pickle_opens_too(store, regression):
    manifest = stored(store, regression, pickle.dumps(regression))
    assert load(manifest, store).predict(ROWS[:1])["predictions"] == ["setosa"]


@pytest.mark.parametrize("raw", [b"", b"no joblib at all", b"\x80\x05.", b"\x78\x9cbroken"])
def test_bytes_that_do_not_open_make_the_model_unavailable(store, regression, raw):
    manifest = stored(store, regression, raw)
    with pytest.raises(ModelUnavailable, match=r"^iris@v1: does not open: "):
        load(manifest, store)


def test_a_truncated_artefact_is_found_by_its_digest_and_never_opened(
    store, regression, monkeypatch
):
    manifest = stored(store, regression)
    path = store.root / "iris" / "v1" / "model.joblib"
    path.write_bytes(path.read_bytes()[:-10])
    opened: list[Any] = []
    monkeypatch.setattr(joblib, "load", opened.append)
    with pytest.raises(ModelUnavailable, match="not the published one"):
        load(manifest, store)
    assert opened == []


class Planted:
    """Runs code when it is opened, as any pickle can."""

    ran: bool = False

    def __reduce__(self) -> Any:
        return setattr, (Planted, "ran", True)


def test_planted_bytes_do_not_run(store, regression):
    manifest = stored(store, regression)
    (store.root / "iris" / "v1" / "model.joblib").write_bytes(pickle.dumps(Planted()))
    with pytest.raises(ModelUnavailable):
        load(manifest, store)
    assert not Planted.ran
    open_joblib(pickle.dumps(Planted()))
    assert Planted.ran  # had they been opened, they would have


def answers_of(estimator) -> dict[str, list[Any]]:
    """A version's answer to its example."""
    return model_of(estimator).predict(ROWS[:2])


def of_another_release(store, estimator, monkeypatch, outputs: dict[str, Any] | None):
    """A version that another release has written, with the golden answers that it gave."""
    golden = None if outputs is None else Golden(outputs=outputs, tolerance=Tolerance(rtol=1e-6))
    with monkeypatch.context() as patch:
        patch.setattr("sklearn.base.__version__", "0.24.2")
        return stored(store, estimator, libraries={"scikit-learn": "0.24.2"}, golden=golden)


def test_an_artefact_of_another_release_that_nothing_proves_is_refused_before_it_is_opened(
    store, regression, monkeypatch
):
    manifest = of_another_release(store, regression, monkeypatch, None)
    with pytest.raises(ModelUnavailable, match=r"published with scikit-learn 0\.24\.2, here is"):
        load(manifest, store)


def test_an_artefact_of_another_release_that_answers_the_same_serves(
    store, regression, monkeypatch
):
    answers = answers_of(regression)
    manifest = of_another_release(store, regression, monkeypatch, answers)
    assert load(manifest, store).predict(manifest.rows) == answers


def test_an_artefact_of_another_release_that_answers_otherwise_is_refused_with_both_named(
    store, regression, monkeypatch
):
    wrong = answers_of(regression)
    wrong["predictions"][0] = "nothing of the kind"
    manifest = of_another_release(store, regression, monkeypatch, wrong)
    said = rf"published with .*scikit-learn 0\.24\.2, here is {re.escape(sklearn.__version__)}"
    with pytest.raises(ModelUnavailable, match=said) as caught:
        load(manifest, store)
    assert "expected 'nothing of the kind'" in caught.value.message


def test_a_later_patch_of_the_same_release_is_fine(store, regression):
    major, minor, *_ = sklearn.__version__.split(".")
    load(stored(store, regression, libraries={"scikit-learn": f"{major}.{minor}.99"}), store)


def test_a_model_that_does_not_answer_its_example_is_unavailable(store, regression):
    narrow = Signature(
        inputs=(Column(name="a"),), outputs=(Output(name="predictions", type="string"),)
    )
    manifest = stored(store, regression, signature=narrow, example=([1.0],))
    with pytest.raises(ModelUnavailable, match="does not answer its example: ValueError"):
        load(manifest, store)


def test_a_version_that_is_not_in_the_store_is_unavailable(store, regression):
    manifest = manifest_of(b"", derive_signature(regression, ROWS[:1]))
    with pytest.raises(ModelUnavailable, match="no version of model 'iris'"):
        load(manifest, store)


def test_an_unknown_runtime_is_named(store, regression):
    manifest = stored(store, regression, runtime="torch")
    with pytest.raises(ModelUnavailable, match="no runtime 'torch'; there are sklearn"):
        load(manifest, store)


def test_a_runtime_whose_library_is_missing_names_the_extra(store, regression, monkeypatch):
    def refuse(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'joblib'", name="joblib")

    monkeypatch.setattr(registry, "import_module", refuse)
    with pytest.raises(ModelUnavailable, match=r"needs joblib.* pip install 'modelyard\[worker\]'"):
        load(stored(store, regression), store)


@pytest.mark.parametrize("name", sorted(labels._BY_PROBABILITY | labels._BY_SCORE))
def test_a_classifier_that_is_listed_by_name_exists(name: str):
    module, _, kind = name.rpartition(".")
    assert labels._name(getattr(import_module(module), kind)()) == name
