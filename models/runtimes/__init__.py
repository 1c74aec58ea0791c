"""What executes artefacts: a module for each runtime, imported only where a version names it.

A worker asks `load` for a version of the store and gets a `Loaded` that predicts rows. A runtime
module has one function, ``load(manifest, repository) -> Loaded``; importing this package imports
none.
"""

from typing import TYPE_CHECKING

from yard.lazy import lazy_names

if TYPE_CHECKING:
    from models.runtimes.base import Loaded, RuntimeModule
    from models.runtimes.batch_invariance import BatchInvariance
    from models.runtimes.golden import are_labels
    from models.runtimes.memory_size import reachable
    from models.runtimes.model_cache import ModelCache
    from models.runtimes.onnx_session import OnnxModel, open_session
    from models.runtimes.registry import RUNTIMES, load, prepare
    from models.runtimes.sklearn_joblib import (
        SklearnModel,
        call_of,
        dense,
        find_inputs,
        open_joblib,
        release,
    )
    from models.runtimes.sklearn_tuning import take_arrays
    from models.runtimes.skops_file import open_skops
    from models.runtimes.tensors import feeds_of, probabilities_of, rows_at_once

__all__ = [
    "RUNTIMES",
    "BatchInvariance",
    "Loaded",
    "ModelCache",
    "OnnxModel",
    "RuntimeModule",
    "SklearnModel",
    "are_labels",
    "arrays",
    "call_of",
    "dense",
    "feeds_of",
    "find_inputs",
    "golden",
    "load",
    "open_joblib",
    "open_session",
    "open_skops",
    "prepare",
    "probabilities_of",
    "reachable",
    "release",
    "rows_at_once",
    "take_arrays",
]

__getattr__ = lazy_names(
    __name__,
    {
        "BatchInvariance": "models.runtimes.batch_invariance",
        "Loaded": "models.runtimes.base",
        "ModelCache": "models.runtimes.model_cache",
        "OnnxModel": "models.runtimes.onnx_session",
        "RUNTIMES": "models.runtimes.registry",
        "RuntimeModule": "models.runtimes.base",
        "SklearnModel": "models.runtimes.sklearn_joblib",
        "are_labels": "models.runtimes.golden",
        "call_of": "models.runtimes.sklearn_joblib",
        "dense": "models.runtimes.sklearn_joblib",
        "feeds_of": "models.runtimes.tensors",
        "find_inputs": "models.runtimes.sklearn_joblib",
        "load": "models.runtimes.registry",
        "open_joblib": "models.runtimes.sklearn_joblib",
        "open_skops": "models.runtimes.skops_file",
        "open_session": "models.runtimes.onnx_session",
        "prepare": "models.runtimes.registry",
        "probabilities_of": "models.runtimes.tensors",
        "reachable": "models.runtimes.memory_size",
        "release": "models.runtimes.sklearn_joblib",
        "rows_at_once": "models.runtimes.tensors",
        "take_arrays": "models.runtimes.sklearn_tuning",
    },
)
