"""File formats: detection, ONNX structure checks, MLflow folders."""

from models.formats import onnx_check
from models.formats.detect import Source, read, source_of, zip_names
from models.formats.onnx_check import OnnxFile
from models.formats.protobuf import BYTES, VARINT, Raw, Span, fields, message, varint

__all__ = [
    "BYTES",
    "VARINT",
    "OnnxFile",
    "Raw",
    "Source",
    "Span",
    "fields",
    "message",
    "onnx_check",
    "read",
    "source_of",
    "varint",
    "zip_names",
]
