"""Model folders of MLflow, read without MLflow.

`MLmodel` names the flavours and the file of each; the file of the sklearn or the onnx flavour is
read, below the folder and through no link. `models.formats.detect` finds its format.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from models.store import safe_files
from yard.errors import ConfigurationError

#: The file that describes the folder, and the bytes it may have.
MLMODEL = "MLmodel"
_MLMODEL_BYTES = 2**20

#: Flavours that are read, and the entries that may name the file of each.
_MLFLOW: dict[str, tuple[str, ...]] = {
    "sklearn": ("pickled_model", "model_file", "data"),
    "onnx": ("data", "model_file"),
}


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The model file of a folder.

    Attributes:
        flavour: The flavour that names it: ``sklearn`` or ``onnx``.
        name: Its path, for people.
        content: Its bytes.
    """

    flavour: str
    name: str
    content: bytes


def read_model_file(folder: Path, most: int) -> ModelFile:
    """Reads the model file of a folder with an ``MLmodel`` of the sklearn or the onnx flavour.

    Args:
        folder: A folder that MLflow has written.
        most: Bytes that the file may have.

    Raises:
        ConfigurationError: It is no such folder, or the file cannot be read; says what is wrong.
    """
    inner, flavour = _inner(folder, _below(folder, MLMODEL, _MLMODEL_BYTES))
    return ModelFile(flavour, f"{folder}/{inner}", _below(folder, inner, most))


def _inner(folder: Path, described: bytes) -> tuple[str, str]:
    """Returns the name of the model's file and the flavour that names it."""
    try:
        import yaml
    except ImportError:
        raise ConfigurationError(
            f"{folder}: reading an MLflow model needs PyYAML: pip install 'modelyard[convert]'"
        ) from None
    try:
        known = yaml.safe_load(described)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        text = " ".join(str(error).split())[:300]
        raise ConfigurationError(f"{folder}/{MLMODEL}: is not YAML: {text}") from None
    flavours = known.get("flavors") if isinstance(known, dict) else None
    if not isinstance(flavours, dict):
        raise ConfigurationError(f"{folder}/{MLMODEL}: names no flavors")
    for flavour, entries in _MLFLOW.items():
        described_by = flavours.get(flavour)
        if isinstance(described_by, dict):
            for entry in entries:
                if isinstance(described_by.get(entry), str):
                    return described_by[entry], flavour
            raise ConfigurationError(
                f"{folder}/{MLMODEL}: its {flavour} flavour names no file ({' or '.join(entries)})"
            )
    there = ", ".join(sorted(map(str, flavours))[:10])
    raise ConfigurationError(
        f"{folder}/{MLMODEL}: has the flavors {there}; what can be published is sklearn or onnx"
    )


def _below(folder: Path, name: str, most: int) -> bytes:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\x00" in name:
        raise ConfigurationError(f"{folder}: names the file {name[:80]!r}, which is not in it")
    try:
        return safe_files.read_below(folder, path.parts, most)
    except FileNotFoundError:
        what = "it is no MLflow model" if name == MLMODEL else f"{MLMODEL} names it"
        raise ConfigurationError(f"{folder}: has no {name[:80]}; {what}") from None
    except OSError as error:
        raise ConfigurationError(f"{folder}/{name[:80]}: {error.strerror or error}") from None
