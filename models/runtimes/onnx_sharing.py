"""ONNX weights shared by the workers of one machine: read in place from the mapped file.

onnxruntime copies the weights of a file into memory of its own, but maps those that a model keeps
in another file. So it is given the model without its large weights, each replaced by a reference to
its bytes in the very file that it came from (`models.store.mmap`). The rewriting follows onnx.proto
of ONNX 1.x (TensorProto's ``external_data``), on the mapped file, without a library and without a
copy. Callers pass only files that `models.formats.onnx_check` has inspected, so that no reference
in the file is the publisher's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.formats import protobuf

#: Smaller weights are not replaced.
_LEAST_BYTES = 2**16

#: Fields of ModelProto, GraphProto and TensorProto.
_GRAPH, _INITIALIZER = 7, 5
_DATA_TYPE, _EXTERNAL_DATA, _DATA_LOCATION = 2, 13, 14
_RAW_DATA = 9
#: Packed numbers, laid out as in memory: the field, and TensorProto's type.
_PACKED = {4: 1, 10: 11}  # float_data: FLOAT, double_data: DOUBLE
_EXTERNAL = 1


@dataclass(frozen=True, slots=True)
class SharedModel:
    """A model whose large weights are references.

    Attributes:
        model: The ModelProto to open.
        shared_bytes: Bytes that the references stand for.
    """

    model: bytes
    shared_bytes: int


def share_weights(raw: protobuf.Raw, file_name: str) -> SharedModel:
    """Returns the model in ``raw`` with its large weights read from the file of that name.

    Args:
        raw: A ModelProto, inspected.
        file_name: Path of the same bytes, relative to the folder given to `configure_session`.

    Raises:
        ConfigurationError: It is no protobuf.
    """
    shared = [0]
    model = b"".join(
        protobuf.bytes_field(_GRAPH, _graph(raw, inner, file_name, shared))
        if (number, wire) == (_GRAPH, protobuf.BYTES)
        else raw[whole[0] : whole[1]]
        for number, wire, inner, whole in protobuf.fields(raw, (0, len(raw)))
    )
    return SharedModel(model, shared[0])


def configure_session(options: Any, folder: Path) -> None:
    """Sets up a session (``onnxruntime.SessionOptions``) for a `SharedModel`.

    Weights stay as they are in the file: rearranged for speed they would be copies of the worker's
    own.
    """
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder)
    )


def _graph(raw: protobuf.Raw, span: protobuf.Span, file_name: str, shared: list[int]) -> bytes:
    parts: list[bytes] = []
    for number, wire, inner, whole in protobuf.fields(raw, span):
        replaced = None
        if (number, wire) == (_INITIALIZER, protobuf.BYTES) and inner[1] - inner[0] >= _LEAST_BYTES:
            replaced = _reference(raw, inner, file_name, shared)
        parts.append(raw[whole[0] : whole[1]] if replaced is None else replaced)
    return b"".join(parts)


def _reference(
    raw: protobuf.Raw, span: protobuf.Span, file_name: str, shared: list[int]
) -> bytes | None:
    """Returns the weights as a reference; None where they are not one run of bytes as in memory."""
    parts = list(protobuf.fields(raw, span))
    data_type = next(
        (inner[0] for n, w, inner, _ in parts if (n, w) == (_DATA_TYPE, protobuf.VARINT)), 0
    )
    data = [
        (number, inner)
        for number, wire, inner, _ in parts
        if wire == protobuf.BYTES and (number == _RAW_DATA or number in _PACKED)
    ]
    if len(data) != 1:
        return None
    number, (start, end) = data[0]
    if end - start < _LEAST_BYTES or _PACKED.get(number, data_type) != data_type:
        return None
    shared[0] += end - start
    others = [raw[whole[0] : whole[1]] for n, _, _, whole in parts if n != number]
    place = {"location": file_name, "offset": str(start), "length": str(end - start)}
    entries = [
        protobuf.bytes_field(
            _EXTERNAL_DATA,
            protobuf.bytes_field(1, key.encode()) + protobuf.bytes_field(2, value.encode()),
        )
        for key, value in place.items()
    ]
    location = protobuf.varint_field(_DATA_LOCATION, _EXTERNAL)
    return protobuf.bytes_field(_INITIALIZER, b"".join([*others, *entries, location]))
