"""An environment for each peer, made by pip from the versions pinned in ``bench/peers/*.txt``.

They go under ``build/bench``, which git ignores, and are made once. The libraries of the model come
in the very versions that run here, so that everybody predicts with the same code. One more is for
Modelyard itself, with what a user installs and none of the tools that it is developed with.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from bench.progress import say

_ROOT = Path(__file__).resolve().parent.parent
_PINS = _ROOT / "bench" / "peers"
_FOLDER = _ROOT / "build" / "bench"
_OWN, _OWN_PINS = "modelyard", _ROOT / "locks" / "run.txt"
_MODEL = ("scikit-learn", "numpy", "scipy", "joblib", "orjson")
#: Above this line of a file stands what is compared, below it what that needs.
_NEEDS = "# What these need:"
_INSTALL_S = 900


class NotInstalled(Exception):
    """A peer that pip cannot install here; the message is pip's last word."""


def own_python() -> Path:
    """The interpreter of an environment that holds what Modelyard needs to run, and no more.

    Raises:
        NotInstalled: It cannot be made.
    """
    return python_of(_OWN)


def python_of(name: str) -> Path:
    """The interpreter of one peer's environment, which is made first if need be.

    Raises:
        NotInstalled: It cannot be made.
    """
    folder = _FOLDER / name
    python, stamp = folder / "bin" / "python", folder / "stamp"
    wanted = _digest(name)
    if not (stamp.exists() and stamp.read_text() == wanted):
        say(f"installing {name}, once")
        _make(folder, name)
        stamp.write_text(wanted)
    return python


def installed(name: str) -> bool:
    """True if a peer's environment is there, for any pins."""
    return (_FOLDER / name / "stamp").exists()


def versions(name: str) -> str:
    """The packages of the peer that are named in reports, with their installed versions."""
    pins = _text(name).partition(_NEEDS)[0].splitlines()
    names = [line.partition("==")[0].partition("[")[0] for line in pins if "==" in line]
    site = next((_FOLDER / name / "lib").glob("python*/site-packages"))
    found = {d.name.lower(): d.version for d in metadata.distributions(path=[str(site)])}
    return ", ".join(f"{name} {found[name.lower()]}" for name in names)


def environ(own: dict[str, str]) -> dict[str, str]:
    """The environment of a peer's process: ``own``, and where `bench.peers` is imported from."""
    return own | {"PYTHONPATH": str(_ROOT)}


def _make(folder: Path, name: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _call(sys.executable, "-m", "venv", str(folder))
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    if name == _OWN:
        _call(*pip, "install", "--no-deps", "--require-hashes", "--requirement", str(_OWN_PINS))
    else:
        _call(*pip, "install", "--requirement", str(_PINS / f"{name}.txt"), *_model_pins())


def _call(*argv: str) -> None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_INSTALL_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(str(error)) from error
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "ERROR" in line] or [done.stderr]
        raise NotInstalled(errors[-1].strip()[:300])


def _digest(name: str) -> str:
    """The stamp of an environment with today's pins; another one is out of date."""
    wanted = "\n".join([_text(name), *_model_pins(), sys.version])
    return hashlib.sha256(wanted.encode()).hexdigest()


def _model_pins() -> list[str]:
    return [f"{name}=={metadata.version(name)}" for name in _MODEL]


def _text(name: str) -> str:
    path = _OWN_PINS if name == _OWN else _PINS / f"{name}.txt"
    return path.read_text(encoding="utf-8")
