"""ONNX weights that are read where they lie in the file: the same model, but for the copies."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.runtimes.onnx_sharing import configure_session, share_weights
from yard.errors import ConfigurationError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

ROWS, COLUMNS = 300, 200
RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.normal(size=(ROWS, COLUMNS))
#: Weights in each form in which a file may hold them.
FORMS = {
    "raw float": (np.float32, True),
    "raw double": (np.float64, True),
    "packed floats": (np.float32, False),
    "packed doubles": (np.float64, False),
}


def model(dtype: Any, raw: bool, weights: Any = WEIGHTS) -> bytes:
    """One that multiplies by weights and adds small ones."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    values = weights.astype(dtype)
    content = values.tobytes() if raw else values.flatten()
    tensors = [
        onnx.helper.make_tensor("weights", kind, values.shape, content, raw=raw),
        onnx.helper.make_tensor("bias", kind, [values.shape[1]], np.ones(values.shape[1])),
    ]
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("MatMul", ["x", "weights"], ["product"]),
            onnx.helper.make_node("Add", ["product", "bias"], ["y"]),
        ],
        "linear",
        [onnx.helper.make_tensor_value_info("x", kind, [None, values.shape[0]])],
        [onnx.helper.make_tensor_value_info("y", kind, [None, values.shape[1]])],
        tensors,
    )
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    made.ir_version = 9
    return bytes(made.SerializeToString())


def answers(raw: bytes, x: Any, folder: Path | None = None) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if folder is not None:
        configure_session(options, folder)
    session = onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("form", FORMS)
def test_a_thin_model_answers_like_the_whole_one(form: str, tmp_path: Path):
    dtype, raw = FORMS[form]
    whole = model(dtype, raw)
    (tmp_path / "copy").write_bytes(whole)
    small = share_weights(whole, "copy")
    assert small.shared_bytes == WEIGHTS.astype(dtype).nbytes
    assert len(small.model) < 5_000
    x = RANDOM.normal(size=(3, ROWS)).astype(dtype)
    tolerance = 1e-5 if dtype is np.float32 else 1e-12
    np.testing.assert_allclose(
        answers(small.model, x, tmp_path), answers(whole, x), rtol=tolerance, atol=tolerance
    )


def test_the_weights_come_from_the_file(tmp_path: Path):
    whole = model(np.float64, True)
    zeros = whole.replace(WEIGHTS.tobytes(), np.zeros_like(WEIGHTS).tobytes())
    (tmp_path / "copy").write_bytes(zeros)
    x = np.ones((1, ROWS))
    assert answers(share_weights(whole, "copy").model, x, tmp_path).tolist() == [[1.0] * COLUMNS]


def test_a_mapped_file_need_not_be_read_into_memory(tmp_path: Path):
    path = tmp_path / "copy"
    path.write_bytes(model(np.float32, True))
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as raw:
        assert share_weights(raw, "copy") == share_weights(path.read_bytes(), "copy")


def test_small_weights_stay_in_the_model():
    whole = model(np.float64, True, WEIGHTS[:10, :10])
    assert share_weights(whole, "copy").shared_bytes == 0
    assert share_weights(whole, "copy").model == whole


def test_weights_of_a_type_that_their_form_does_not_fit_stay_in_the_model():
    made = onnx.load_from_string(model(np.float64, False))
    made.graph.initializer[0].data_type = onnx.TensorProto.FLOAT
    assert share_weights(made.SerializeToString(), "copy").shared_bytes == 0


@pytest.mark.parametrize("cut", [1, 100, 10_000, 480_000])
def test_a_broken_file_is_refused(cut: int):
    with pytest.raises(ConfigurationError, match="no model's protobuf"):
        share_weights(model(np.float64, True)[:-cut], "copy")
