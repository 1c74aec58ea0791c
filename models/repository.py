"""Where artefacts lie: ``{root}/{model}/{version}/manifest.json`` beside the files that it pins.

`models.publish` writes here, once a version; workers read bytes, the gateway manifests. A version
is there whole or not at all: it is staged in a hidden folder of the same file system, checked,
flushed to disk and renamed. What is read is checked on the very bytes that are returned, through
descriptors that follow no link, so that nothing can be swapped between the check and the use.
Imports no numpy.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from models.manifest import MANIFEST, MOST_BYTES, File, Manifest
from producer.contract import ModelRef, check_name, is_name
from producer.errors import (
    InvalidManifest,
    ModelUnavailable,
    UnknownModel,
    UnknownVersion,
    VersionExists,
)

#: Holds versions that are being written; no model's name starts with a dot.
STAGING = ".staging"
#: A staging folder that is older than this was left by a publisher that died.
STAGING_TTL_S = 86_400

_CHUNK = 2**20
#: O_NONBLOCK: a pipe put in a file's place must not hang the reader.
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: What rename says if the target is there: a folder that is not empty.
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)


class Repository:
    """The store under one folder; safe for threads and for several processes.

    Args:
        root: The folder; made when something is published.
        now: The time in seconds since the epoch, to tell old staging folders.
    """

    def __init__(self, root: Path, now: Callable[[], float] = time.time) -> None:
        self.root = Path(root)
        self._now = now

    def models(self) -> list[str]:
        """The models with at least one version, in order."""
        return [name for name in _names(self.root) if self._versions(name)]

    def versions(self, model: str) -> list[str]:
        """The versions of a model, in order.

        Raises:
            UnknownModel: There is none.
        """
        known = self._versions(check_name("model", model))
        if not known:
            raise UnknownModel(f"the store has no version of model {model!r}")
        return known

    def manifest(self, ref: ModelRef) -> Manifest:
        """The manifest of one version.

        Raises:
            UnknownModel: The store has no version of the model.
            UnknownVersion: It has others.
            ModelUnavailable: The manifest is broken, is another version's or cannot be read.
        """
        try:
            manifest = Manifest.parse(self._bytes(ref, MANIFEST, MOST_BYTES))
        except InvalidManifest as error:
            raise ModelUnavailable(f"{ref}: {error.message}") from None
        if manifest.ref != ref:
            raise ModelUnavailable(f"{ref}: its manifest is that of {manifest.ref}")
        return manifest

    def read(
        self, ref: ModelRef, file_name: str | None = None, *, expected: Manifest | None = None
    ) -> bytes:
        """The bytes of one file, checked against the manifest.

        Args:
            ref: The version.
            file_name: One of the manifest's files; None for the artefact.
            expected: The manifest to check against; by default the one in the store.

        Raises:
            UnknownModel: The store has no version of the model.
            UnknownVersion: It has others.
            ModelUnavailable: The bytes cannot be read or are not the published ones.
        """
        manifest = expected or self.manifest(ref)
        try:
            file = manifest.file(file_name)
        except InvalidManifest as error:
            raise ModelUnavailable(f"{ref}: {error.message}") from None
        content = self._bytes(ref, file.name, file.size_bytes)
        _check(ref, file, content)
        return content

    def publish(self, manifest: Manifest, sources: Mapping[str, bytes | Path]) -> None:
        """Put a version into the store, whole or not at all.

        Publishing the same bytes again changes nothing; of two publishers at once one wins, and the
        other fares as if it had come later.

        Args:
            manifest: Describes every file.
            sources: File name to content, or to the file to copy.

        Raises:
            VersionExists: The version is there with other bytes.
            InvalidManifest: The sources are not what the manifest says.
            OSError: The store cannot be written.
        """
        if self._is_there(manifest):
            return
        if sources.keys() != {file.name for file in manifest.files}:
            raise InvalidManifest(
                f"manifest: files: names {', '.join(sorted(file.name for file in manifest.files))}"
                f", given are {', '.join(sorted(sources))}"
            )
        self._sweep()
        with self._staged() as folder:
            for place, file in enumerate(manifest.files):
                _write(folder / file.name, sources[file.name], file, place)
            _write_bytes(folder / MANIFEST, manifest.to_json())
            _flush_folder(folder)
            self._move(folder, manifest)

    def _versions(self, model: str) -> list[str]:
        folder = self.root / model
        # os.path: a folder that may not be looked into is no version, and must not hide the others
        return [name for name in _names(folder) if os.path.isfile(folder / name / MANIFEST)]

    def _is_there(self, manifest: Manifest) -> bool:
        """Whether the very version is published; raises `VersionExists` if another one is."""
        if not os.path.lexists(self.root / manifest.model / manifest.version):
            return False
        try:
            known = self.manifest(manifest.ref)
        except ModelUnavailable as error:
            raise VersionExists(f"{manifest.ref} is there, but broken: {error.message}") from None
        if known.digest != manifest.digest:
            raise VersionExists(
                f"{manifest.ref} is published with other bytes: digest {known.digest[:12]}, "
                f"not {manifest.digest[:12]}; a version never changes, so take a new name"
            )
        return True

    @contextmanager
    def _staged(self) -> Iterator[Path]:
        folder = self.root / STAGING / uuid.uuid4().hex
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # gone already where it became the version

    def _move(self, folder: Path, manifest: Manifest) -> None:
        home = self.root / manifest.model
        home.mkdir(exist_ok=True)
        try:
            os.rename(folder, home / manifest.version)
        except OSError as error:
            if error.errno not in _TAKEN or not self._is_there(manifest):
                raise
            return
        _flush_folder(home)
        _flush_folder(self.root)

    def _sweep(self) -> None:
        """Remove what publishers that died have left."""
        oldest = self._now() - STAGING_TTL_S
        staging = self.root / STAGING
        for name in os.listdir(staging) if staging.is_dir() else ():
            try:
                is_old = (staging / name).lstat().st_mtime < oldest
            except FileNotFoundError:  # its publisher has just finished
                continue
            if is_old:
                shutil.rmtree(staging / name, ignore_errors=True)

    def _bytes(self, ref: ModelRef, file_name: str, most: int) -> bytes:
        """The bytes of a file, but no more than one above ``most``."""
        try:
            folder = self._open(ref)
        except FileNotFoundError:
            raise self._unknown(ref) from None
        except OSError as error:
            raise _unreadable(ref, "its folder", error) from None
        try:
            return _read(os.open(file_name, _OPEN_FILE, dir_fd=folder), most)
        except OSError as error:
            raise _unreadable(ref, file_name, error) from None
        finally:
            os.close(folder)

    def _open(self, ref: ModelRef) -> int:
        """A descriptor of the version's folder; below the root no link is followed."""
        folder = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for name in (ref.model, ref.version):
            try:
                inner = os.open(name, _OPEN_FOLDER, dir_fd=folder)
            finally:
                os.close(folder)
            folder = inner
        return folder

    def _unknown(self, ref: ModelRef) -> UnknownModel | UnknownVersion:
        if self._versions(ref.model):
            return UnknownVersion(f"the store has no version {ref.version!r} of {ref.model!r}")
        return UnknownModel(f"the store has no version of model {ref.model!r}")


