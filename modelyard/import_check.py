"""Finds a file of the user's that Python would import in place of one of our packages.

Our packages have common names (`models`, `worker`), and Python looks in the script's or the current
folder first. `modelyard` calls this before it imports any of them, so the module stands alone: the
standard library only. Nothing is imported here; Python is only asked where it finds each name.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib.util import find_spec

#: Our packages beside `modelyard`.
PACKAGES = ("yard", "producer", "models", "worker", "gateway")

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def check_packages() -> None:
    """Returns if Python finds our packages beside `modelyard`.

    Raises:
        ImportError: It finds another file, or none; the message names the file and the remedy.
    """
    for name in PACKAGES:
        found = _location(name)
        if found is None:
            raise ImportError(
                f"Modelyard's package {name!r} is missing beside {_ROOT}/modelyard: "
                "install modelyard again",
                name=name,
            )
        folder = os.path.join(_ROOT, name)
        if os.path.dirname(found) != folder and not _is_same(os.path.dirname(found), folder):
            raise ImportError(
                f"{found} shadows Modelyard's package {name!r}: {_remedy(name, found)}", name=name
            )


def drop_current_folder() -> None:
    """Takes the current folder off ``sys.path`` if this is ``python -m modelyard``.

    No code of the user's runs then, so files there need not be found: the command `modelyard` does
    not see them either. A checkout that is the current folder stays.
    """
    # While Python looks for the module of -m, argv[0] is "-m".
    is_command = sys.argv[:1] == ["-m"] and any(
        word.removeprefix("-m").partition(".")[0] == "modelyard" for word in sys.orig_argv
    )
    if not is_command or sys.flags.safe_path or sys.path[:1] == [_ROOT]:
        return
    with suppress(OSError):  # the current folder is gone
        if sys.path[:1] == [os.getcwd()]:
            del sys.path[0]


def _location(name: str) -> str | None:
    """The file that is, or would be, imported as ``name``; a folder for a namespace package."""
    try:
        spec = find_spec(name)
    except ValueError:  # a module that was put into sys.modules by hand
        return str(getattr(sys.modules[name], "__file__", None) or sys.modules[name])
    if spec is None:
        return None
    if spec.origin is None and spec.submodule_search_locations is not None:
        return next(iter(spec.submodule_search_locations), None)
    return spec.origin


def _is_same(one: str, other: str) -> bool:
    """Returns whether two paths lead to one folder, as through a symbolic link."""
    return os.path.realpath(one) == os.path.realpath(other)


def _remedy(name: str, found: str) -> str:
    folder = os.path.dirname(found)
    if os.path.basename(folder) == name:  # a package: the folder that it lies in
        folder = os.path.dirname(folder)
    if sys.path and not sys.flags.safe_path and _is_same(folder, sys.path[0] or os.getcwd()):
        return "rename it, or run from another folder or with `python -P`"
    return f"rename or remove it, or put {_ROOT} before {folder} on Python's path"
