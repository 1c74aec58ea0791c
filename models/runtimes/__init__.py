"""What executes artefacts: a module for each runtime, imported only where a version names it.

A worker asks `load` for a version of the store and gets something that predicts rows. A runtime
module has one function, ``load(manifest, repository) -> Loaded``; importing this package imports
none.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, cast

from models.manifest import Manifest
from models.runtimes import golden
from models.store.repository import Repository
from yard.contract.values import Signature
from yard.errors import ModelUnavailable, ModelyardError, described

#: Runtime names, as manifests have them, to modules; nothing else is ever imported for a manifest.
RUNTIMES = {
    "sklearn": "models.runtimes.sklearn_joblib",
    "skops": "models.runtimes.skops_file",
    "onnx": "models.runtimes.onnx_session",
}
#: The extra that brings what a runtime imports, where it is not that of the worker.
EXTRAS = {"skops": "modelyard[worker,skops]"}
EXTRA = "modelyard[worker]"


class Loaded(Protocol):
    """A version that is ready to predict; safe for threads."""

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""

    @property
    def size_bytes(self) -> int:
        """The memory that it takes, measured."""

    def predict(self, rows: list[list[Any]]) -> dict[str, list[Any]]:
        """The outputs by name, each with one element for every row, in plain Python values.

        Args:
            rows: ``(rows, columns)``, checked against the signature.

        Raises:
            PredictFailed: A number is not finite, or there are not as many answers as rows.
            Exception: Whatever else the model raises, as it is.
        """


class RuntimeModule(Protocol):
    """What a module of `RUNTIMES` offers."""

    def load(self, manifest: Manifest, repository: Repository) -> Loaded:
        """The version, ready to predict."""


def load(manifest: Manifest, repository: Repository) -> Loaded:
    """A version, ready to predict and proven: it answers as it did when it was published.

    Args:
        manifest: Names the runtime and pins the bytes, wherever it was read.
        repository: Where the bytes lie.

    Raises:
        ModelUnavailable: The bytes are not there or not those of the manifest, the runtime or a
            library is missing, the artefact does not load, or its answers are not the golden ones.
    """
    runtime = _runtime(manifest)
    try:
        model = runtime.load(manifest, repository)
        golden.check_golden(model, manifest)
        return model
    except ModelUnavailable:
        raise
    except ModelyardError as error:
        raise ModelUnavailable(f"{manifest.ref}: {error.message}") from error
    except Exception as error:
        raise ModelUnavailable(f"{manifest.ref}: does not load: {described(error)}") from error


def prepare(manifest: Manifest) -> None:
    """Import what loading a version takes, so that loading it is quick.

    Raises:
        ModelUnavailable: The runtime or a library is missing.
    """
    _runtime(manifest)


def _runtime(manifest: Manifest) -> RuntimeModule:
    name = RUNTIMES.get(manifest.runtime)
    if name is None:
        raise ModelUnavailable(
            f"{manifest.ref}: no runtime {manifest.runtime!r}; there are {', '.join(RUNTIMES)}"
        )
    try:
        return cast(RuntimeModule, import_module(name))
    except ImportError as error:
        raise ModelUnavailable(
            f"{manifest.ref}: runtime {manifest.runtime!r} needs {error.name or 'a library'}, "
            f"which is not installed here: pip install '{EXTRAS.get(manifest.runtime, EXTRA)}'"
        ) from error
