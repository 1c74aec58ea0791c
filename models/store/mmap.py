"""Memory-mapped copies of artefacts, by digest, which the workers of one machine share.

A worker maps the large arrays of a version instead of reading them: the kernel keeps their pages
once, however many workers map them. Files in a store must not be mapped, since a process that can
write there could change bytes after they were checked. So each file is copied, once a machine, into
a folder that only this user can write; it is checked there on the very descriptor that is then
mapped. Where that fails, say on a full disk, or because another user owns the folder, the worker
reads the bytes into memory. Runtimes map (`models.runtimes.sklearn_joblib`,
`models.runtimes.onnx_sharing`); the bytes come from `models.store.repository`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.manifest import File
from models.store.disk_cache import DRAFT, DiskCache, cache_folder
from models.store.safe_files import is_own_folder
from yard.settings import Settings

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
#: Only the owner may write to a folder; no user may write to a file.
_FOLDER_MODE, _FILE_MODE = 0o700, 0o400
_NOT_IN_FILE = 0o222

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MappedFile:
    """A checked copy, open.

    Attributes:
        descriptor: Of the very file that was checked.
        path: Where the copy lies.
        size_bytes: Its length.
    """

    descriptor: int
    path: Path
    size_bytes: int

    @property
    def descriptor_path(self) -> str:
        """Path of the descriptor's file, even if `path` is replaced."""
        descriptor_path = f"/proc/self/fd/{self.descriptor}"
        return descriptor_path if os.path.exists(descriptor_path) else str(self.path)

    def head(self) -> bytes:
        """Returns the first bytes."""
        return os.pread(self.descriptor, 16, 0)


def open_maps(settings: Settings) -> Maps | None:
    """Returns the map folder for workers; None if the settings have files read into memory."""
    if settings.map_bytes == 0:
        return None
    return Maps(mapped_copies(settings), settings.map_bytes, settings.pool_max)


def mapped_copies(settings: Settings) -> DiskCache:
    """Returns the folder with the copies of this machine, within its bound."""
    return DiskCache(cache_folder(settings) / "mapped", settings.store_cache_bytes)


class Maps:
    """The copies of one machine and user; safe for threads and for processes.

    Args:
        copies: Where they lie, made when it is needed; least recently used go first.
        least_bytes: Smaller files are not mapped.
        sharers: Workers that share the machine's memory: each is charged an even part of what is
            mapped, as its own bound is an even part of the memory.
    """

    def __init__(self, copies: DiskCache, least_bytes: int, sharers: int = 1) -> None:
        self._copies = copies
        self._folder = copies.folder
        self._least_bytes = least_bytes
        self._has_warned = False
        #: Part of a mapped byte that counts as a worker's own memory.
        self.share = 1 / max(1, sharers)

    @contextmanager
    def open(self, file: File, read: Callable[[], bytes]) -> Iterator[MappedFile | None]:
        """Yields the copy of a file, open inside the context; mappings made there outlive it.

        Args:
            file: Its expected size and digest.
            read: Returns its bytes, checked; called only if there is no copy yet. Its errors are
                passed on.

        Returns:
            None if the file is small, or no copy can be had.
        """
        mapped = self._open(file, read) if file.size_bytes >= self._least_bytes else None
        try:
            yield mapped
        finally:
            if mapped is not None:
                os.close(mapped.descriptor)

    def _open(self, file: File, read: Callable[[], bytes]) -> MappedFile | None:
        path = self._folder / file.sha256[:2] / file.sha256
        mapped = self._open_checked(path, file)
        if mapped is not None:
            return mapped
        if file.size_bytes > self._copies.limit_bytes:
            return None
        content = read()
        try:
            self._write(path, content)
        except OSError as error:
            self._warn(f"{path.parent} cannot be written: {error.strerror or error}")
            return None
        self._copies.trim(besides=path)
        return self._open_checked(path, file)

    def _open_checked(self, path: Path, file: File) -> MappedFile | None:
        """Opens a file if it is ours, no user can write to it, and its bytes are the expected ones.

        Any other file is removed.
        """
        if not (is_own_folder(self._folder) and is_own_folder(path.parent)):
            return None
        try:
            descriptor = os.open(path, _OPEN)
        except OSError:
            return None
        if _is_right(descriptor, file):
            with contextlib.suppress(OSError):
                os.utime(descriptor)  # marks it as used
            return MappedFile(descriptor, path, file.size_bytes)
        os.close(descriptor)
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def _write(self, path: Path, content: bytes) -> None:
        for folder in (self._folder, path.parent):
            folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            if not is_own_folder(folder):
                raise PermissionError(f"{folder} is not this user's alone")
        draft = path.parent / f"{DRAFT}{uuid.uuid4().hex}"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(draft, flags, _FILE_MODE), "wb") as stream:
                stream.write(content)  # not flushed to disk: opening checks it
            os.replace(draft, path)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise

    def _warn(self, what: str) -> None:
        level = logging.DEBUG if self._has_warned else logging.WARNING
        self._has_warned = True
        _log.log(level, "%s; versions are read into each worker's own memory", what)


def _is_right(descriptor: int, file: File) -> bool:
    found = os.fstat(descriptor)
    if (
        not stat.S_ISREG(found.st_mode)
        or found.st_uid != os.geteuid()
        or found.st_mode & _NOT_IN_FILE
        or found.st_size != file.size_bytes
    ):
        return False
    with os.fdopen(os.dup(descriptor), "rb") as stream:
        stream.seek(0)
        return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
