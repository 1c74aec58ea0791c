"""Store of versions in a folder, local or shared: ``{root}/{model}/{version}/``.

A version is staged in a hidden folder of the same file system, checked, flushed to disk and
renamed; deleting it goes the reverse way. Files are read through descriptors that follow no link,
so that nothing can be swapped between the check and the use.

A store that is made here belongs to its user alone. What is written into one that is there gets the
permissions of its folder, so that the folder's owner decides who reads it.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from models.manifest import MANIFEST, MOST_BYTES, File, Manifest
from models.store.backend import Leftover, NoSuchVersion, Source, Unreadable, copy_checked
from models.store.safe_files import open_folder, read_at
from yard.contract import ModelRef, is_name
from yard.errors import InvalidManifest

#: Holds versions that are being written; no model's name starts with a dot.
STAGING = ".staging"
#: A staging folder that is older was left by a publisher that died.
STAGING_TTL_S = 86_400

#: Permissions of a new store's folder; the most that a folder and a file get.
_OWN_MODE, _FOLDER_MODE, _FILE_MODE = 0o700, 0o777, 0o666
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
#: Errors of rename if the target is there: a folder that is not empty.
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)


class FolderStore:
    """The versions under one folder; see `models.store.backend.Store`.

    Args:
        root: The folder; made by the first publish.
        now: The time in seconds since the epoch, for the age of staging folders.
    """

    def __init__(self, root: Path, now: Callable[[], float] = time.time) -> None:
        self.root = Path(root)
        self._now = now

    @property
    def location(self) -> str:
        """The folder's absolute path."""
        return str(self.root.absolute())

    def refs(self, model: str | None = None) -> list[ModelRef]:
        """Returns the versions that have a manifest, in order."""
        return [
            ModelRef(name, version)
            for name in ([model] if model is not None else _names(self.root))
            for version in _names(self.root / name)
            # os.path: an unreadable folder is no version, and must not hide the others
            if os.path.isfile(self.root / name / version / MANIFEST)
        ]

    def holds(self, ref: ModelRef) -> bool:
        """True if anything lies in the version's place."""
        return os.path.lexists(self.root / ref.model / ref.version)

    def read(self, ref: ModelRef, file: File | None = None) -> bytes:
        """Returns the bytes of a file, at most one more than it should have."""
        name, most = (MANIFEST, MOST_BYTES) if file is None else (file.name, file.size_bytes)
        try:
            folder = open_folder(self.root, ref.model, ref.version)
        except FileNotFoundError:
            raise NoSuchVersion from None
        except OSError as error:
            raise _unreadable("its folder", error) from None
        try:
            return read_at(folder, name, most)
        except OSError as error:
            raise _unreadable(name, error) from None
        finally:
            os.close(folder)

    def put(self, manifest: Manifest, sources: Mapping[str, Source]) -> bool:
        """Writes a version; returns False if another was there first."""
        self._sweep()
        with self._staged() as folder:
            mode = self._mode() & _FILE_MODE
            for place, file in enumerate(manifest.files):
                with _new_file(folder / file.name, mode) as write:
                    copy_checked(sources[file.name], file, place, write)
            with _new_file(folder / MANIFEST, mode) as write:
                write(manifest.to_json())
            _flush_folder(folder)
            return self._move(folder, manifest.ref)

    def delete(self, ref: ModelRef) -> int:
        """Deletes a version, for all readers at one instant; returns the freed bytes."""
        try:
            trash = self._new_name()
            model = open_folder(self.root, ref.model)
        except FileNotFoundError:
            raise NoSuchVersion from None
        try:
            os.rename(ref.version, trash, src_dir_fd=model)
        except FileNotFoundError:
            raise NoSuchVersion from None
        finally:
            os.close(model)
        with suppress(OSError):  # other versions are there
            os.rmdir(self.root / ref.model)
        _flush_folder(self.root)
        freed = _size_bytes(trash)
        _remove(trash)
        return freed

    def leftovers(self, before: float) -> list[Leftover]:
        """Returns what publishers that died have left, and files that no manifest names.

        A folder without a manifest is none: no publisher leaves one, so it belongs to others.
        """
        return [*self._staged_before(before), *self._unnamed_files(before)]

    def remove(self, leftover: Leftover) -> None:
        """Removes a leftover; does nothing if it is gone already."""
        _remove(self.root / leftover.place)

    def _staged_before(self, before: float) -> Iterator[Leftover]:
        staging = self.root / STAGING
        if os.path.islink(staging):  # its target is not ours
            return
        for name in os.listdir(staging) if staging.is_dir() else ():
            try:
                is_old = (staging / name).lstat().st_mtime < before
            except FileNotFoundError:  # its publisher has just finished
                continue
            if is_old:
                size_bytes = _size_bytes(staging / name)
                yield Leftover(f"{STAGING}/{name}", size_bytes, "a publish that failed")

    def _unnamed_files(self, before: float) -> Iterator[Leftover]:
        for ref in self.refs():
            try:
                manifest = Manifest.parse(self.read(ref))
            except (NoSuchVersion, Unreadable, InvalidManifest):  # its files are unknown then
                continue
            named = {MANIFEST, *(file.name for file in manifest.files)}
            folder = self.root / ref.model / ref.version
            for name in sorted(set(os.listdir(folder)) - named):
                found = (folder / name).lstat()
                if found.st_mtime < before:
                    place = f"{ref.model}/{ref.version}/{name}"
                    yield Leftover(place, _size_bytes(folder / name), "no manifest names it")

    @contextmanager
    def _staged(self) -> Iterator[Path]:
        self.root.mkdir(mode=_OWN_MODE, parents=True, exist_ok=True)
        folder = self._new_name()
        folder.mkdir(mode=self._mode())
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # already gone if it became the version

    def _mode(self) -> int:
        """Returns the permissions of a new folder, those of the store's; the umask applies, too."""
        return stat.S_IMODE(self.root.stat().st_mode) & _FOLDER_MODE | _OWN_MODE

    def _new_name(self) -> Path:
        """Returns a new path in the staging folder."""
        staging = self.root / STAGING
        staging.mkdir(mode=self._mode(), exist_ok=True)
        if staging.is_symlink():  # its target is not ours
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(staging))
        return staging / uuid.uuid4().hex

    def _move(self, folder: Path, ref: ModelRef) -> bool:
        home = self.root / ref.model
        for attempt in range(5):
            home.mkdir(mode=self._mode(), exist_ok=True)
            try:
                os.rename(folder, home / ref.version)
                break
            except FileNotFoundError:  # the model's last version was just deleted
                if attempt == 4:
                    raise
            except OSError as error:
                if error.errno in _TAKEN:
                    return False
                raise
        _flush_folder(home)
        _flush_folder(self.root)
        return True

    def _sweep(self) -> None:
        """Removes what publishers that died have left."""
        for leftover in self._staged_before(self._now() - STAGING_TTL_S):
            with suppress(OSError):
                self.remove(leftover)


def _names(folder: Path) -> list[str]:
    """Returns the entries that may name a model or a version, in order; hidden ones may not."""
    try:
        return sorted(name for name in os.listdir(folder) if is_name(name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _unreadable(what: str, error: OSError) -> Unreadable:
    reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror or error
    return Unreadable(f"{what} cannot be read: {reason}")


@contextmanager
def _new_file(target: Path, mode: int) -> Iterator[Callable[[bytes], object]]:
    """Yields a function that writes a new file, which is on disk when the context ends."""
    with os.fdopen(os.open(target, _NEW, mode), "wb") as stream:
        yield stream.write
        stream.flush()
        os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    """Flushes the entries of a folder to disk, so that they survive a power cut."""
    descriptor = open_folder(folder)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size_bytes(path: Path) -> int:
    """Returns the bytes of a file, or of all files in a folder; links are not followed."""
    try:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            return found.st_size
        return sum(_size_bytes(path / name) for name in os.listdir(path))
    except OSError:
        return 0


def _remove(path: Path) -> None:
    """Removes a file, a link or a folder; a link's target stays."""
    try:
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        pass
