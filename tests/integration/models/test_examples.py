"""The example models: what they know, and that neither a batch nor the day changes an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fakeredis import FakeRedis
from redis.exceptions import ConnectionError as RedisConnectionError
from sklearn.datasets import load_diabetes, load_digits, load_iris

from models.examples import examples
from models.examples.examples import EXAMPLES, publish_examples
from models.examples.sentences import NEGATIVE, POSITIVE
from models.manifest import Manifest
from models.publish.publisher import register_store
from models.runtimes import Loaded, load
from models.store.repository import Repository
from modelyard.cli import main
from yard import local
from yard.broker import connections
from yard.contract import keys
from yard.contract.validation import check_rows
from yard.contract.values import ModelRef
from yard.errors import Unavailable
from yard.registry import catalog


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A store with the examples, trained once."""
    repository = Repository(tmp_path_factory.mktemp("examples"))
    publish_examples(repository, None)
    return repository


@pytest.fixture(scope="session")
def loaded(store: Repository) -> Mapping[str, Loaded]:
    """The examples as a worker has them."""
    return {str(ref): load(store.manifest(ref), store) for ref in EXAMPLES}


ROWS = {
    "iris": load_iris().data.tolist(),
    "diabetes": load_diabetes(scaled=False).data.tolist(),
    "digits": load_digits().data[::9].tolist(),
    "sentiment": [[text] for text in (*POSITIVE, *NEGATIVE)],
}


@pytest.mark.parametrize("ref", EXAMPLES, ids=str)
def test_a_row_answers_the_same_alone_and_in_any_batch(loaded, ref):
    model, rows = loaded[str(ref)], ROWS[ref.model]
    together = model.predict(rows)
    singles = rows if str(ref) != "iris@v2" else rows[::5]  # 3 ms each
    for row in singles:
        place = rows.index(row)
        assert model.predict([row]) == {
            name: all_[place : place + 1] for name, all_ in together.items()
        }
    for size in (2, 3, 5, 8, 17, 64):
        for start in range(0, len(rows), 29):
            part = model.predict(rows[start : start + size])
            assert part == {name: all_[start : start + size] for name, all_ in together.items()}


@pytest.mark.parametrize("ref", EXAMPLES, ids=str)
def test_every_example_answers_its_example(store, loaded, ref):
    manifest = store.manifest(ref)
    rows = check_rows(manifest.signature, instances=list(manifest.example))
    answers = loaded[str(ref)].predict(rows)
    assert list(answers) == list(manifest.signature.output_names)
    assert {len(values) for values in answers.values()} == {len(rows)}
    assert manifest.batchable
    assert manifest.note


def test_the_irises_are_named_and_so_are_their_measures(store, loaded):
    for version in ("v1", "v2"):
        manifest = store.manifest(ModelRef("iris", version))
        assert manifest.signature.names == (
            "sepal length (cm)",
            "sepal width (cm)",
            "petal length (cm)",
            "petal width (cm)",
        )
        assert manifest.signature.classes == ("setosa", "versicolor", "virginica")
        answers = loaded[f"iris@{version}"].predict(manifest.rows)
        assert answers["predictions"] == ["setosa", "versicolor", "virginica"]
        assert all(abs(sum(row) - 1) < 1e-6 for row in answers["probabilities"])
        assert manifest.metrics["accuracy"] > 0.9
    assert (
        store.manifest(ModelRef("iris", "v1")).digest
        != store.manifest(ModelRef("iris", "v2")).digest
    )


def test_diabetes_takes_natural_units_and_gives_a_number(store, loaded):
    manifest = store.manifest(ModelRef("diabetes", "v1"))
    assert manifest.signature.names[:3] == ("age", "sex", "bmi")
    assert manifest.signature.classes is None
    assert manifest.signature.output_names == ("predictions",)
    [progression] = loaded["diabetes@v1"].predict([manifest.rows[0]])["predictions"]
    assert 25 < progression < 346  # the range of the data


GOOD = [
    "I loved it",
    "Great!",
    "This movie is fantastic",
    "What an excellent idea, thank you",
    "The staff were friendly and helpful",
    "I am very happy with the result",
    "Best holiday ever, everything was perfect",
    "An amazing and beautiful place",
    "I really enjoyed this book",
    "this is awesome",
]
BAD = [
    "I hated it",
    "Terrible!",
    "This movie is awful",
    "What a stupid idea, never again",
    "The staff were rude and useless",
    "I am very disappointed with the result",
    "Worst holiday ever, everything was broken",
    "An ugly and dirty place",
    "I did not like this book",
    "a waste of money",
]


def test_sentiment_gets_obvious_new_sentences_right(store, loaded):
    assert not {*GOOD, *BAD} & {*POSITIVE, *NEGATIVE}
    assert store.manifest(ModelRef("sentiment", "v1")).signature.classes == ("negative", "positive")
    answers = loaded["sentiment@v1"].predict([[text] for text in GOOD + BAD])["predictions"]
    assert dict(zip(GOOD, answers[: len(GOOD)], strict=True)) == dict.fromkeys(GOOD, "positive")
    assert dict(zip(BAD, answers[len(GOOD) :], strict=True)) == dict.fromkeys(BAD, "negative")


