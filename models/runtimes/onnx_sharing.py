"""ONNX weights that the workers of one machine share: read where they lie in the mapped file.

onnxruntime copies the weights of a file into memory of its own, but maps those that a model keeps
in another file. So it is given the model without its large weights, each replaced by a reference to
where its bytes lie in the very file that it came from (`models.store.mmap`). The rewriting follows
onnx.proto of ONNX 1.x (TensorProto's ``external_data``), on the mapped file, without a library and
without a copy. Only what `models.formats.onnx_check` has inspected gets here, so that no reference
in the file is the publisher's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.formats import BYTES, VARINT, Raw, Span, fields, message, varint

#: Smaller weights are not worth a reference.
_LEAST_BYTES = 2**16

#: Fields of ModelProto, GraphProto and TensorProto.
_GRAPH, _INITIALIZER = 7, 5
_DATA_TYPE, _EXTERNAL_DATA, _DATA_LOCATION = 2, 13, 14
_RAW_DATA = 9
#: Numbers that are packed, one after the other as in memory: the field, and TensorProto's type.
_PACKED = {4: 1, 10: 11}  # float_data: FLOAT, double_data: DOUBLE
_EXTERNAL = 1


@dataclass(frozen=True, slots=True)
class Thin:
    """A model whose large weights are references.

    Attributes:
        model: The ModelProto to open.
        shared_bytes: What the references stand for.
    """

    model: bytes
    shared_bytes: int


def thin(raw: Raw, file_name: str) -> Thin:
    """The model in ``raw`` with its large weights read from the file of that name.

    Args:
        raw: A ModelProto, inspected.
        file_name: Where the same bytes lie, relative to the folder that `share` names.

    Raises:
        ConfigurationError: It is no protobuf.
    """
    shared = [0]
    model = b"".join(
        message(_GRAPH, _graph(raw, inner, file_name, shared))
        if (number, wire) == (_GRAPH, BYTES)
        else raw[whole[0] : whole[1]]
        for number, wire, inner, whole in fields(raw, (0, len(raw)))
    )
    return Thin(model, shared[0])


def share(options: Any, folder: Path) -> None:
    """Set up a session (``onnxruntime.SessionOptions``) for a `thin` model.

    Weights stay as they are in the file: rearranged for speed they would be the worker's own again.
    """
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder)
    )


def _graph(raw: Raw, span: Span, file_name: str, shared: list[int]) -> bytes:
    parts: list[bytes] = []
    for number, wire, inner, whole in fields(raw, span):
        replaced = None
        if (number, wire) == (_INITIALIZER, BYTES) and inner[1] - inner[0] >= _LEAST_BYTES:
            replaced = _reference(raw, inner, file_name, shared)
        parts.append(raw[whole[0] : whole[1]] if replaced is None else replaced)
    return b"".join(parts)


def _reference(raw: Raw, span: Span, file_name: str, shared: list[int]) -> bytes | None:
    """The weights as a reference; None where they are not one run of bytes as in memory."""
    parts = list(fields(raw, span))
    data_type = next((inner[0] for n, w, inner, _ in parts if (n, w) == (_DATA_TYPE, VARINT)), 0)
    data = [
        (number, inner)
        for number, wire, inner, _ in parts
        if wire == BYTES and (number == _RAW_DATA or number in _PACKED)
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
        message(_EXTERNAL_DATA, message(1, key.encode()) + message(2, value.encode()))
        for key, value in place.items()
    ]
    location = varint(_DATA_LOCATION, _EXTERNAL)
    return message(_INITIALIZER, b"".join([*others, *entries, location]))
