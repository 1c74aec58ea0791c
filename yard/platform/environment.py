"""The environment of a child process of ours."""

from __future__ import annotations

import os
from collections.abc import Mapping

from yard.platform import extras

#: Ends of the names of variables that hold the path of a file, such as those of object stores and
#: of TLS.
_FILE_NAMES = ("_FILE", "_CERT_DIR", "_CA_BUNDLE", "_CREDENTIALS", "_SERVICE_ACCOUNT")


def child_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Returns this process' environment with ``settings``, ready for a Python child of ours.

    The child may run in another folder: what is found by a relative path here is named by its
    absolute one.
    """
    found = dict(os.environ) | dict(settings)
    found["PYTHONUNBUFFERED"] = "1"  # else a killed child's last lines are lost
    for name, value in found.items():
        if name.endswith(_FILE_NAMES) and os.path.exists(value):
            found[name] = os.path.abspath(value)
    if known := found.get("PYTHONPATH"):  # an empty path in it is the current folder
        found["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, known.split(os.pathsep)))
    if not extras.is_installed():
        paths = [found.get("PYTHONPATH", ""), str(extras.root())]
        found["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return found