def test_sentiment_takes_any_string(loaded):
    odd = ["", " ", "\0", "日本語", "x" * 10_000, "\U0001f600", "0"]
    answers = loaded["sentiment@v1"].predict([[text] for text in odd])
    assert set(answers["predictions"]) <= {"negative", "positive"}


def test_the_small_digits_are_a_quarter_and_answer_alike(store, loaded):
    manifest = store.manifest(ModelRef("digits", "v1-int8"))
    assert manifest.parent == "digits@v1"
    small = load(manifest, store)
    original = loaded["digits@v1"]
    assert small.size_bytes < original.size_bytes / 2
    expected = original.predict(ROWS["digits"])["predictions"]
    given = small.predict(ROWS["digits"])["predictions"]
    assert sum(a == b for a, b in zip(given, expected, strict=True)) > 0.98 * len(expected)
    assert store.manifest(ModelRef("digits", "v1")).metrics["accuracy"] > 0.85


@pytest.mark.parametrize("ref", EXAMPLES, ids=str)
def test_training_again_gives_the_same_model(loaded, ref):
    again, rows = EXAMPLES[ref]().estimator, ROWS[ref.model][:20]
    texts_or_rows = [row[0] for row in rows] if ref.model == "sentiment" else rows
    expected = loaded[str(ref)].predict(rows)["predictions"]
    given = again.predict(texts_or_rows).tolist()
    assert given == (pytest.approx(expected, rel=1e-9) if ref.model == "diabetes" else expected)


@pytest.fixture
def redis() -> FakeRedis:
    return FakeRedis()


def test_they_are_made_known_and_v1_gets_the_traffic(store, redis):
    said: list[str] = []
    assert publish_examples(store, redis, said.append) == []  # all are in the store
    assert said == []
    assert catalog.model_names(redis) == ["diabetes", "digits", "iris", "sentiment"]
    assert list(catalog.read_versions(redis, "iris")) == ["v1", "v2"]
    for model in ("diabetes", "digits", "iris", "sentiment"):
        assert redis.get(keys.key("active", model)) == b"v1"


def test_an_operators_choice_is_left_alone(store, redis):
    redis.set(keys.key("active", "iris"), "v2")
    publish_examples(store, redis)
    assert redis.get(keys.key("active", "iris")) == b"v2"


def files_of(store: Repository, manifest: Manifest) -> dict[str, bytes]:
    return {file.name: store.read(manifest.ref, file.name) for file in manifest.files}


def test_all_are_compiled_and_keep_their_originals(store):
    for ref in EXAMPLES:
        manifest = store.manifest(ref)
        assert manifest.runtime == "onnx", manifest.compiled
        files = ["model.onnx"] if ref.model == "digits" else ["model.joblib", "model.onnx"]
        assert [file.name for file in manifest.files] == files


def test_only_the_missing_ones_are_trained(store, redis, tmp_path, monkeypatch):
    partial = Repository(tmp_path)
    manifest = store.manifest(ModelRef("iris", "v2"))
    partial.publish(manifest, files_of(store, manifest))
    fast = {ref: train for ref, train in EXAMPLES.items() if ref.model in ("iris", "diabetes")}
    monkeypatch.setattr(examples, "EXAMPLES", fast)
    said: list[str] = []
    published = publish_examples(partial, redis, said.append)
    assert published == [ModelRef("iris", "v1"), ModelRef("diabetes", "v1")]
    assert said == ["publishing iris@v1", "publishing diabetes@v1"]
    assert partial.manifest(manifest.ref) == manifest


def test_redis_away_is_said(store):
    class Away(FakeRedis):
        def execute_command(self, *args: Any, **options: Any) -> Any:
            raise RedisConnectionError("Connection refused")

    with pytest.raises(Unavailable):
        publish_examples(store, Away())


@pytest.fixture
def run(redis: FakeRedis, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls ``modelyard examples`` on a store and the test's Redis."""
    monkeypatch.setattr(local, "redis_url", lambda settings: settings.redis_url)
    monkeypatch.setattr(connections, "fast", lambda url: redis)
    monkeypatch.setattr(connections, "check_server", lambda redis: None)

    def call(root: Path, *arguments: str) -> Any:
        options = ["--store", str(root), "--redis-url", "redis://test", "--json"]
        done = CliRunner().invoke(main, ["examples", *arguments, *options])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["published"]

    return call


def test_the_command_publishes_them(run, redis, tmp_path):
    assert run(tmp_path, "--if-empty") == [
        "iris@v1",
        "iris@v2",
        "diabetes@v1",
        "sentiment@v1",
        "digits@v1",
        "digits@v1-int8",
    ]
    assert run(tmp_path) == []
    assert catalog.model_names(redis) == ["diabetes", "digits", "iris", "sentiment"]


def test_if_empty_leaves_other_stores_alone_but_makes_them_known(run, redis, store, tmp_path):
    own = Repository(tmp_path)
    manifest = store.manifest(ModelRef("iris", "v1"))
    own.publish(manifest, files_of(store, manifest))
    assert run(tmp_path, "--if-empty") == []
    assert own.models() == ["iris"]
    assert catalog.model_names(redis) == ["iris"]
    assert redis.get(keys.key("active", "iris")) == b"v1"
    assert register_store(own, redis) == []
