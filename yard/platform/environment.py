"""The environment of a child process of ours."""

from __future__ import annotations

import os
from collections.abc import Mapping

from yard.platform import extras


def child_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Returns this process' environment with ``settings``, ready for a Python child of ours."""
    found = dict(os.environ) | dict(settings)
    found["PYTHONUNBUFFERED"] = "1"  # else a killed child's last lines are lost
    if not extras.is_installed():
        paths = [found.get("PYTHONPATH", ""), str(extras.root())]
        found["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return found
