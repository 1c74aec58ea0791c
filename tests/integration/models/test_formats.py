"""Formats are recognised by content, not by a file's name; each is published and served."""

from __future__ import annotations

import bz2
import contextlib
import io
import pickle
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import skops.io
from hypothesis import given
from hypothesis import strategies as st
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models import runtimes
from models.formats import detect, onnx_check
from models.optimize.compile import convert
from models.publish import examine
from models.publish.publisher import publish
from models.publish.sklearn_signature import derive_signature
from models.runtimes import load
from models.runtimes.golden import check_golden
from models.store.repository import Repository
from yard.errors import ConfigurationError, InvalidInput, ModelUnavailable, VersionExists

random = np.random.default_rng(0)
X = random.normal(size=(60, 3))
Y = np.array(["low", "high", "mid"])[np.digitize(X[:, 0], [-0.4, 0.4])]
ROWS = X[:4].tolist()
MODEL = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)


def as_joblib(compress: Any = 0) -> bytes:
    raw = io.BytesIO()
    joblib.dump(MODEL, raw, compress=compress)
    return raw.getvalue()


def as_onnx(estimator: Any = MODEL, type_: Any = "float32") -> bytes:
    return convert(estimator, derive_signature(estimator, ROWS), type_, is_text=False)


@pytest.fixture
def store(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "store")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (as_joblib(), "joblib or pickle"),
        (pickle.dumps(MODEL, protocol=2), "joblib or pickle"),
        (pickle.dumps(MODEL, protocol=5), "joblib or pickle"),
        (pickle.dumps(MODEL, protocol=0), "joblib or pickle"),
        (as_joblib("zlib"), "joblib or pickle, compressed with zlib"),
        (as_joblib("gzip"), "joblib or pickle, compressed with gzip"),
        (as_joblib("bz2"), "joblib or pickle, compressed with bz2"),
        (as_joblib("xz"), "joblib or pickle, compressed with xz"),
        (as_joblib("lzma"), "joblib or pickle, compressed with lzma"),
    ],
)
def test_every_way_to_write_a_pickle_is_known_and_served(store, tmp_path, content, said):
    path = tmp_path / "model.onnx"  # a suffix is a wish
    path.write_bytes(content)
    assert detect.read_artefact(path).description == said
    manifest = publish(store, None, path, "m", "v1", ROWS, compile=False)
    assert (manifest.format, manifest.runtime) == ("joblib", "sklearn")
    loaded = load(manifest, store)
    check_golden(loaded, manifest)
    assert loaded.predict(ROWS)["predictions"] == MODEL.predict(X[:4]).tolist()


@pytest.mark.parametrize(
    "estimator",
    [MODEL, RandomForestClassifier(5), HistGradientBoostingClassifier(max_iter=5),
     KNeighborsClassifier(algorithm="ball_tree")],
    ids=lambda estimator: type(estimator).__name__,
)  # fmt: skip
def test_a_skops_file_is_published_compiled_or_not_and_served(store, tmp_path, estimator):
    path = tmp_path / "model.pkl"
    path.write_bytes(skops.io.dumps(estimator.fit(X, Y)))
    assert detect.read_artefact(path).description == "skops"
    plain = publish(store, None, path, "m", "v1", ROWS, compile=False)
    assert (plain.format, plain.runtime) == ("skops", "skops")
    assert "skops" in plain.libraries
    check_golden(load(plain, store), plain)
    if isinstance(estimator, KNeighborsClassifier):
        return  # the gain there is too small to be sure of
    compiled = publish(store, None, path, "m", "v2", ROWS)
    assert (compiled.format, compiled.runtime) == ("skops", "onnx")
    assert [file.name for file in compiled.files] == ["model.skops", "model.onnx"]
    check_golden(load(compiled, store), compiled)


def test_of_a_file_that_is_too_long_nothing_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(detect, "MOST_BYTES", 2**42)  # more than there is in memory
    path = tmp_path / "model.joblib"
    with path.open("wb") as stream:
        stream.truncate(2**43)  # takes no room on disk
    with pytest.raises(ConfigurationError, match="longer than"):
        detect.read_artefact(path)


