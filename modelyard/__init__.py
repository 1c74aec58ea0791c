"""The public face of the project, and the `modelyard` command.

    from modelyard import publish

Importing it first checks that `yard`, `producer`, `models`, `worker` and `gateway` are ours: a
user's ``models.py`` in the current folder would be imported in place of our package. The import is
light; names are imported when they are first used.

Raises:
    ImportError: Another file shadows one of our packages; the message names it.
"""

from typing import TYPE_CHECKING, Any

from modelyard import import_check

if TYPE_CHECKING:
    from models.publish import publish

__all__ = ["publish"]

import_check.drop_current_folder()
import_check.check_packages()

import yard  # noqa: E402, F401  # turns telemetry off before the user imports onnxruntime


def __getattr__(name: str) -> Any:
    if name != "publish":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from yard.platform import extras

    missing = extras.missing("worker")
    if missing:
        raise ImportError(
            f"`modelyard.publish` needs {', '.join(missing)}: {extras.advice('worker')}"
        )
    from models.publish import publish

    return publish
