"""Disk cache of files from an object store, named by their SHA-256.

Any number of workers of a machine share the folder: a file appears by a rename, is checked on every
read, and is evicted when the bound is passed, least recently read first. Nothing depends on the
folder: a broken file is read from the store again, and where the folder cannot be written, say on a
full disk, everything is read from the store each time.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import logging
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.manifest import MOST_BYTES, File
from models.store.safe_files import is_own_folder
from yard.contract import ModelRef
from yard.errors import ConfigurationError
from yard.settings import Settings, variable

#: Prefix of files that are being written; an older one was left by a writer that died.
DRAFT = ".draft-"
_DRAFT_TTL_S = 3600

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CachedFile:
    """One file of the cache.

    Attributes:
        path: Its path.
        size_bytes: Its length.
        used_at: Time of the last read, in seconds since 1970.
    """

    path: Path
    size_bytes: int
    used_at: float


class DiskCache:
    """Files by their digest, within ``limit_bytes``; safe for threads and for processes.

    Args:
        folder: Where they lie; made with the first file.
        limit_bytes: The bound; files being written may exceed it.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._has_warned = False

    def read(self, file: File) -> bytes | None:
        """Returns the bytes of a file, checked; None if they are not cached."""
        path = self._path(file.sha256)
        content = _read(path, file.size_bytes)
        if content is None:
            return None
        if hashlib.sha256(content).hexdigest() != file.sha256:
            _log.warning("%s is not what was written there: it is read anew", path)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        return content

    def put(self, file: File, content: bytes) -> None:
        """Caches checked bytes if they fit; does nothing where the folder cannot be written.

        Evicts the least recently read files.
        """
        if len(content) <= self.limit_bytes:
            self._write(self._path(file.sha256), content)
            self.trim(besides=self._path(file.sha256))

    def manifest(self, location: str, ref: ModelRef) -> bytes | None:
        """Returns a version's manifest as it was read last; None if it is not cached."""
        return _read(self._manifest_path(location, ref), MOST_BYTES)

    def put_manifest(self, location: str, ref: ModelRef, raw: bytes) -> None:
        """Caches a version's manifest, for when the store does not answer."""
        if self.manifest(location, ref) != raw:
            self._write(self._manifest_path(location, ref), raw)

    def surplus(self, besides: Path | None = None) -> list[CachedFile]:
        """Returns the files to evict to keep the bound, and drafts of writers that died.

        Args:
            besides: Never evicted: it is about to be used.
        """
        files = sorted(self._files(), key=lambda cached: cached.used_at)
        left_at = time.time() - _DRAFT_TTL_S
        surplus = [
            cached
            for cached in files
            if cached.path.name.startswith(DRAFT) and cached.used_at < left_at
        ]
        whole = [cached for cached in files if not cached.path.name.startswith(DRAFT)]
        used_bytes = sum(cached.size_bytes for cached in whole)
        for cached in whole:
            if used_bytes <= self.limit_bytes:
                break
            if cached.path != besides:
                surplus.append(cached)
                used_bytes -= cached.size_bytes
        return surplus

    def trim(self, besides: Path | None = None) -> list[CachedFile]:
        """Removes the `surplus` and returns it."""
        removed = []
        for cached in self.surplus(besides):
            with contextlib.suppress(OSError):  # another worker removed it
                cached.path.unlink()
                removed.append(cached)
        return removed

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    def _manifest_path(self, location: str, ref: ModelRef) -> Path:
        name = hashlib.sha256(f"{location}\0{ref}".encode()).hexdigest()
        return self.folder / "manifests" / name

    def _write(self, path: Path, content: bytes) -> None:
        draft = path.parent / f"{DRAFT}{uuid.uuid4().hex}"
        try:
            for folder in (self.folder, path.parent):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                with os.fdopen(os.open(draft, _NEW, 0o600), "wb") as stream:
                    stream.write(content)  # not flushed to disk: reads check it
                os.replace(draft, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    draft.unlink()
                raise
        except OSError as error:
            level = logging.DEBUG if self._has_warned else logging.WARNING
            self._has_warned = True
            _log.log(
                level,
                "%s cannot be written (%s): what is read from the store is not kept",
                self.folder,
                error.strerror or error,
            )

    def _files(self) -> Iterator[CachedFile]:
        for shelf in _entries(self.folder):
            if len(shelf.name) != 2 and shelf.name != "manifests":
                continue
            for path in _entries(shelf):
                with contextlib.suppress(OSError):
                    found = path.lstat()
                    if stat.S_ISREG(found.st_mode):
                        yield CachedFile(path, found.st_size, found.st_mtime)


def cache_folder(settings: Settings) -> Path:
    """Returns the configured folder, the user's cache folder, or one among the temporary ones.

    Raises:
        ConfigurationError: It would be among the temporary ones, and none can be made there.
    """
    if settings.store_cache:
        return Path(settings.store_cache)
    try:
        home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        return Path(home) / "modelyard"
    except RuntimeError:  # a container's user that has no home
        return _temporary_folder()


def _temporary_folder() -> Path:
    """Returns this user's folder among the temporary ones.

    Its name can be known, and any user may have made it before: one that is not ours is replaced by
    one of this process.
    """
    folder = Path(tempfile.gettempdir()) / f"modelyard-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError:  # nothing is cached then
        return folder
    return folder if is_own_folder(folder) else _private_folder(folder, os.getpid())


@functools.cache
def _private_folder(taken: Path, pid: int) -> Path:
    """Returns a new folder of the process ``pid``, which is this one; removed when it ends."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="modelyard-"))
    except OSError as error:
        raise ConfigurationError(
            f"{taken} is not this user's alone, and no other can be made there "
            f"({error.strerror}): set {variable('store_cache')}"
        ) from None
    atexit.register(_remove, folder, pid)
    _log.warning(
        "%s is not this user's alone: files are cached in %s while this process runs; set %s",
        taken,
        folder,
        variable("store_cache"),
    )
    return folder


def _remove(folder: Path, pid: int) -> None:
    if os.getpid() == pid:  # and not in a process that it has forked
        shutil.rmtree(folder, ignore_errors=True)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir()) if not folder.is_symlink() else []
    except OSError:
        return []


def _read(path: Path, most: int) -> bytes | None:
    """Returns a file's bytes, at most one above ``most``, and updates its time; None on failure."""
    try:
        with os.fdopen(os.open(path, _OPEN), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return None
            content = stream.read(most + 1)
            with contextlib.suppress(OSError):  # another user's file, or a read-only file system
                os.utime(stream.fileno())
            return content
    except OSError:
        return None