def _names(folder: Path) -> list[str]:
    """The entries that may name a model or a version, in order; hidden ones may not."""
    try:
        return sorted(name for name in os.listdir(folder) if is_name(name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read(descriptor: int, most: int) -> bytes:
    with os.fdopen(descriptor, "rb") as stream:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError("it is no regular file")
        return stream.read(min(found.st_size, most) + 1)


def _unreadable(ref: ModelRef, what: str, error: OSError) -> ModelUnavailable:
    reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror or error
    return ModelUnavailable(f"{ref}: {what} cannot be read: {reason}")


def _check(ref: ModelRef, file: File, content: bytes) -> None:
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 == file.sha256 and len(content) == file.size_bytes:
        return
    # What is longer was read no further than one byte too many, and that is what the digest is of.
    more = "more than the " if len(content) > file.size_bytes else ""
    raise ModelUnavailable(
        f"{ref}: {file.name} is not the published one: {more}"
        f"{min(len(content), file.size_bytes)} bytes, SHA-256 {sha256[:12]}; published were "
        f"{file.size_bytes} bytes, SHA-256 {file.sha256[:12]}"
    )


def _write(target: Path, source: bytes | Path, file: File, place: int) -> None:
    """Copy ``source`` and check what was copied.

    Raises:
        InvalidManifest: It is not what the manifest says.
    """
    hashed = hashlib.sha256()
    size_bytes = 0
    with open(target, "xb") as stream:
        for chunk in _chunks(source):
            hashed.update(chunk)
            size_bytes += len(chunk)
            stream.write(chunk)
        stream.flush()
        os.fsync(stream.fileno())
    if size_bytes != file.size_bytes or hashed.hexdigest() != file.sha256:
        raise InvalidManifest(
            f"manifest: files[{place}]: {file.name} has {size_bytes} bytes and SHA-256 "
            f"{hashed.hexdigest()[:12]}, not {file.size_bytes} and {file.sha256[:12]}"
        )


def _chunks(source: bytes | Path) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with open(source, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _write_bytes(target: Path, content: bytes) -> None:
    with open(target, "xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    """Make the entries of a folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
