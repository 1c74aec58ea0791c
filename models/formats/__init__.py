"""File formats: detection, ONNX structure checks, MLflow folders."""
