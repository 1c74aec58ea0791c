"""Versions by name: publish one, list them, read a manifest, read a file that is the published one.

`models.publish.publisher` writes here, once a version; workers read bytes, commands and benchmarks
manifests. Where the bytes lie is the store's affair (`models.store.backend`). What is read is
checked against the manifest on the very bytes that are returned, wherever they come from; what
comes from far away is kept in a folder of this machine. Imports no numpy.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from models.manifest import File, Manifest
from models.store.backend import (
    Away,
    Leftover,
    NotThere,
    Source,
    Store,
    Unreadable,
    open_store,
)
from models.store.disk_cache import DiskCache, cache_folder
from models.store.folder import STAGING, STAGING_TTL_S, FolderStore
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
    """The versions of the store that is set, or of the one at ``location``; nothing is read yet.

    Raises:
        ConfigurationError: It is no folder's path and no URL of an object store, or what reads
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
        now: The time in seconds since the epoch, to tell what publishers that died have left.
        cache: Keeps what was read from the store.
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
        #: Where a worker maps large files from; None reads them into memory.
        self.maps: Maps | None = None

    @property
    def location(self) -> str:
        """The folder's absolute path, or the URL."""
        return self._store.location

    @property
    def root(self) -> Path:
        """The folder, of a store that is one."""
        return Path(self._store.location)

    def models(self) -> list[str]:
        """The models with at least one version, in order.

        Raises:
            Unavailable: The store does not answer.
        """
        return list(dict.fromkeys(ref.model for ref in self._store.refs()))

    def versions(self, model: str) -> list[str]:
        """The versions of a model, in order.

        Raises:
            UnknownModel: There is none.
            Unavailable: The store does not answer.
        """
        known = self._store.refs(check_name("model", model))
        if not known:
            raise UnknownModel(f"the store has no version of model {model!r}")
        return [ref.version for ref in known]

    def refs(self) -> list[ModelRef]:
        """All versions, in order.

        Raises:
            Unavailable: The store does not answer.
        """
        return self._store.refs()

    def manifest(self, ref: ModelRef, published: str | None = None) -> Manifest:
        """The manifest of one version.

        Args:
            ref: The version.
            published: Its digest, where the caller knows it from elsewhere: if the store does not
                answer, what was read of the version before will do, if it has this digest.

        Raises:
            UnknownModel: The store has no version of the model.
            UnknownVersion: It has others.
            ModelUnavailable: The manifest is broken, is another version's or cannot be read.
        """
        try:
            raw = self._store.read(ref)
        except NotThere:
            raise self._unknown(ref) from None
        except Away as error:
            kept = self._kept_manifest(ref, published)
            if kept is None:
                raise ModelUnavailable(f"{ref}: {error}") from None
            return kept
        except Unreadable as error:
            raise ModelUnavailable(f"{ref}: {error}") from None
        manifest = _parsed(ref, raw)
        if self.cache is not None:
            self.cache.keep_manifest(self.location, ref, raw)
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
        content = self.cache.read(file) if self.cache is not None else None
        if content is None:
            content = self.stored(ref, file)
            if self.cache is not None:
                self.cache.keep(file, content)
        return content

    def stored(self, ref: ModelRef, file: File) -> bytes:
        """The bytes of one file as the store has them now, whatever is kept here; checked.

        Raises:
            UnknownModel: The store has no version of the model.
            UnknownVersion: It has others.
            ModelUnavailable: The bytes cannot be read or are not the published ones.
        """
        try:
            content = self._store.read(ref, file)
        except NotThere:
            raise self._unknown(ref) from None
        except Unreadable as error:
            raise ModelUnavailable(f"{ref}: {error}") from None
        _check(ref, file, content)
        return content

    def publish(self, manifest: Manifest, sources: Mapping[str, Source]) -> None:
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
            Unavailable: The store does not answer, or refuses.
        """
        if self._is_there(manifest):
            return
        if sources.keys() != {file.name for file in manifest.files}:
            raise InvalidManifest(
                f"manifest: files: names {', '.join(sorted(file.name for file in manifest.files))}"
                f", given are {', '.join(sorted(sources))}"
            )
        if not self._store.put(manifest, sources) and not self._is_there(manifest):
            raise Unavailable(f"{manifest.ref} was deleted at this moment: publish it again")

    def delete(self, ref: ModelRef) -> int:
        """Take a version out of the store; the bytes that were freed.

        Raises:
            UnknownModel: The store has no version of the model.
            UnknownVersion: It has others.
            OSError: The store cannot be written.
            Unavailable: The store does not answer, or refuses.
        """
        try:
            return self._store.delete(ref)
        except NotThere:
            raise self._unknown(ref) from None

    def leftovers(self, age_s: float = STAGING_TTL_S) -> list[Leftover]:
        """What belongs to no version and was not touched for so long.

        Raises:
            Unavailable: The store does not answer.
        """
        return self._store.leftovers(self._now() - age_s)

    def remove(self, leftover: Leftover) -> None:
        """Take a leftover away.

        Raises:
            OSError: The store cannot be written.
            Unavailable: The store does not answer, or refuses.
        """
        self._store.remove(leftover)

    def _is_there(self, manifest: Manifest) -> bool:
        """Whether the very version is published; raises `VersionExists` if another one is."""
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
        return False  # it was deleted in between

    def _kept_manifest(self, ref: ModelRef, published: str | None) -> Manifest | None:
        if self.cache is None or published is None:
            return None
        raw = self.cache.manifest(self.location, ref)
        try:
            manifest = _parsed(ref, raw) if raw is not None else None
        except ModelUnavailable:
            return None
        return manifest if manifest is not None and manifest.digest == published else None

    def _unknown(self, ref: ModelRef) -> UnknownModel | UnknownVersion:
        try:
            others = self._store.refs(ref.model)
        except Unavailable:
            others = []
        if others:
            return UnknownVersion(f"the store has no version {ref.version!r} of {ref.model!r}")
        return UnknownModel(f"the store has no version of model {ref.model!r}")


def _parsed(ref: ModelRef, raw: bytes) -> Manifest:
    try:
        manifest = Manifest.parse(raw)
    except InvalidManifest as error:
        raise ModelUnavailable(f"{ref}: {error.message}") from None
    if manifest.ref != ref:
        raise ModelUnavailable(f"{ref}: its manifest is that of {manifest.ref}")
    return manifest


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