def test_a_skops_file_may_hold_what_pipelines_on_data_frames_are_made_of(store, tmp_path):
    columns = make_column_transformer((SimpleImputer(), [0, 1]), remainder="passthrough")
    model = make_pipeline(columns, LogisticRegression()).fit(X, Y)
    columns.transformers = [("mean", SimpleImputer(), make_column_selector(dtype_include=float))]
    path = tmp_path / "model.skops"
    path.write_bytes(skops.io.dumps(model))
    manifest = publish(store, None, path, "m", "v1", ROWS, compile=False)
    assert load(manifest, store).predict(ROWS)["predictions"] == model.predict(X[:4]).tolist()


def test_an_onnx_file_is_published_as_it_is(store, tmp_path):
    path = tmp_path / "model.joblib"
    path.write_bytes(as_onnx())
    manifest = publish(store, None, path, "m", "v1", ROWS, feature_names=["a", "b", "c"])
    assert (manifest.format, manifest.runtime) == ("onnx", "onnx")
    assert [file.name for file in manifest.files] == ["model.onnx"]
    assert manifest.task == "classifier"
    assert manifest.signature.names == ("a", "b", "c")
    assert {column.type for column in manifest.signature.inputs} == {"float32"}
    assert manifest.signature.classes == ("high", "low", "mid")
    assert manifest.compiled is not None
    assert manifest.compiled.reason == "it is ONNX already"
    assert "scikit-learn" not in manifest.libraries
    loaded = load(manifest, store)
    check_golden(loaded, manifest)
    answers = loaded.predict(X.tolist())
    assert answers["predictions"] == MODEL.predict(X).tolist()
    assert np.allclose(answers["probabilities"], MODEL.predict_proba(X), atol=1e-5)


def mlflow(folder: Path, flavour: str, name: str, content: bytes) -> Path:
    folder.mkdir()
    (folder / name).write_bytes(content)
    key = "pickled_model" if flavour == "sklearn" else "data"
    (folder / "MLmodel").write_text(
        f"artifact_path: model\nflavors:\n  python_function:\n    loader_module: mlflow.{flavour}\n"
        f"  {flavour}:\n    {key}: {name}\n    sklearn_version: 1.9.1\nrun_id: 0123\n"
    )
    return folder


@pytest.mark.parametrize(
    ("flavour", "name", "content", "format_"),
    [
        ("sklearn", "model.pkl", pickle.dumps(MODEL), "joblib"),
        ("sklearn", "model.skops", skops.io.dumps(MODEL), "skops"),
        ("onnx", "model.onnx", as_onnx(), "onnx"),
    ],
)
def test_a_folder_of_mlflow_is_published(store, tmp_path, flavour, name, content, format_):
    folder = mlflow(tmp_path / "model", flavour, name, content)
    said: list[str] = []
    manifest = publish(store, None, folder, "m", "v1", ROWS, progress=said.append)
    assert manifest.format == format_
    assert store.read(manifest.ref) == content
    assert f"an MLflow model, {flavour} flavour" in said[0]
    check_golden(load(manifest, store), manifest)


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ("flavors:\n  pytorch:\n    data: x\n", "has the flavors pytorch"),
        ("flavors:\n  sklearn:\n    code: x\n", "names no file (pickled_model or"),
        ("flavors: [sklearn]\n", "names no flavors"),
        ("- a\n- b\n", "names no flavors"),
        ("flavors: {sklearn: {pickled_model: MLmodel}}\n", "looks like text"),
        ("a: [\n", "is not YAML"),
        ("flavors: {onnx: {data: model.pkl}}\n", "which MLmodel calls the onnx flavour"),
    ],
)
def test_other_folders_are_refused_with_the_reason(tmp_path, described, said):
    (tmp_path / "MLmodel").write_text(described)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(MODEL))
    with pytest.raises(ConfigurationError) as caught:
        detect.read_artefact(tmp_path)
    assert said in caught.value.message


