"""Safe reading of untrusted files: bounded, regular, and through no link.

A path is opened once and checked on the descriptor, so that nothing can be swapped between a check
and the use. Stores, exported versions and artefacts to be published are read this way; callers
compare the bytes with what they should be.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

#: O_NONBLOCK: a pipe put in a file's place must not hang the reader.
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
_OTHERS_WRITE = 0o022


def is_own_folder(folder: Path) -> bool:
    """True if ``folder`` is one, no link, this user's, and no other user can write to it."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(found.st_mode)
        and found.st_uid == os.geteuid()
        and not found.st_mode & _OTHERS_WRITE
    )


def open_folder(root: Path, *names: str) -> int:
    """Returns a descriptor of a folder below ``root``; below it no link is followed.

    Raises:
        OSError: It is not there, is no folder, or a link is on the way.
    """
    folder = os.open(root, _FOLDER)
    for name in names:
        try:
            inner = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
        finally:
            os.close(folder)
        folder = inner
    return folder


def read_at(folder: int, name: str, most: int) -> bytes:
    """Returns the bytes of a file in an open folder, at most one above ``most``.

    Raises:
        OSError: It is not there, a link, no regular file, or cannot be read.
    """
    with _opened(name, os.O_NOFOLLOW, folder) as stream:
        return stream.read(min(_size_bytes(stream), most) + 1)


def read_below(root: Path, names: Sequence[str], most: int) -> bytes:
    """Returns the bytes of a file below ``root``.

    Args:
        root: The folder to start from; it may be a link.
        names: The folders on the way, and the file's own name; no link is followed.
        most: The bound in bytes.

    Raises:
        OSError: As `open_folder`, or it is no regular file, longer than ``most``, or cannot be
            read.
    """
    folder = open_folder(root, *names[:-1])
    try:
        with _opened(names[-1], os.O_NOFOLLOW, folder) as stream:
            return _whole(stream, most)
    finally:
        os.close(folder)


def read_named(path: Path, most: int) -> bytes:
    """Returns the bytes of a file named by a person; a link is followed.

    Raises:
        OSError: It is not there, no regular file, longer than ``most``, or cannot be read.
    """
    with _opened(path) as stream:
        return _whole(stream, most)


def _opened(path: str | Path, more: int = 0, folder: int | None = None) -> BinaryIO:
    return os.fdopen(os.open(path, _FILE | more, dir_fd=folder), "rb")


def _whole(stream: BinaryIO, most: int) -> bytes:
    """Returns all bytes; a stream that is too long is not read."""
    content = stream.read(most + 1) if _size_bytes(stream) <= most else None
    if content is None or len(content) > most:  # it may have grown
        raise OSError(f"it is longer than {most} bytes")
    return content


def _size_bytes(stream: BinaryIO) -> int:
    found = os.fstat(stream.fileno())
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is no regular file")
    return found.st_size
