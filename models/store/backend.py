"""Where versions can lie: in a folder, or in an object store that is named by a URL.

`models.store.repository` reads and writes versions through `Store`, and knows nothing of paths and
keys; `open_store` makes one from what ``MODELYARD_STORE`` says. A store keeps bytes and promises
that a version is there whole or not at all; whether bytes are the published ones is checked by
whoever asks for them. Imports no numpy, and no client of an object store before one is named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from models.manifest import File, Manifest
from yard.contract import ModelRef
from yard.errors import ConfigurationError, InvalidManifest
from yard.settings import variable

#: What a file of a version is made from.
Source = bytes | Path

#: The schemes that name an object store.
SCHEMES = ("s3", "gs", "az")

_CHUNK = 2**20


class NotThere(Exception):
    """No version lies under the name."""


class Unreadable(Exception):
    """Something of a version cannot be read; the text says what and why."""


class Away(Unreadable):
    """The store does not answer at present."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """Bytes that belong to no version.

    Attributes:
        place: Where, below the store's location.
        size_bytes: How many.
        why: What they are left from.
    """

    place: str
    size_bytes: int
    why: str


class Store(Protocol):
    """Bytes of versions; safe for threads and for several processes."""

    @property
    def location(self) -> str:
        """The folder's absolute path, or the URL."""

    def refs(self, model: str | None = None) -> list[ModelRef]:
        """The versions that have a manifest, in order; of all models, or of one.

        Raises:
            Unavailable: The store does not answer.
        """

    def holds(self, ref: ModelRef) -> bool:
        """Whether anything lies in the version's place.

        Raises:
            Unavailable: The store does not answer.
        """

    def read(self, ref: ModelRef, file: File | None = None) -> bytes:
        """The bytes of a file, but no more than one above what it should have.

        Args:
            ref: The version.
            file: One of its files; None for the manifest.

        Raises:
            NotThere: There is no such version.
            Unreadable: It is there, but cannot be read.
        """

    def put(self, manifest: Manifest, sources: Mapping[str, Source]) -> bool:
        """Whether the version was written; not, if another was there first.

        Raises:
            InvalidManifest: A source is not what the manifest says; nothing is left.
            OSError: It cannot be written; nothing is left.
            Unavailable: The store does not answer.
        """

    def delete(self, ref: ModelRef) -> int:
        """Take a version away, at one instant for whoever looks; the bytes that were freed.

        Raises:
            NotThere: There is none.
            OSError: It cannot be taken away.
            Unavailable: The store does not answer.
        """

    def leftovers(self, before: float) -> list[Leftover]:
        """What belongs to no version and was last written before a time, in seconds since 1970.

        Raises:
            Unavailable: The store does not answer.
        """

    def remove(self, leftover: Leftover) -> None:
        """Take a leftover away; nothing if it is gone already.

        Raises:
            OSError: It cannot be taken away.
            Unavailable: The store does not answer.
        """


def open_store(location: str) -> Store:
    """The store that a path or URL names; nothing is read yet.

    Raises:
        ConfigurationError: It is no folder's path and no URL of an object store, or what reads
            object stores is not installed.
    """
    if "://" not in location:
        from models.store.folder import FolderStore

        return FolderStore(Path(location))
    _check_url(location)
    try:
        from models.store.object_store import ObjectStore
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{location} needs {error.name}: pip install 'modelyard[s3]'"
        ) from None
    return ObjectStore.at(location)


def _check_url(location: str) -> None:
    parts = urlsplit(location)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        # not shown: it may be a secret
        raise ConfigurationError(
            f"{variable('store')}: a URL of an object store has no user, password or query; give "
            "credentials by the variables of its kind, AWS_ACCESS_KEY_ID and so on"
        )
    if parts.scheme not in SCHEMES or not parts.netloc or ".." in parts.path.split("/"):
        raise ConfigurationError(
            f"{variable('store')}={location!r}: is no {'://, '.join(SCHEMES)}://bucket/prefix, and "
            "a folder is given by its path"
        )


def pour(source: Source, file: File, place: int, write: Callable[[bytes], object]) -> None:
    """Hand ``source`` on in chunks, and check what was handed on.

    Args:
        source: Content, or the file to read.
        file: What it should be.
        place: Which of the manifest's files.
        write: Takes the chunks.

    Raises:
        InvalidManifest: It is not what the manifest says.
        OSError: It cannot be read.
    """
    hashed = hashlib.sha256()
    size_bytes = 0
    for chunk in _chunks(source):
        hashed.update(chunk)
        size_bytes += len(chunk)
        write(chunk)
    if size_bytes != file.size_bytes or hashed.hexdigest() != file.sha256:
        raise InvalidManifest(
            f"manifest: files[{place}]: {file.name} has {size_bytes} bytes and SHA-256 "
            f"{hashed.hexdigest()[:12]}, not {file.size_bytes} and {file.sha256[:12]}"
        )


def _chunks(source: Source) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with open(source, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk
