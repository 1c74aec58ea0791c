"""Quantisation of weights of 32 or 64 bits to 8, and the effect on the answers.

Runs in a child process (`models.publish.sandbox_tasks`), for `models.publish.quantizer`. Only
weights that are multiplied as matrices shrink: those of networks. Trees, linear models and
vocabularies are kept as attributes of their operators. onnxruntime's own dynamic quantisation is
not used: it scales the input by the largest number of a batch, so that a row's answer would change
with the rows beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.manifest import Compiled, Tolerance
from models.optimize.equivalence import ONNX, answer_all, answer_within, compare, measure_speeds
from models.optimize.synthetic_rows import rows_near
from models.runtimes import OnnxModel, golden
from models.sandbox import Quantized
from yard.contract import Signature, check_rows
from yard.errors import ConfigurationError

#: Part of its length that a file must shrink to, to be worth another version.
SMALLER = 0.8
#: Part of the rows that must be answered alike: the same label, or, of a version that gives no
#: labels, each number within `NEAR` of the usual size of the answers (root mean square).
AGREEMENT, NEAR = 0.98, 0.05
#: Numbers of weights of a column that may share a scale.
BLOCKS = (16, 32, 64, 128, 256)
#: Multiply in 8 bits, too: inputs are scaled row by row, so rows stay apart. Measured 1.6 times as
#: fast as doubles on a network of 256 and 128; with 0 the products are in 32 bits.
LEVEL = 4
#: Smaller matrices stay as they are.
LEAST_WEIGHTS = 1_024
#: Allowed difference of the same file's answers between machines, some of which have no products in
#: 8 bits: this part of the tolerance between the two files.
_SAME = 0.2


@dataclass(frozen=True, slots=True)
class QuantizeOutcome:
    """The comparison of both graphs, and the graph with weights of 8 bits."""

    comparison: Quantized
    graph: bytes


def quantize_graph(
    graph: bytes,
    signature: Signature,
    example: Sequence[Any],
    instances: Sequence[Any] | None,
    report_progress: Callable[[str], None] = lambda line: None,
) -> QuantizeOutcome:
    """Quantises a graph to weights of 8 bits, and compares both.

    Args:
        graph: An ONNX file.
        signature: Its inputs and outputs.
        example: Rows that it answers, in the form of a request's ``instances``.
        instances: Rows to compare on; None for rows near the example.
        report_progress: Called with each progress line.

    Raises:
        InvalidInput: A row does not fit the signature.
        ConfigurationError: The graph does not open, does not answer the example, or has nothing
            that shrinks.
    """
    rows = check_rows(signature, instances=example)
    original = OnnxModel(graph, signature, rows)
    small_graph = quantize_weights(graph)
    small = OnnxModel(small_graph, signature, rows)
    report_progress("comparing the answers of both, and timing them")
    more = check_rows(signature, instances=instances) if instances else rows_near(signature, rows)
    decision, agreement = _decision(signature, original, small, [*rows, *more])
    sizes = len(graph), len(small_graph)
    if fault := _fault(sizes, agreement, small):
        decision = decision.model_copy(update={"chosen": "", "reason": fault})
    same = Tolerance(rtol=_SAME * NEAR, atol=_SAME * decision.tolerance.atol)
    comparison = Quantized(
        decision=decision,
        golden=golden.record_golden(small.predict(rows), same),
        before_bytes=sizes[0],
        after_bytes=sizes[1],
        agreement=agreement,
    )
    return QuantizeOutcome(comparison, small_graph)


def _decision(
    signature: Signature, original: OnnxModel, smaller: OnnxModel, rows: list[list[Any]]
) -> tuple[Compiled, float]:
    """Returns the figures, and the part of the rows that are answered alike."""
    answered_rows, expected = answer_within(original, rows)
    actual = answer_all(smaller, answered_rows, expected)
    comparison = compare(signature, expected, actual, rtol=0.0, atol_of_size=NEAR)
    if golden.are_labels(signature, "predictions"):
        labels = compare(signature, _labels(expected), _labels(actual))
        comparison = replace(comparison, disagreements=labels.disagreements)
    agreement = 1 - comparison.disagreements / comparison.rows
    rates = measure_speeds({"original": original, "candidate": smaller}, answered_rows)
    reason = f"weights in 8 bits: {agreement:.2%} of {comparison.rows} rows are answered alike"
    return comparison.decision(ONNX, reason, rates), agreement


def _labels(answers: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {"predictions": answers["predictions"]}


def _fault(sizes: tuple[int, int], agreement: float, smaller: OnnxModel) -> str:
    """Returns why it is not worth another version; "" if it is."""
    before, after = sizes
    if after > SMALLER * before:
        return f"it does not shrink enough: {before} bytes become {after}"
    if agreement < AGREEMENT:
        return f"only {agreement:.2%} of the rows are answered alike, {AGREEMENT:.0%} must be"
    if not smaller.batch_invariance.is_batchable:
        return "its answers would change with the rows beside them"
    return ""


def quantize_weights(raw: bytes) -> bytes:
    """Returns the graph with the weights of its matrix products in 8 bits, scaled by blocks.

    Each product becomes one of ``MatMulNBits`` (onnxruntime's contrib operators), which takes
    numbers as they are and unpacks weights while it multiplies. Doubles become single precision.

    Raises:
        ConfigurationError: No matrix of it is worth it.
    """
    import onnx

    model = onnx.load_model_from_string(raw)
    _make_single(model.graph)
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes, replaced = [], set()
    for node in model.graph.node:
        matrix = _matrix(node, held)
        if matrix is None:
            nodes.append(node)
        else:
            nodes += _replacement(node, matrix, model.graph)
            replaced.add(node.input[1])
    if not replaced:
        raise ConfigurationError(
            "nothing of it shrinks in 8 bits: it multiplies no matrix of weights "
            f"of {LEAST_WEIGHTS} or more"
        )
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _drop_unused(model.graph, replaced)
    if "com.microsoft" not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _make_single(graph: Any) -> None:
    """Turns every double of a graph into a number of single precision."""
    from onnx import TensorProto

    for known in (*graph.input, *graph.output, *graph.value_info):
        if known.type.tensor_type.elem_type == TensorProto.DOUBLE:
            known.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in graph.initializer:
        _narrow(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.DOUBLE:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t"):
                _narrow(attribute.t)


def _narrow(tensor: Any) -> None:
    from onnx import TensorProto, numpy_helper

    if tensor.data_type == TensorProto.DOUBLE:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _matrix(node: Any, held: Mapping[str, Any]) -> Any:
    """Returns the weights ``(inputs, outputs)`` of a product worth it; None for other nodes."""
    from onnx import TensorProto, numpy_helper

    if node.op_type not in ("MatMul", "Gemm") or node.domain or len(node.input) < 2:
        return None
    tensor = held.get(node.input[1])
    if tensor is None or tensor.data_type != TensorProto.FLOAT or len(tensor.dims) != 2:
        return None
    if tensor.dims[0] * tensor.dims[1] < LEAST_WEIGHTS:
        return None
    known = {attribute.name: attribute for attribute in node.attribute}
    if any(known[name].f != 1.0 for name in ("alpha", "beta") if name in known):
        return None
    if "transA" in known and known["transA"].i:
        return None
    weights = numpy_helper.to_array(tensor)
    return weights.T if "transB" in known and known["transB"].i else weights


def _replacement(node: Any, weights: Any, graph: Any) -> list[Any]:
    """Returns the nodes that replace ``node``, and puts their weights into ``graph``."""
    from onnx import helper, numpy_helper

    packed, scales = pack(weights)
    name = node.input[1]
    for suffix, values in (("_8bit", packed), ("_scales", scales)):
        graph.initializer.append(numpy_helper.from_array(values, name + suffix))
    has_bias = node.op_type == "Gemm" and len(node.input) == 3
    product = node.output[0] + "_product" if has_bias else node.output[0]
    nodes = [
        helper.make_node(
            "MatMulNBits",
            [node.input[0], f"{name}_8bit", f"{name}_scales"],
            [product],
            domain="com.microsoft",
            K=weights.shape[0],
            N=weights.shape[1],
            bits=8,
            block_size=packed.shape[2],
            accuracy_level=LEVEL,
        )
    ]
    if has_bias:
        nodes.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]]))
    return nodes


def pack(weights: Any) -> tuple[Any, Any]:
    """Packs weights ``(inputs, outputs)`` in 8 bits, 128 for zero.

    Returns:
        The weights, ``(outputs, blocks, block)`` uint8, and the scale of each block, ``(outputs,
        blocks)`` float32.
    """
    inputs, outputs = weights.shape
    # The last block of a column is padded, and each has a scale of four bytes.
    block = min(BLOCKS, key=lambda block: -(-inputs // block) * (block + 4))
    blocks = -(-inputs // block)
    padded = np.zeros((outputs, blocks * block), dtype=np.float32)
    padded[:, :inputs] = weights.T
    padded = padded.reshape(outputs, blocks, block)
    scales = np.abs(padded).max(axis=2) / 127
    steps = np.rint(padded / np.where(scales == 0, 1, scales)[:, :, None])
    return (steps + 128).astype(np.uint8), scales.astype(np.float32)


def _drop_unused(graph: Any, names: set[str]) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [
        tensor for tensor in graph.initializer if tensor.name in used or tensor.name not in names
    ]
    del graph.initializer[:]
    graph.initializer.extend(kept)