def test_a_folder_without_a_description_is_no_model(tmp_path):
    with pytest.raises(ConfigurationError, match="has no MLmodel; it is no MLflow model"):
        detect.read_artefact(tmp_path)


def test_without_pyyaml_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    (tmp_path / "MLmodel").write_text("flavors: {}")
    with pytest.raises(ConfigurationError, match=r"pip install 'modelyard\[convert\]'"):
        detect.read_artefact(tmp_path)


def savez() -> bytes:
    raw = io.BytesIO()
    np.savez(raw, a=X)
    return raw.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "an empty file"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x28\xb5\x2f\xfd\x00", "zstd"),
        (b"ORTM1234", "onnxruntime's own format"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b'{"learner": {}}', "JSON"),
        (b"5.1,3.5,1.4\n", "text"),
        (b"\x00\x01\x02\x03binary", "no format known here (first bytes 00 01 02 03"),
        (b"\x0c\x01\x00\x00\x00\x00\x00\x00{", "a safetensors file"),
        (bz2.compress(b"hello" * 100), "is compressed with bz2, and inside is text"),
        (savez(), "a file of numpy.savez"),
    ],
)
def test_anything_else_is_refused_and_named(tmp_path, content, said):
    path = tmp_path / "model.joblib"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        detect.read_artefact(path)
    assert said in caught.value.message


@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_else(content):
    for look in (
        lambda: detect.detect_artefact(content, "x"),
        lambda: onnx_check.inspect_onnx(content),
    ):
        with contextlib.suppress(ConfigurationError):
            look()


@given(st.integers(0, 2_000), st.binary(min_size=1, max_size=8))
def test_a_broken_graph_is_refused_or_read_and_nothing_else(place, noise):
    raw = bytearray(ONNX)
    place %= len(raw)
    raw[place : place + len(noise)] = noise
    with contextlib.suppress(ConfigurationError):
        onnx_check.inspect_onnx(bytes(raw))


ONNX = as_onnx()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"gone\.joblib: No such file"):
        detect.read_artefact(tmp_path / "gone.joblib")


def test_the_same_bytes_again_change_nothing_and_other_bytes_are_refused(store, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(as_onnx())
    other.write_bytes(as_joblib())
    first = publish(store, None, one, "m", "v1", ROWS)
    assert publish(store, None, one, "m", "v1", ROWS) == first
    with pytest.raises(VersionExists, match="other bytes"):
        publish(store, None, other, "m", "v1", ROWS)


def test_an_example_that_a_graph_does_not_take_is_named(store, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(as_onnx())
    with pytest.raises(InvalidInput, match=r"instances\[0\]: has 2 values"):
        publish(store, None, path, "m", "v1", [[1.0, 2.0]])
    with pytest.raises(InvalidInput, match="feature_names"):
        publish(store, None, path, "m", "v1", ROWS, feature_names=["a"])
    assert store.models() == []


def test_where_a_runtimes_library_is_missing_the_extra_is_named(store, tmp_path, monkeypatch):
    path = tmp_path / "m.skops"
    path.write_bytes(skops.io.dumps(MODEL))
    manifest = publish(store, None, path, "m", "v1", ROWS, compile=False)
    monkeypatch.delitem(sys.modules, "models.runtimes.skops_file", raising=False)
    monkeypatch.setitem(sys.modules, "skops", None)
    monkeypatch.setitem(sys.modules, "skops.io", None)
    with pytest.raises(ModelUnavailable, match=r"pip install 'modelyard\[worker,skops\]'"):
        runtimes.load(manifest, store)


def test_the_process_that_opens_is_started_again_when_it_is_gone(store, tmp_path):
    publish(store, None, MODEL, "m", "v1", ROWS, compile=False)
    server_process = examine.SANDBOX._server_process
    assert server_process is not None
    server_process.process.kill()
    server_process.process.wait()
    publish(store, None, MODEL, "m", "v2", ROWS, compile=False)
    assert store.versions("m") == ["v1", "v2"]
