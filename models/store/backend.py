"""Interface of a store of versions: a folder, or an object store that is named by a URL.

`models.store.repository` reads and writes versions through `Store` and knows neither paths nor
keys; `models.store.location` opens the store of ``MODELYARD_STORE``. A store holds a version whole
or not at all; the caller checks that the bytes are the published ones. Imports no numpy, and no
client of an object store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from models.manifest import File, Manifest
from yard.contract import ModelRef
from yard.errors import InvalidManifest

#: Content of a file, or the path to read it from.
Source = bytes | Path

_CHUNK = 2**20


class NoSuchVersion(Exception):
    """The store has no version of that name."""


class Unreadable(Exception):
    """A part of a version cannot be read; the text says which and why."""


class StoreUnreachable(Unreadable):
    """The store does not answer at present."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """Bytes that belong to no version.

    Attributes:
        place: Where, below the store's location.
        size_bytes: Their number.
        why: What left them.
    """

    place: str
    size_bytes: int
    why: str


class Store(Protocol):
    """Reads and writes the bytes of versions; safe for threads and for several processes."""

    @property
    def location(self) -> str:
        """The folder's absolute path, or the URL."""

    def refs(self, model: str | None = None) -> list[ModelRef]:
        """Returns the versions that have a manifest, in order; of all models, or of one.

        Raises:
            Unavailable: The store does not answer.
        """

    def holds(self, ref: ModelRef) -> bool:
        """True if anything lies in the version's place.

        Raises:
            Unavailable: The store does not answer.
        """

    def read(self, ref: ModelRef, file: File | None = None) -> bytes:
        """Returns the bytes of a file, at most one more than it should have.

        Args:
            ref: The version.
            file: One of its files; None for the manifest.

        Raises:
            NoSuchVersion: There is no such version.
            Unreadable: It is there, but cannot be read.
        """

    def put(self, manifest: Manifest, sources: Mapping[str, Source]) -> bool:
        """Writes a version; returns False if another was there first.

        Raises:
            InvalidManifest: A source differs from the manifest; nothing is left.
            OSError: It cannot be written; nothing is left.
            Unavailable: The store does not answer.
        """

    def delete(self, ref: ModelRef) -> int:
        """Deletes a version, for all readers at one instant; returns the freed bytes.

        Raises:
            NoSuchVersion: There is none.
            OSError: It cannot be deleted.
            Unavailable: The store does not answer.
        """

    def leftovers(self, before: float) -> list[Leftover]:
        """Returns leftovers last written before a time, in seconds since 1970.

        Raises:
            Unavailable: The store does not answer.
        """

    def remove(self, leftover: Leftover) -> None:
        """Removes a leftover; does nothing if it is gone already.

        Raises:
            OSError: It cannot be removed.
            Unavailable: The store does not answer.
        """


def copy_checked(source: Source, file: File, place: int, write: Callable[[bytes], object]) -> None:
    """Passes ``source`` on in chunks, then checks size and digest of what was passed.

    Args:
        source: Content, or the file to read.
        file: The expected size and digest.
        place: Index among the manifest's files.
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
