"""Publishing: what is worked out from an estimator, and that half of it can be done again."""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import scipy.signal  # type: ignore[import-untyped]  # ships no types
import sklearn
from click.testing import CliRunner, Result
from fakeredis import FakeRedis
from redis.exceptions import ConnectionError as RedisConnectionError
from sklearn.base import BaseEstimator
from sklearn.cluster import DBSCAN, KMeans
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeRegressor
from threadpoolctl import threadpool_info, threadpool_limits  # type: ignore[import-untyped]

from models.manifest import Manifest
from models.publish.publisher import publish, register_store
from models.publish.sklearn_signature import derive_signature
from models.store.repository import Repository
from modelyard.cli import main
from yard import local
from yard.broker import connections
from yard.contract import keys
from yard.contract.values import ModelRef
from yard.errors import (
    ConfigurationError,
    InvalidInput,
    InvalidManifest,
    InvalidName,
    Unavailable,
    VersionExists,
)
from yard.registry import catalog

IRIS = load_iris()
X, Y = IRIS.data, IRIS.target
ROWS: list[list[float]] = X[:2].tolist()
V1 = ModelRef("iris", "v1")


@pytest.fixture(scope="module")
def estimator() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(X, Y)


@pytest.fixture
def store(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "store")


@pytest.fixture
def redis() -> FakeRedis:
    return FakeRedis()


def published(redis: FakeRedis, model: str = "iris") -> dict[str, Any]:
    return {
        version: entry.manifest for version, entry in catalog.read_versions(redis, model).items()
    }


def types(estimator: Any, example: list[Any], **options: Any) -> list[tuple[str, str]]:
    signature = derive_signature(estimator, example, **options)
    return [(column.name, column.type) for column in signature.inputs]


def test_a_published_version_is_in_the_store_and_in_the_catalogue(store, redis, estimator):
    manifest = publish(
        store, redis, estimator, "iris", "v1", ROWS, note="first", metrics={"accuracy": 0.97}
    )
    assert manifest == store.manifest(V1)
    assert published(redis) == {"v1": json.loads(manifest.to_json())}
    assert (manifest.note, manifest.metrics) == ("first", {"accuracy": 0.97})
    assert manifest.libraries["scikit-learn"] == sklearn.__version__
    assert manifest.signature.classes == (0, 1, 2)
    assert manifest.signature.task == "classifier"
    assert manifest.batchable
    opened = joblib.load(io.BytesIO(store.read(V1)))
    assert opened.predict(X).tolist() == estimator.predict(X).tolist()


def test_publishing_again_changes_neither_the_store_nor_the_catalogue(store, redis, estimator):
    first = publish(store, redis, estimator, "iris", "v1", ROWS, note="first")
    assert publish(store, redis, estimator, "iris", "v1", ROWS, note="second") == first
    assert store.manifest(V1) == first
    assert published(redis)["v1"] == json.loads(first.to_json())


def test_a_version_gets_traffic_only_if_asked_to(store, redis, estimator):
    active = keys.key("active", "iris")
    publish(store, redis, estimator, "iris", "v1", ROWS)
    assert redis.get(active) is None
    publish(store, redis, estimator, "iris", "v2", ROWS, activate=True)
    assert redis.get(active) == b"v2"


def test_the_estimator_itself_is_left_as_it_was(store, redis):
    forest = RandomForestClassifier(3, n_jobs=2).fit(X, Y)
    forest.feature_names_in_ = np.array(list("abcd"), dtype=object)
    publish(store, redis, forest, "iris", "v1", ROWS)
    assert forest.n_jobs == 2
    assert list(forest.feature_names_in_) == list("abcd")


def test_a_notebook_that_publishes_keeps_its_threads(store, estimator):
    with threadpool_limits(limits=2):
        publish(store, None, estimator, "iris", "v1", ROWS)
        assert {pool["num_threads"] for pool in threadpool_info()} == {2}


def test_a_file_is_stored_as_it_is(store, redis, estimator, tmp_path):
    path = tmp_path / "iris.joblib"
    joblib.dump(estimator, path, compress=3)
    publish(store, redis, path, "iris", "v1", ROWS)
    assert store.read(V1) == path.read_bytes()


def test_the_example_may_be_an_array(store, redis, estimator):
    named = [dict(zip(("x0", "x1", "x2", "x3"), row, strict=True)) for row in X[:2]]
    for version, example in enumerate([X[:2], list(X[:2]), [tuple(row) for row in X[:2]], named]):
        manifest = publish(store, redis, estimator, "iris", f"v{version}", example)
        assert manifest.rows == ROWS
        assert Manifest.parse(manifest.to_json()) == manifest


