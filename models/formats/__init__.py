"""File formats: detection, ONNX structure checks, MLflow folders."""

from models.formats import protobuf
from models.formats.detect import Artefact, detect_artefact, read_artefact, zip_names
from models.formats.onnx_check import OnnxFile, inspect_onnx

__all__ = [
    "Artefact",
    "OnnxFile",
    "detect_artefact",
    "inspect_onnx",
    "protobuf",
    "read_artefact",
    "zip_names",
]
