"""What was read from an object store, kept in a folder of this machine under its SHA-256.

Any number of workers share the folder: a file appears by a rename, is checked whenever it is read,
and goes when the bound is passed, the one that was read the longest time ago first. Nothing rests
on the folder: what is broken in it is read anew, and where it cannot be written, say on a full
disk, everything is read from the store each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.manifest import MOST_BYTES, File
from yard.contract import ModelRef
from yard.settings import Settings

#: What is still being written is called so; older than this, its writer has died.
DRAFT = ".draft-"
_DRAFT_TTL_S = 3600

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """One file of the cache.

    Attributes:
        path: Where it lies.
        size_bytes: Its length.
        used_at: When it was read last, in seconds since 1970.
    """

    path: Path
    size_bytes: int
    used_at: float


class DiskCache:
    """Files by their digest, within ``limit_bytes``; safe for threads and for processes.

    Args:
        folder: Where they lie; made when something is kept.
        limit_bytes: The bound, which is passed by what is being written at most.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._has_warned = False

    def read(self, file: File) -> bytes | None:
        """The bytes of a file, checked; None if they are not here."""
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

    def keep(self, file: File, content: bytes) -> None:
        """Keep bytes that were checked, if there is room; a folder that cannot be written is none.

        What was read the longest time ago makes room.
        """
        if len(content) <= self.limit_bytes:
            self._write(self._path(file.sha256), content)
            self.trim(besides=self._path(file.sha256))

    def manifest(self, location: str, ref: ModelRef) -> bytes | None:
        """A version's manifest as it was read last; None if it is not here."""
        return _read(self._manifest_path(location, ref), MOST_BYTES)

    def keep_manifest(self, location: str, ref: ModelRef, raw: bytes) -> None:
        """Keep a version's manifest, for when the store does not answer."""
        if self.manifest(location, ref) != raw:
            self._write(self._manifest_path(location, ref), raw)

    def surplus(self, besides: Path | None = None) -> list[Kept]:
        """What is to go for the bound to hold, and what writers that died have left.

        Args:
            besides: Stays whatever its age: it is about to be used.
        """
        files = sorted(self._files(), key=lambda kept: kept.used_at)
        left_at = time.time() - _DRAFT_TTL_S
        surplus = [
            kept for kept in files if kept.path.name.startswith(DRAFT) and kept.used_at < left_at
        ]
        whole = [kept for kept in files if not kept.path.name.startswith(DRAFT)]
        used_bytes = sum(kept.size_bytes for kept in whole)
        for kept in whole:
            if used_bytes <= self.limit_bytes:
                break
            if kept.path != besides:
                surplus.append(kept)
                used_bytes -= kept.size_bytes
        return surplus

    def trim(self, besides: Path | None = None) -> list[Kept]:
        """Remove the `surplus`; what was removed."""
        removed = []
        for kept in self.surplus(besides):
            with contextlib.suppress(OSError):  # another worker was quicker
                kept.path.unlink()
                removed.append(kept)
        return removed

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    def _manifest_path(self, location: str, ref: ModelRef) -> Path:
        name = hashlib.sha256(f"{location}\0{ref}".encode()).hexdigest()
        return self.folder / "manifests" / name

    def _write(self, path: Path, content: bytes) -> None:
        draft = path.parent / f"{DRAFT}{uuid.uuid4().hex}"
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                with open(draft, "xb") as stream:  # not flushed to disk: it is checked when read
                    stream.write(content)
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

    def _files(self) -> Iterator[Kept]:
        for shelf in _entries(self.folder):
            if len(shelf.name) != 2 and shelf.name != "manifests":
                continue
            for path in _entries(shelf):
                with contextlib.suppress(OSError):
                    found = path.lstat()
                    if stat.S_ISREG(found.st_mode):
                        yield Kept(path, found.st_size, found.st_mtime)


def cache_folder(settings: Settings) -> Path:
    """The folder that is set; else the user's own for caches, or one among the temporary ones."""
    if settings.store_cache:
        return Path(settings.store_cache)
    try:
        home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        return Path(home) / "modelyard"
    except RuntimeError:  # a container's user that has no home
        return Path(tempfile.gettempdir()) / f"modelyard-{os.getuid()}"


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir()) if not folder.is_symlink() else []
    except OSError:
        return []


def _read(path: Path, most: int) -> bytes | None:
    """A file's bytes, one above ``most`` at most, noted as used; None if they cannot be read."""
    try:
        with os.fdopen(os.open(path, _OPEN), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return None
            content = stream.read(most + 1)
            with contextlib.suppress(OSError):  # somebody else's, or a file system to read only
                os.utime(stream.fileno())
            return content
    except OSError:
        return None
