"""Versions by name: publish, list and delete them, read manifests and checked files.

`models.publish.publisher` writes here, once a version; workers read bytes, commands and benchmarks
read manifests. Where the bytes lie is up to the store (`models.store.backend`). Bytes are checked
against the manifest before they are returned, wherever they come from; those of an object store are
cached in a folder of this machine. Imports no numpy.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from models.manifest import File, Manifest
from models.store.backend import (
    Leftover,
    NoSuchVersion,
    Source,
    Store,
    StoreUnreachable,
    Unreadable,
)
from models.store.disk_cache import DiskCache, cache_folder
from models.store.folder import STAGING, STAGING_TTL_S, FolderStore
from models.store.location import open_store
from models.store.mmap import Maps
from yard.contract import ModelRef, check_name
from yard.errors import (
    InvalidManifest,
    ModelUnavailable,
    Unavailable,
    UnknownModel,
    UnknownVersion,
    VersionExists,
)
from yard.settings import Settings

__all__ = ["STAGING", "STAGING_TTL_S", "Repository", "open_repository"]


def open_repository(settings: Settings, location: str | None = None) -> Repository:
    """Returns the configured store, or the one at ``location``; nothing is read yet.

    Raises:
        ConfigurationError: It is no folder's path and no URL of an object store, or the client of
            object stores is not installed.
    """
    store = open_store(location or settings.store_location)
    if isinstance(store, FolderStore):
        return Repository(store)
    return Repository(store, cache=DiskCache(cache_folder(settings), settings.store_cache_bytes))


class Repository:
    """The versions of one store; safe for threads and for several processes.

    Args:
        store: Where they lie; a path stands for a folder.
        now: The time in seconds since the epoch, for the age of leftovers.
        cache: Caches files of the store.
    """

    def __init__(
        self,
        store: Store | Path,
        now: Callable[[], float] = time.time,
        cache: DiskCache | None = None,
    ) -> None:
        self._store: Store = FolderStore(store, now) if isinstance(store, Path) else store
        self._now = now
        self.cache = cache
        #: Copies from which a worker maps large files; None reads them into memory.
        self.maps: Maps | None = None

    @property
    def location(self) -> str:
        """The folder's absolute path, or the URL."""
        return self._store.location

    @property
    def root(self) -> Path:
        """The folder, if the store is one."""
        return Path(self._store.location)

    def models(self) -> list[str]:
        """Returns the models with at least one version, in order.

        Raises:
            Unavailable: The store does not answer.
        """
        return list(dict.fromkeys(ref.model for ref in self._store.refs()))

    def versions(self, model: str) -> list[str]:
        """Returns the versions of a model, in order.

        Raises:
            UnknownModel: There is none.
            Unavailable: The store does not answer.
        """
        known = self._store.refs(check_name("model", model))
        if not known:
            raise UnknownModel(f"the store has no version of model {model!r}")
        return [ref.version for ref in known]

    def refs(self) -> list[ModelRef]:
        """Returns all versions, in order.

        Raises:
            Unavailable: The store does not answer.
        """
        return self._store.refs()

    def manifest(self, ref: ModelRef, published: str | None = None) -> Manifest:
        """Returns the manifest of one version.

        Args:
            ref: The version.
            published: Its digest, if the caller knows it: when the store does not answer, the
                cached manifest is returned if it has this digest.

        Raises:
            UnknownModel: The store has no version of the model.
            UnknownVersion: It has others.
            ModelUnavailable: The manifest is broken, is another version's or cannot be read.
        """
        try:
            raw = self._store.read(ref)
        except NoSuchVersion:
            raise self._unknown_error(ref) from None
        except StoreUnreachable as error:
            cached = self._cached_manifest(ref, published)
            if cached is None:
                raise ModelUnavailable(f"{ref}: {error}") from None
            return cached
        except Unreadable as error:
            raise ModelUnavailable(f"{ref}: {error}") from None
        manifest = _parse_manifest(ref, raw)
        if self.cache is not None:
            self.cache.put_manifest(self.location, ref, raw)
        return manifest

    def read(
        self, ref: ModelRef, file_name: str | None = None, *, expected: Manifest | None = None
    ) -> bytes:
        """Returns the bytes of one file, checked against the manifest.

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
        content = self.cache.read(file) if self.cache is not None else None
        if content is None:
            content = self.read_from_store(ref, file)
            if self.cache is not None:
                self.cache.put(file, content)
        return content

    def read_from_store(self, ref: ModelRef, file: File) -> bytes:
        """Returns the bytes of one file from the store itself, past the cache; checked.

        Raises:
            UnknownModel: The store has no version of the model.
            UnknownVersion: It has others.
            ModelUnavailable: The bytes cannot be read or are not the published ones.
        """
        try:
            content = self._store.read(ref, file)
        except NoSuchVersion:
            raise self._unknown_error(ref) from None
        except Unreadable as error:
            raise ModelUnavailable(f"{ref}: {error}") from None
        _check_bytes(ref, file, content)
        return content

    def publish(self, manifest: Manifest, sources: Mapping[str, Source]) -> None:
        """Writes a version to the store, whole or not at all.

        Publishing the same bytes again changes nothing. Of two publishers at once one wins; the
        other gets the result of having come later.

        Args:
            manifest: Describes every file.
            sources: File name to content, or to the file to copy.

        Raises:
            VersionExists: The version is there with other bytes.
            InvalidManifest: The sources are not what the manifest says.
            OSError: The store cannot be written.
            Unavailable: The store does not answer, or refuses.
        """
        if self._is_published(manifest):
            return
        if sources.keys() != {file.name for file in manifest.files}:
            raise InvalidManifest(
                f"manifest: files: names {', '.join(sorted(file.name for file in manifest.files))}"
                f", given are {', '.join(sorted(sources))}"
            )
        if not self._store.put(manifest, sources) and not self._is_published(manifest):
            raise Unavailable(f"{manifest.ref} was deleted at this moment: publish it again")

    def delete(self, ref: ModelRef) -> int:
        """Deletes a version from the store; returns the freed bytes.

        Raises:
            UnknownModel: The store has no version of the model.
            UnknownVersion: It has others.
            OSError: The store cannot be written.
            Unavailable: The store does not answer, or refuses.
        """
        try:
            return self._store.delete(ref)
        except NoSuchVersion:
            raise self._unknown_error(ref) from None

    def leftovers(self, age_s: float = STAGING_TTL_S) -> list[Leftover]:
        """Returns leftovers that were last written more than ``age_s`` seconds ago.

        Raises:
            Unavailable: The store does not answer.
        """
        return self._store.leftovers(self._now() - age_s)

    def remove(self, leftover: Leftover) -> None:
        """Removes a leftover.

        Raises:
            OSError: The store cannot be written.
            Unavailable: The store does not answer, or refuses.
        """
        self._store.remove(leftover)

    def _is_published(self, manifest: Manifest) -> bool:
        """True if this very version is published.

        Raises:
            VersionExists: Another one is.
        """
        if not self._store.holds(manifest.ref):
            return False
        try:
            known = self.manifest(manifest.ref)
        except ModelUnavailable as error:
            raise VersionExists(f"{manifest.ref} is there, but broken: {error.message}") from None
        except (UnknownModel, UnknownVersion):
            return self._is_taken_otherwise(manifest.ref)
        if known.digest != manifest.digest:
            raise VersionExists(
                f"{manifest.ref} is published with other bytes: digest {known.digest[:12]}, "
                f"not {manifest.digest[:12]}; a version never changes, so take a new name"
            )
        return True

    def _is_taken_otherwise(self, ref: ModelRef) -> bool:
        if self._store.holds(ref):
            raise VersionExists(f"something that is no version lies in the place of {ref}")
        return False  # it was just deleted

    def _cached_manifest(self, ref: ModelRef, published: str | None) -> Manifest | None:
        if self.cache is None or published is None:
            return None
        raw = self.cache.manifest(self.location, ref)
        try:
            manifest = _parse_manifest(ref, raw) if raw is not None else None
        except ModelUnavailable:
            return None
        return manifest if manifest is not None and manifest.digest == published else None

    def _unknown_error(self, ref: ModelRef) -> UnknownModel | UnknownVersion:
        try:
            others = self._store.refs(ref.model)
        except Unavailable:
            others = []
        if others:
            return UnknownVersion(f"the store has no version {ref.version!r} of {ref.model!r}")
        return UnknownModel(f"the store has no version of model {ref.model!r}")


def _parse_manifest(ref: ModelRef, raw: bytes) -> Manifest:
    try:
        manifest = Manifest.parse(raw)
    except InvalidManifest as error:
        raise ModelUnavailable(f"{ref}: {error.message}") from None
    if manifest.ref != ref:
        raise ModelUnavailable(f"{ref}: its manifest is that of {manifest.ref}")
    return manifest


def _check_bytes(ref: ModelRef, file: File, content: bytes) -> None:
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 == file.sha256 and len(content) == file.size_bytes:
        return
    # A longer file was read up to one byte too many, and its digest is of those bytes.
    more = "more than the " if len(content) > file.size_bytes else ""
    raise ModelUnavailable(
        f"{ref}: {file.name} is not the published one: {more}"
        f"{min(len(content), file.size_bytes)} bytes, SHA-256 {sha256[:12]}; published were "
        f"{file.size_bytes} bytes, SHA-256 {file.sha256[:12]}"
    )
