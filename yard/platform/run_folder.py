"""Temporary folders that go with the process that made them, also when it was killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def run_folder(prefix: str) -> Iterator[str]:
    """Yields a new folder of this user alone, and removes it.

    Removes those of the same prefix whose processes were killed, too.

    Raises:
        OSError: No folder can be made.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # another process may have removed it
            _remove_if_left(left, prefix)
    folder = tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_if_left(folder: Path, prefix: str) -> None:
    """Removes the folder of a process that is gone, if it is this user's."""
    pid = folder.name.removeprefix(prefix).partition("-")[0]
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
