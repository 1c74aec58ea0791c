"""Empty working folders of processes that run code of models.

A model that reads or writes a file by a relative path must not meet the files of the user who has
started the pool, and what is imported must not come from there. So workers run in a new folder
among the temporary ones, which goes with its pool.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "modelyard-work-"
#: The working folder where no other can be had: not the user's.
ROOT = "/"

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def work_folder() -> Iterator[str]:
    """Yields an empty folder of this user alone, and removes it; `ROOT` where none can be made.

    Removes those of processes that were killed, too.
    """
    try:
        for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):  # another process may have removed it
                _remove_if_left(left)
        folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")
    except OSError as error:
        _log.warning("workers run in %s: no folder can be made for them (%s)", ROOT, error)
        yield ROOT
        return
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_if_left(folder: Path) -> None:
    """Removes the folder of a process that is gone, if it is this user's."""
    pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
    if pid.isdecimal() and folder.lstat().st_uid == os.getuid() and not _is_alive(int(pid)):
        shutil.rmtree(folder)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
