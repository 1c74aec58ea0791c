"""Graphs that were not made here: their inputs and outputs become rows, labels and numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skl2onnx
from onnx import TensorProto, helper
from skl2onnx.common.data_types import FloatTensorType
from sklearn.cluster import KMeans
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier

from models.manifest import Manifest
from models.publish.publisher import publish
from models.runtimes import Loaded, load
from models.runtimes.golden import check_golden
from models.store.repository import Repository
from yard.contract.values import ModelRef
from yard.errors import ConfigurationError, ModelUnavailable, PredictFailed

random = np.random.default_rng(0)
X = random.normal(size=(50, 3)).astype(np.float32)
Y = np.array(["a", "b", "c"])[np.digitize(X[:, 0], [-0.4, 0.4])]
ROWS = X[:4].tolist()
FLOAT, INT, TEXT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL


@pytest.fixture
def store(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "store")


def graph(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: Any = ()) -> bytes:
    takes, gives = (
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in listed]
        for listed in (inputs, outputs)
    )
    made = helper.make_graph(nodes, "g", takes, gives, list(weights))
    raw: bytes = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    ).SerializeToString()
    return raw


def published(store: Repository, raw: bytes, rows: Any) -> tuple[Manifest, Loaded]:
    path = store.root.parent / "m.onnx"
    path.write_bytes(raw)
    manifest = publish(store, None, path, "m", "v1", rows)
    loaded = load(manifest, store)
    check_golden(loaded, manifest)
    return manifest, loaded


def converted(estimator: Any, **options: Any) -> bytes:
    raw: bytes = skl2onnx.convert_sklearn(
        estimator, initial_types=[("x", FloatTensorType([None, 3]))], **options
    ).SerializeToString()
    return raw


def test_a_classifier_with_a_mapping_for_each_row_gives_an_array(store):
    model = LogisticRegression().fit(X, Y)
    manifest, loaded = published(store, converted(model), ROWS)
    assert manifest.task == "classifier"
    assert manifest.signature.classes == ("a", "b", "c")
    answers = loaded.predict(X.tolist())
    assert answers["predictions"] == model.predict(X).tolist()
    assert np.allclose(answers["probabilities"], model.predict_proba(X), atol=1e-5)


def test_clusters_are_labels_beside_distances(store):
    model = KMeans(2, n_init=1).fit(X)
    manifest, loaded = published(store, converted(model), ROWS)
    assert manifest.task == "clusterer"
    assert manifest.signature.output_names == ("predictions", "scores")
    assert loaded.predict(X.tolist())["predictions"] == model.predict(X).tolist()


def test_a_column_of_numbers_is_a_regressors(store):
    model = LinearRegression().fit(X, X @ [1, 2, 3])
    manifest, loaded = published(store, converted(model), ROWS)
    assert manifest.task == "regressor"
    assert manifest.signature.outputs[0].shape == ()
    assert np.allclose(loaded.predict(ROWS)["predictions"], model.predict(X[:4]), atol=1e-4)


def test_an_input_for_each_column_gives_its_name_and_type(store):
    nodes = [
        helper.make_node("Cast", ["age"], ["number"], to=FLOAT),
        helper.make_node("Add", ["number", "height"], ["sum"]),
        helper.make_node("Identity", ["name"], ["same"]),
        helper.make_node("Not", ["old"], ["young"]),
    ]
    inputs = [("age", INT, [None, 1]), ("height", FLOAT, [None, 1]), ("name", TEXT, [None, 1]),
              ("old", BOOL, [None])]  # fmt: skip
    outputs = [("sum", FLOAT, [None, 1]), ("same", TEXT, [None, 1]), ("young", BOOL, [None])]
    rows = [{"age": 3, "height": 1.5, "name": "x", "old": True}, [4, 0.5, "naïve", False]]
    manifest, loaded = published(store, graph(nodes, inputs, outputs), rows)
    columns = [(column.name, column.type) for column in manifest.signature.inputs]
    assert columns == [("age", "int64"), ("height", "float32"), ("name", "string"), ("old", "bool")]
    assert manifest.signature.output_names == ("predictions", "same", "young")
    assert loaded.predict(manifest.rows) == {
        "predictions": [4.5, 4.5],
        "same": ["x", "naïve"],
        "young": [False, True],
    }


def test_a_graph_for_one_row_is_asked_row_by_row(store):
    raw = graph([helper.make_node("Neg", ["x"], ["y"])], [("x", FLOAT, [1, 2])],
                [("y", FLOAT, [1, 2])])  # fmt: skip
    manifest, loaded = published(store, raw, [[1.0, 2.0], [3.0, 4.0]])
    assert manifest.task == "transformer"
    assert manifest.batchable
    assert loaded.predict([[1.0, 2.0]] * 3)["predictions"] == [[-1.0, -2.0]] * 3


def test_rows_that_depend_on_each_other_are_not_batched(store):
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    raw = graph(nodes, [("x", FLOAT, [None, 2])], [("y", FLOAT, [None, 2])])
    manifest, loaded = published(store, raw, [[1.0, 2.0], [3.0, 4.5]])
    assert not manifest.batchable
    assert loaded.predict([[1.0, 3.0]])["predictions"] == [[-1.0, 1.0]]


@pytest.mark.parametrize(
    ("inputs", "outputs", "said"),
    [
        ([("x", FLOAT, [None, 3, 8, 8])], [("y", FLOAT, [None, 3, 8, 8])], "rows of plain values"),
        ([("x", FLOAT, [7, 3])], [("y", FLOAT, [7, 3])], "fixed number of rows"),
        ([("x", TensorProto.UINT8, [None, 3])], [("y", TensorProto.UINT8, [None, 3])], "of type"),
    ],
)
def test_what_cannot_take_rows_is_refused(store, inputs, outputs, said):
    raw = graph([helper.make_node("Identity", ["x"], ["y"])], inputs, outputs)
    with pytest.raises(ConfigurationError, match=said):
        published(store, raw, ROWS)


def test_one_answer_for_all_rows_is_no_answer(store):
    node = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    raw = graph([node], [("x", FLOAT, [None, 3])], [("y", FLOAT, [])])
    with pytest.raises(ConfigurationError, match="must have an answer for each"):
        published(store, raw, ROWS)


def test_a_number_that_is_not_finite_is_told_with_its_row(store):
    raw = graph([helper.make_node("Log", ["x"], ["y"])], [("x", FLOAT, [None, 1])],
                [("y", FLOAT, [None, 1])])  # fmt: skip
    _, loaded = published(store, raw, [[1.0], [2.0]])
    with pytest.raises(PredictFailed, match="of row 1 is not a finite number"):
        loaded.predict([[1.0], [-1.0]])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_networks_answer_is_the_same_alone_and_in_any_batch(store):
    model = MLPClassifier((64, 32), max_iter=20, random_state=0).fit(X, Y)
    _, loaded = published(store, converted(model, options={id(model): {"zipmap": False}}), ROWS)
    together = loaded.predict(X.tolist())
    for size in (1, 2, 3, 7, 17):
        for start in range(0, len(X) - size, 11):
            part = loaded.predict(X[start : start + size].tolist())
            assert part == {name: all_[start : start + size] for name, all_ in together.items()}


def test_bytes_that_are_not_the_published_ones_are_not_opened(store):
    manifest, _ = published(store, converted(LogisticRegression().fit(X, Y)), ROWS)
    (store.root / "m" / "v1" / "model.onnx").write_bytes(b"\x08\x09")
    with pytest.raises(ModelUnavailable, match="is not the published one"):
        load(manifest, store)
    assert manifest.ref == ModelRef("m", "v1")
