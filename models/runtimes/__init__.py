"""Runtimes: a module for each, imported only where a version names it.

A worker passes `load` a manifest and the repository and gets a `Loaded`, which predicts rows. A
runtime module has one function, ``load(manifest, repository) -> Loaded``; importing this package
imports none, and neither numpy nor scikit-learn.
"""

from typing import TYPE_CHECKING

from yard.lazy import lazy_names

if TYPE_CHECKING:
    from models.runtimes.base import Loaded
    from models.runtimes.model_cache import ModelCache
    from models.runtimes.onnx_session import OnnxModel, open_session
    from models.runtimes.registry import RUNTIMES, load, prepare
    from models.runtimes.sklearn_joblib import SklearnModel, is_same_release, open_joblib
    from models.runtimes.skops_file import open_skops

__all__ = [
    "RUNTIMES",
    "Loaded",
    "ModelCache",
    "OnnxModel",
    "SklearnModel",
    "arrays",
    "golden",
    "is_same_release",
    "load",
    "memory_size",
    "open_joblib",
    "open_session",
    "open_skops",
    "prepare",
    "sklearn_calls",
    "sklearn_tuning",
    "tensors",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Loaded": "models.runtimes.base",
        "ModelCache": "models.runtimes.model_cache",
        "OnnxModel": "models.runtimes.onnx_session",
        "RUNTIMES": "models.runtimes.registry",
        "SklearnModel": "models.runtimes.sklearn_joblib",
        "is_same_release": "models.runtimes.sklearn_joblib",
        "load": "models.runtimes.registry",
        "open_joblib": "models.runtimes.sklearn_joblib",
        "open_session": "models.runtimes.onnx_session",
        "open_skops": "models.runtimes.skops_file",
        "prepare": "models.runtimes.registry",
    },
)