class Away(FakeRedis):
    """A Redis that has gone."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        raise RedisConnectionError("Connection refused")

    def pipeline(self, transaction: Any = True, shard_hint: Any = None) -> Any:
        raise RedisConnectionError("Connection refused")


def test_what_is_stored_but_not_registered_is_repaired_by_the_same_call(store, redis, estimator):
    with pytest.raises(Unavailable, match="iris@v1 is stored, but Redis does not answer"):
        publish(store, Away(), estimator, "iris", "v1", ROWS, activate=True)
    assert store.versions("iris") == ["v1"]
    publish(store, redis, estimator, "iris", "v1", ROWS, activate=True)
    assert list(published(redis)) == ["v1"]
    assert redis.get(keys.key("active", "iris")) == b"v1"


def test_what_is_stored_but_not_registered_is_repaired_at_the_next_start(store, redis, estimator):
    publish(store, None, estimator, "iris", "v1", ROWS)
    publish(store, None, estimator, "iris", "v2", ROWS)
    assert register_store(store, redis) == [V1, ModelRef("iris", "v2")]
    assert list(published(redis)) == ["v1", "v2"]
    assert register_store(store, redis) == []


def test_the_store_wins_over_a_catalogue_that_says_otherwise(store, redis, estimator):
    manifest = publish(store, redis, estimator, "iris", "v1", ROWS)
    redis.hset(keys.key("versions", "iris"), "v1", manifest.to_json().replace(b"iris", b"lily"))
    assert register_store(store, redis) == [V1]
    assert published(redis)["v1"]["model"] == "iris"


def test_a_broken_version_does_not_hide_the_others(store, redis, estimator, caplog):
    publish(store, None, estimator, "iris", "v1", ROWS)
    publish(store, None, estimator, "iris", "v2", ROWS)
    (store.root / "iris" / "v1" / "manifest.json").write_bytes(b"{}")
    assert register_store(store, redis) == [ModelRef("iris", "v2")]
    assert "iris@v1 is left out of the catalogue" in caplog.text


def test_registering_says_when_redis_is_away(store, estimator):
    publish(store, None, estimator, "iris", "v1", ROWS)
    with pytest.raises(Unavailable):
        register_store(store, Away())


def test_another_estimator_needs_another_version(store, redis, estimator):
    publish(store, redis, estimator, "iris", "v1", ROWS)
    with pytest.raises(VersionExists, match="other bytes"):
        publish(store, redis, LinearRegression().fit(X, Y), "iris", "v1", ROWS)
    with pytest.raises(VersionExists, match="another signature"):
        publish(store, redis, estimator, "iris", "v1", ROWS, feature_names=list("abcd"))


def test_what_a_yard_serves_is_not_replaced_from_another_store(store, redis, estimator, tmp_path):
    publish(store, redis, estimator, "iris", "v1", ROWS)
    before, other = published(redis), Repository(tmp_path / "other")
    with pytest.raises(VersionExists, match=r"though not in .*other: is that the yard's store"):
        publish(other, redis, KMeans(2, n_init=1).fit(X), "iris", "v1", ROWS)
    assert published(redis) == before
    assert other.models() == []


def test_names_are_those_given_else_those_fitted_else_numbered(estimator):
    names = [str(name) for name in IRIS.feature_names]
    assert [name for name, _ in types(estimator, ROWS)] == ["x0", "x1", "x2", "x3"]
    assert [name for name, _ in types(estimator, ROWS, feature_names=names)] == names
    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(X, Y)
    fitted[0].feature_names_in_ = np.array(list("abcd"), dtype=object)
    assert [name for name, _ in types(fitted, ROWS)] == ["a", "b", "c", "d"]
    by_name = [dict(zip("dcba", reversed(ROWS[0]), strict=True))]
    assert [name for name, _ in types(fitted, by_name)] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("names", [["a"], list("abcde"), list("aabc")])
def test_names_that_do_not_fit_are_refused(estimator, names):
    with pytest.raises(InvalidInput, match="feature_names"):
        derive_signature(estimator, ROWS, names)


def test_cells_are_of_32_bits_where_the_estimator_takes_no_more():
    forest = RandomForestClassifier(3).fit(X, Y)
    assert {kind for _, kind in types(forest, ROWS)} == {"float32"}
    assert {kind for _, kind in types(LinearRegression().fit(X, Y), ROWS)} == {"float64"}
    squares = make_pipeline(PolynomialFeatures(), DecisionTreeRegressor())
    assert {kind for _, kind in types(squares.fit(X, Y), ROWS)} == {"float64"}  # not even 1e30


@pytest.mark.parametrize(
    ("estimator", "task"),
    [
        (LogisticRegression(max_iter=1000), "classifier"),
        (LinearRegression(), "regressor"),
        (make_pipeline(StandardScaler(), KMeans(2, n_init=1)), "clusterer"),
        (IsolationForest(n_estimators=3), "outlier_detector"),
        (make_pipeline(StandardScaler(), PCA(2)), "transformer"),
    ],
)
def test_the_kind_of_estimator_is_told(estimator, task):
    signature = derive_signature(estimator.fit(X, Y), ROWS)
    assert signature.task == task
    assert signature.classes == ((0, 1, 2) if task == "classifier" else None)


TEXTS = ["good day", "bad day", "good night", "bad night", "good food", "bad food"]
SAID = ["+", "-"] * 3


@pytest.mark.parametrize(
    "vectorizer",
    [
        TfidfVectorizer(),
        HashingVectorizer(n_features=64),
        make_pipeline(TfidfVectorizer(), FunctionTransformer(accept_sparse=True)),
        make_union(TfidfVectorizer(), TfidfVectorizer(analyzer="char")),
    ],
    ids=["tf-idf", "hashing", "nested", "union"],
)
def test_a_text_model_has_one_input_called_text(vectorizer):
    model = make_pipeline(vectorizer, LogisticRegression()).fit(TEXTS, SAID)
    signature = derive_signature(model, ["good"])
    assert [(column.name, column.type) for column in signature.inputs] == [("text", "string")]
    assert signature.classes == ("+", "-")
    assert (
        derive_signature(model, [["good"]])
        == derive_signature(model, [{"text": "good"}])
        == signature
    )


def test_the_outcome_of_a_search_is_a_text_model_too(store):
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression())
    search = GridSearchCV(pipeline, {"logisticregression__C": [1, 10]}, cv=3).fit(TEXTS, SAID)
    manifest = publish(store, None, search, "said", "v1", ["good"])
    assert manifest.signature.names == ("text",)


def test_a_classifier_without_probabilities_has_one_output():
    signature = derive_signature(LinearSVC().fit(X, Y), ROWS)
    assert signature.output_names == ("predictions",)
    assert signature.classes == (0, 1, 2)


def test_a_model_whose_rows_depend_on_each_other_is_not_batched(store):
    model = make_pipeline(
        FunctionTransformer(partial(scipy.signal.detrend, axis=0, type="constant")),
        LinearRegression(),
    ).fit(X, Y)
    assert not publish(store, None, model, "iris", "v1", X[:3]).batchable


@pytest.mark.parametrize(
    ("example", "said"),
    [
        ([], "example"),
        ([[5.1, 3.5, 1.4]], r"instances\[0\]"),
        ([[5.1, 3.5, 1.4, None]], "must be a number"),
        ([[5.1, 3.5, 1.4, float("nan")]], "finite"),
        ([[5.1, 3.5, 1.4, 0.2], [5.1, 3.5, 1.4, "x"]], "several types"),
        ([{"x0": 1.0}], "is missing"),
        ("5.1", "must be a list of rows"),
    ],
)
def test_an_example_that_does_not_fit_is_refused_with_its_place(store, estimator, example, said):
    with pytest.raises(InvalidInput, match=said):
        publish(store, None, estimator, "iris", "v1", example)
    assert store.models() == []


class Shy(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Neither predicts nor transforms."""


