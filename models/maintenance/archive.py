"""Export and import of a version as a folder or a tar file.

    manifest.json
    model.joblib, ...     each file that the manifest names, and nothing else

`write` takes it from a store and `read` returns the arguments of
`models.store.repository.Repository.publish`. A tar file is read and never unpacked: its entries are
looked up by the names in the manifest, so that no path in it leads anywhere. Nothing is opened that
would run code: `models.publish.try_version` does that, in a child process.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from models.manifest import MANIFEST, MOST_BYTES, File, Manifest
from models.store import Repository, safe_files
from yard.contract import ModelRef
from yard.errors import ConfigurationError, InvalidManifest

#: A target with this suffix is written as a tar file.
SUFFIX = ".tar"
#: Entries of a tar file: a manifest names up to 64 files.
_MOST_ENTRIES = 65


def write(repository: Repository, ref: ModelRef, target: Path) -> int:
    """Writes a version to ``target``, whole or not at all; returns the bytes of its files.

    Args:
        repository: The store to read from.
        ref: The version.
        target: Must not exist; a tar file if it ends in `SUFFIX`, else a folder.

    Raises:
        UnknownModel: The store has no version of the model.
        UnknownVersion: It has others.
        ModelUnavailable: It cannot be read, or is not what was published.
        ConfigurationError: Something lies at ``target``, or there is no folder for it.
        OSError: It cannot be written.
    """
    if os.path.lexists(target):
        raise ConfigurationError(f"{target} is there already: name another, or remove it")
    if not target.absolute().parent.is_dir():
        raise ConfigurationError(f"{target} has no folder to lie in: make {target.parent} first")
    manifest = repository.manifest(ref)
    files = (
        (file.name, repository.read(ref, file.name, expected=manifest)) for file in manifest.files
    )
    draft = target.absolute().parent / f".{target.name}.{uuid.uuid4().hex}"
    try:
        if target.name.endswith(SUFFIX):
            _write_tar(draft, manifest, files)
        else:
            _write_folder(draft, manifest, files)
        os.rename(draft, target)
    finally:
        _discard(draft)
    return manifest.size_bytes


def read(source: Path) -> tuple[Manifest, dict[str, bytes]]:
    """Returns a version that `write` wrote, every file checked against its manifest.

    Raises:
        ConfigurationError: It is no exported version; says what is wrong with it.
        InvalidManifest: Its manifest is broken, or a file is not the one that it names.
        OSError: It cannot be read.
    """
    if source.is_dir():
        return _read_all(lambda name, most: _from_folder(source, name, most))
    try:
        with tarfile.open(source, "r:") as archive:
            members = _members(archive)
            return _read_all(lambda name, most: _from_tar(archive, members, name, most), members)
    except tarfile.TarError as error:
        raise ConfigurationError(
            f"it is no folder and no plain tar file, as `modelyard export` writes it: {error}"
        ) from None


def _read_all(
    read: Callable[[str, int], bytes | None], names: Iterable[str] = ()
) -> tuple[Manifest, dict[str, bytes]]:
    raw = read(MANIFEST, MOST_BYTES)
    if raw is None:
        raise ConfigurationError(f"it has no {MANIFEST}, so it is no exported version")
    manifest = Manifest.parse(raw)
    named = {MANIFEST, *(file.name for file in manifest.files)}
    if surplus := sorted(set(names) - named):
        raise ConfigurationError(f"it has {surplus[0]!r}, which its manifest does not name")
    return manifest, {file.name: _read_checked(file, read) for file in manifest.files}


def _read_checked(file: File, read: Callable[[str, int], bytes | None]) -> bytes:
    content = read(file.name, file.size_bytes)
    if content is None:
        raise ConfigurationError(f"it lacks {file.name}, which its manifest names")
    if File.of(file.name, content) != file:
        raise InvalidManifest(
            f"{file.name} is not what the manifest says: it has other bytes than the "
            f"{file.size_bytes} of SHA-256 {file.sha256[:12]}"
        )
    return content


def _from_folder(folder: Path, name: str, most: int) -> bytes | None:
    opened = safe_files.open_folder(folder)
    try:
        return safe_files.read_at(opened, name, most)
    except FileNotFoundError:
        return None
    finally:
        os.close(opened)


def _members(archive: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    """Returns the entries by name: plain files at the top, each once.

    Raises:
        ConfigurationError: There is another, or there are too many.
    """
    members: dict[str, tarfile.TarInfo] = {}
    for member in archive:
        if not member.isfile() or member.issparse() or member.name in members:
            raise ConfigurationError(
                f"the entry {member.name[:80]!r} is no plain file, or there twice"
            )
        members[member.name] = member
        if len(members) > _MOST_ENTRIES:
            raise ConfigurationError(f"it has more than {_MOST_ENTRIES} entries")
    return members


def _from_tar(
    archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], name: str, most: int
) -> bytes | None:
    member = members.get(name)
    stream = archive.extractfile(member) if member is not None else None
    return None if stream is None else stream.read(most + 1)


def _write_folder(draft: Path, manifest: Manifest, files: Iterable[tuple[str, bytes]]) -> None:
    draft.mkdir()
    for name, content in ((MANIFEST, manifest.to_json()), *files):
        (draft / name).write_bytes(content)


def _write_tar(draft: Path, manifest: Manifest, files: Iterable[tuple[str, bytes]]) -> None:
    with tarfile.open(draft, "x:", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in ((MANIFEST, manifest.to_json()), *files):
            member = tarfile.TarInfo(name)  # no owner, no time: the same version gives the same tar
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _discard(draft: Path) -> None:
    if draft.is_dir():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        with suppress(FileNotFoundError):
            draft.unlink()
