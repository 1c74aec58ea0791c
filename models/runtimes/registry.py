"""Registry of the runtimes; a runtime's module is imported only where a version names it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import cast

from models.manifest import Manifest
from models.runtimes import golden
from models.runtimes.base import Loaded, RuntimeModule
from models.store import Repository
from yard.errors import ModelUnavailable, ModelyardError, described

#: Runtime names in manifests, to modules; nothing else is ever imported for a manifest.
RUNTIMES = {
    "sklearn": "models.runtimes.sklearn_joblib",
    "skops": "models.runtimes.skops_file",
    "onnx": "models.runtimes.onnx_session",
}
#: The extra with a runtime's libraries, where it is not that of the worker.
EXTRAS = {"skops": "modelyard[worker,skops]"}
EXTRA = "modelyard[worker]"


def load(
    manifest: Manifest,
    repository: Repository,
    on_proof: Callable[[int, float], None] = lambda rows, seconds: None,
) -> Loaded:
    """Loads a version and checks its golden answers.

    Args:
        manifest: Names the runtime and pins the bytes, wherever it was read.
        repository: The store to read the bytes from.
        on_proof: Called with the rows and the seconds of the predict that proves it.

    Raises:
        ModelUnavailable: The bytes are not there or not those of the manifest, the runtime or a
            library is missing, the artefact does not load, or its answers are not the golden ones.
    """
    runtime = _runtime(manifest)
    try:
        model = runtime.load(manifest, repository)
        proof = golden.check_golden(model, manifest)
        if proof is not None:
            on_proof(*proof)
        return model
    except ModelUnavailable:
        raise
    except ModelyardError as error:
        raise ModelUnavailable(f"{manifest.ref}: {error.message}") from error
    except Exception as error:
        raise ModelUnavailable(f"{manifest.ref}: does not load: {described(error)}") from error


def prepare(manifest: Manifest) -> None:
    """Imports the libraries of a version, so that loading it is quick.

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