@pytest.mark.parametrize(
    ("estimator", "said"),
    [
        (Shy(), "neither predict nor transform"),
        (DBSCAN().fit(X), "neither predict nor transform"),
        ({"not": "an estimator"}, "neither predict nor transform"),
        (LogisticRegression(), "does not answer its example: NotFittedError"),
        (lambda rows: rows, "cannot be written: PicklingError"),
    ],
)
def test_what_cannot_predict_is_not_published(store, estimator, said):
    with pytest.raises(ConfigurationError, match=said):
        publish(store, None, estimator, "iris", "v1", ROWS)
    assert store.models() == []


def test_bad_names_notes_and_metrics_are_refused(store, estimator):
    with pytest.raises(InvalidName):
        publish(store, None, estimator, "../iris", "v1", ROWS)
    with pytest.raises(InvalidManifest, match="note"):
        publish(store, None, estimator, "iris", "v1", ROWS, note="n" * 3000)
    with pytest.raises(InvalidManifest, match="metrics"):
        publish(store, None, estimator, "iris", "v1", ROWS, metrics={"loss": float("inf")})
    assert store.models() == []


def test_a_file_of_another_release_is_refused(store, estimator, tmp_path):
    path = tmp_path / "old.joblib"
    raw = io.BytesIO()
    joblib.dump(estimator, raw)
    old = raw.getvalue().replace(sklearn.__version__.encode(), b"0.9.9"[: len(sklearn.__version__)])
    path.write_bytes(old)
    with pytest.raises(ConfigurationError, match=r"written by scikit-learn 0\.9\.9"):
        publish(store, None, path, "iris", "v1", ROWS)


