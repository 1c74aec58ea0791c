"""Weights of 8 bits: networks shrink to a quarter, the rest does not, and then nothing is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from fakeredis import FakeRedis
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor

from models.manifest import Manifest
from models.optimize import int8_weights
from models.optimize.compile import convert
from models.publish.publisher import publish
from models.publish.quantizer import quantize
from models.publish.sklearn_signature import derive_signature
from models.runtimes import load
from models.runtimes.golden import check_golden
from models.runtimes.onnx_session import OnnxModel
from models.store.repository import Repository
from modelyard.cli import main
from yard import local
from yard.broker import connections
from yard.contract import keys
from yard.errors import ConfigurationError, InvalidName, NotFound, VersionExists

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, Y = load_digits(return_X_y=True)
ROWS = X[:5].tolist()


@pytest.fixture(scope="module")
def network() -> MLPClassifier:
    return MLPClassifier((256, 128), max_iter=15, random_state=0).fit(X[:1200], Y[:1200])


@pytest.fixture
def store(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "store")


def published(store: Repository, estimator: Any, type_: Any = "float32") -> Manifest:
    """The estimator's graph as ``digits@v1``, whether it is faster here or not."""
    path = store.root.parent / "graph.onnx"
    path.write_bytes(convert(estimator, derive_signature(estimator, ROWS), type_, is_text=False))
    return publish(store, None, path, "digits", "v1", ROWS)


def test_a_network_shrinks_to_a_quarter_and_reads_digits_as_well(store, network):
    before = published(store, network)
    report = quantize(store, None, "digits", "v1", "v1-int8", rows=X[1200:].tolist())
    assert report.rows == 5 + len(X) - 1200
    assert 3.6 < report.times_smaller < 4.1
    made = report.manifest
    assert made is not None
    assert made.parent == "digits@v1"
    assert made.runtime == "onnx"
    assert made.signature == before.signature
    assert store.manifest(made.ref) == made
    loaded, original = load(made, store), load(before, store)
    check_golden(loaded, made)
    rows = X[1200:].tolist()
    scores = [
        np.mean(np.array(model.predict(rows)["predictions"]) == Y[1200:])
        for model in (original, loaded)
    ]
    assert scores[1] >= scores[0] - 0.01
    alone = [loaded.predict([row])["probabilities"][0] for row in rows[:40]]
    assert alone == loaded.predict(rows[:40])["probabilities"]


def test_a_form_in_doubles_shrinks_twice_as_much(store, network):
    published(store, network, "float64")
    report = quantize(store, None, "digits", "v1", "v2", note="small")
    assert report.times_smaller > 7  # from doubles
    assert report.agreement >= int8_weights.AGREEMENT
    assert report.manifest is not None
    assert report.manifest.note == "small"
    assert report.manifest.compiled is not None
    assert report.manifest.compiled.rows_per_s["candidate"]["64"] > 0


@pytest.mark.parametrize(
    "estimator",
    [LogisticRegression(max_iter=20), RandomForestClassifier(3)],
    ids=["linear", "trees"],
)
def test_where_nothing_shrinks_nothing_is_made(store, estimator):
    published(store, estimator.fit(X, Y))
    with pytest.raises(ConfigurationError, match="digits@v1: nothing of it shrinks in 8 bits"):
        quantize(store, None, "digits", "v1", "v2")
    assert store.versions("digits") == ["v1"]


def test_what_shrinks_too_little_or_answers_otherwise_is_not_kept(monkeypatch, network):
    signature = derive_signature(network, ROWS)
    raw = convert(network, signature, "float32", is_text=False)
    small = int8_weights.quantize_weights(raw)
    model = OnnxModel(small, signature, ROWS)
    assert int8_weights._fault((len(raw), len(small)), 1.0, model) == ""
    assert "does not shrink enough" in int8_weights._fault((len(raw), len(raw) - 9), 1.0, model)
    assert "only 90.00% of the rows" in int8_weights._fault((len(raw), len(small)), 0.9, model)


def test_the_weights_in_8_bits_are_those_in_32_but_for_a_step():
    weights = np.random.default_rng(0).normal(size=(100, 40)).astype(np.float32)
    weights[:, 3] = 0
    packed, scales = int8_weights.pack(weights)
    assert packed.dtype == np.uint8
    back = (packed.astype(np.float32) - 128) * scales[:, :, None]
    back = back.reshape(40, -1)[:, :100].T
    assert np.abs(back - weights).max() <= scales.max() * 0.501
    assert (back[:, 3] == 0).all()


def test_a_regressors_numbers_stay_close(store):
    target = X @ np.random.default_rng(0).normal(size=64)
    network = MLPRegressor(hidden_layer_sizes=(128,), max_iter=20, random_state=0).fit(X, target)
    published(store, network)
    report = quantize(store, None, "digits", "v1", "v2")
    assert report.manifest is not None
    check_golden(load(report.manifest, store), report.manifest)


def test_a_version_that_is_not_there_or_is_there_already_is_named(store, network):
    with pytest.raises(NotFound):
        quantize(store, None, "digits", "v1", "v2")
    publish(store, None, network, "digits", "v1", ROWS, compile=False)
    with pytest.raises(VersionExists):
        quantize(store, None, "digits", "v1", "v1")
    with pytest.raises(InvalidName):
        quantize(store, None, "digits", "v1", "../v2")
    with pytest.raises(ConfigurationError, match=r"is not served as ONNX.*not asked for"):
        quantize(store, None, "digits", "v1", "v2")


@pytest.fixture
def run(store: Repository, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls ``modelyard quantize`` on the test's store and a Redis."""
    redis = FakeRedis()
    monkeypatch.setattr(local, "redis_url", lambda settings: settings.redis_url)
    monkeypatch.setattr(connections, "fast", lambda url: redis)
    monkeypatch.setattr(connections, "check_server", lambda redis: None)

    def call(*arguments: str) -> Any:
        options = ["--store", str(store.root), "--redis-url", "redis://test"]
        return CliRunner().invoke(main, ["quantize", *arguments, *options]), redis

    return call


def test_the_command_makes_a_version_known_and_says_what_came_of_it(run, store, network):
    published(store, network)
    done, redis = run("digits", "v1", "v2")
    assert done.exit_code == 0, done.output
    assert "published digits@v2" in done.stdout
    assert "times smaller" in done.stdout
    assert list(redis.hgetall(keys.key("versions", "digits"))) == [b"v2"]


def test_the_command_prints_figures_for_programs(run, store, network):
    published(store, network)
    done, _ = run("digits", "v1", "v2", "--json")
    said = json.loads(done.stdout)
    assert said["published"] == "digits@v2"
    assert said["after_bytes"] < said["before_bytes"]


def test_the_command_ends_with_status_1_where_nothing_was_made(run, store, monkeypatch):
    published(store, RandomForestClassifier(3).fit(X, Y))
    done, redis = run("digits", "v1", "v2")
    assert done.exit_code == 1
    assert "nothing of it shrinks in 8 bits" in done.stderr
    assert redis.keys() == []