@pytest.fixture
def run(redis: FakeRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls a command of ours on the test's store and Redis."""
    monkeypatch.setattr(local, "redis_url", lambda settings: settings.redis_url)
    monkeypatch.setattr(connections, "fast", lambda url: redis)
    monkeypatch.setattr(connections, "check_server", lambda redis: None)

    def call(command: str, *arguments: str) -> Result:
        options = ["--store", str(tmp_path / "store"), "--redis-url", "redis://test"]
        return CliRunner().invoke(main, [command, *arguments, *options])

    return call


@pytest.fixture
def files(tmp_path: Path, estimator: Any) -> tuple[str, str]:
    """An estimator's file and one of rows."""
    artefact, rows = tmp_path / "iris.joblib", tmp_path / "rows.json"
    joblib.dump(estimator, artefact)
    rows.write_text(json.dumps(ROWS))
    return str(artefact), str(rows)


def test_the_command_publishes_a_file(run, redis, files, store):
    artefact, rows = files
    done = run(
        "publish", "iris", "v1", artefact, "--example", rows, "--note", "x", "--metric", "a=0.5"
    )
    assert done.exit_code == 0, done.output
    assert "published iris@v1" in done.stdout
    assert "modelyard activate iris v1" in done.stdout
    assert "opening" in done.stderr
    assert list(published(redis)) == ["v1"]
    assert store.manifest(V1).metrics == {"a": 0.5}


def test_the_command_prints_the_manifest_for_programs(run, redis, files):
    artefact, rows = files
    done = run("publish", "iris", "v1", artefact, "--example", rows, "--activate", "--json")
    assert json.loads(done.stdout) == published(redis)["v1"]
    assert redis.get(keys.key("active", "iris")) == b"v1"


def test_without_options_the_running_yards_store_and_redis_are_used(
    run, redis, files, tmp_path, monkeypatch
):
    artefact, rows = files
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "redis_url", lambda settings: "redis://of-the-yard")
    running = local.Yard(1, 1, "redis://of-the-yard", "http://gateway", str(tmp_path / "its"), "")
    monkeypatch.setattr(local, "running", lambda data: running)
    for name in ("MODELYARD_STORE", "MODELYARD_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    command = ["publish", "iris", "v1", artefact, "--example", rows]
    assert CliRunner().invoke(main, command).exit_code == 0
    assert Repository(tmp_path / "its").versions("iris") == ["v1"]
    assert CliRunner().invoke(main, [*command, "--store", "mine"]).exit_code == 0
    assert Repository(tmp_path / "mine").versions("iris") == ["v1"]


def test_the_help_says_that_opening_runs_code(run):
    said = CliRunner().invoke(main, ["publish", "--help"]).output
    assert "RUNS ITS CODE" in said


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        (["IRIS", "v1"], ROWS),
        (["iris", "../v1"], ROWS),
        (["iris", "v1", "--metric", "accuracy"], ROWS),
        (["iris", "v1", "--metric", "accuracy=high"], ROWS),
        (["iris", "v1", "--metric", "accuracy=nan"], ROWS),
        (["iris", "v1", "--metric", "=1"], ROWS),
        (["iris", "v1"], []),
        (["iris", "v1"], {"rows": ROWS}),
        (["iris", "v1"], "{"),
    ],
)
def test_a_wrong_call_ends_with_status_2(run, tmp_path, files, arguments, rows):
    path = tmp_path / "other.json"
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    done = run("publish", *arguments, files[0], "--example", str(path))
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output


def test_a_missing_file_ends_with_status_2(run, files):
    assert run("publish", "iris", "v1", "gone", "--example", files[1]).exit_code == 2
    assert run("publish", "iris", "v1", files[0]).exit_code == 2


def test_what_goes_wrong_is_one_line_and_status_1(run, tmp_path, files):
    broken = tmp_path / "broken.joblib"
    broken.write_bytes(b"\x80\x04no\npickle")
    done = run("publish", "iris", "v1", str(broken), "--example", files[1])
    assert done.exit_code == 1
    faults = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(faults) == 1
    assert faults[0].startswith("error: iris@v1: does not open: ")
    assert done.stderr.splitlines()[-1] == faults[0]


def test_a_store_that_cannot_be_written_is_one_line_and_status_1(run, tmp_path, files):
    (tmp_path / "store").write_text("a file is in its place")
    done = run("publish", "iris", "v1", files[0], "--example", files[1])
    assert done.exit_code == 1
    assert "store" in done.stderr.splitlines()[-1]


def test_a_request_may_serve_as_the_example(run, tmp_path, files):
    path = tmp_path / "request.json"
    path.write_text(json.dumps({"instances": ROWS}))
    assert run("publish", "iris", "v1", files[0], "--example", str(path)).exit_code == 0
