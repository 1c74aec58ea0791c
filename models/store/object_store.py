"""Store of versions in an object store: S3 and compatible ones, Google's, Azure's, by obstore.

    {prefix}/{model}/{version}/manifest.json
    {prefix}/{model}/{version}/{sha256}/{file name}

A store has no rename, so files lie under their digest: publishers of other bytes never touch each
other's. The manifest is written last, by a conditional put that fails if there is one, and deleted
first. So a version is there whole or not at all. A file that is not under its digest is read from
beside the manifest, where a folder's copy has it.

Endpoint, region and credentials come from the variables of the store's kind (``AWS_*``,
``GOOGLE_*``, ``AZURE_*``). Messages quote only the status and code of a store's answer: its text
may quote the request.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NoReturn

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import ObjectStore as Client
from obstore.store import from_url

from models.manifest import MANIFEST, MOST_BYTES, File, Manifest
from models.store.backend import (
    Leftover,
    NoSuchVersion,
    Source,
    StoreUnreachable,
    Unreadable,
    copy_checked,
)
from models.store.object_store_errors import ALLOW_HTTP, lacks_bucket, masked, reason_of
from yard.contract import ModelRef, is_name
from yard.errors import ConfigurationError, InvalidManifest, Unavailable

#: Seconds without data before a read fails: a worker that loads holds its jobs up.
_READ_S = 5
#: The same for a write, whose answer comes when all of a part is there.
_WRITE_S = 60
#: Seconds of retries, about: jobs of a version wait for them when the store is gone.
_RETRY_S = 1.5
#: Bytes of a chunk of a read.
_CHUNK = 8 * 2**20

_SHA256 = re.compile("[0-9a-f]{64}")


class ObjectStore:
    """The versions under one URL; see `models.store.backend.Store`.

    Args:
        reader: Client of the store, below the URL's prefix.
        location: The URL, as messages show it.
        writer: The same with a timeout for writes.
    """

    def __init__(self, reader: Client, location: str, writer: Client | None = None) -> None:
        self._reader = reader
        self._writer = writer or reader
        self._location = location

    @classmethod
    def at(cls, url: str) -> ObjectStore:
        """Returns the store at ``url``; nothing is read yet.

        Raises:
            ConfigurationError: The URL, or a variable of its kind, cannot be used.
        """
        url = url.rstrip("/")
        try:
            return cls(_client(url, _READ_S), url, _client(url, _WRITE_S))
        except (BaseError, ValueError) as error:
            what = " ".join(str(error).partition("\n")[0].split())
            raise ConfigurationError(f"{url} cannot be used: {masked(what)}") from None

    @property
    def location(self) -> str:
        """The URL."""
        return self._location

    def refs(self, model: str | None = None) -> list[ModelRef]:
        """Returns the versions that have a manifest, in order."""
        found = []
        for entry in self._entries(model):
            parts = entry["path"].split("/")
            if len(parts) == 3 and parts[2] == MANIFEST and all(map(is_name, parts[:2])):
                found.append(ModelRef(*parts[:2]))
        return sorted(found, key=lambda ref: (ref.model, ref.version))

    def holds(self, ref: ModelRef) -> bool:
        """True if the version has a manifest."""
        with self._unavailable_on_error():
            try:
                obstore.head(self._reader, _key(ref, MANIFEST))
            except FileNotFoundError as error:
                self._check_bucket(error)
                return False
        return True

    def read(self, ref: ModelRef, file: File | None = None) -> bytes:
        """Returns the bytes of a file, at most one more than it should have."""
        try:
            if file is None:
                return self._read(_key(ref, MANIFEST), MOST_BYTES)
            try:
                return self._read(_key(ref, file.sha256, file.name), file.size_bytes)
            except FileNotFoundError:
                return self._read(_key(ref, file.name), file.size_bytes)
        except FileNotFoundError as error:
            if lacks_bucket(error):
                raise StoreUnreachable(
                    f"{self._location} cannot be read: there is no such bucket"
                ) from None
            if file is None:
                raise NoSuchVersion from None
            what = f"{file.name} cannot be read: {self._location} has no such object"
            raise Unreadable(what) from None
        except BaseError as error:
            what = file.name if file is not None else MANIFEST
            reason, is_away = reason_of(error)
            kind = StoreUnreachable if is_away else Unreadable
            raise kind(f"{what} cannot be read: {self._location}: {reason}") from None

    def put(self, manifest: Manifest, sources: Mapping[str, Source]) -> bool:
        """Writes a version; returns False if another was there first."""
        ref = manifest.ref
        contents = [
            (_key(ref, file.sha256, file.name), _content(sources[file.name], file, place))
            for place, file in enumerate(manifest.files)
        ]
        written: list[str] = []
        try:
            with self._unavailable_on_error():
                for key, content in contents:
                    written.append(key)
                    obstore.put(self._writer, key, content)
                manifest_key = _key(ref, MANIFEST)
                obstore.put(
                    self._writer,
                    manifest_key,
                    manifest.to_json(),
                    mode="create",
                    use_multipart=False,
                )
        except AlreadyExistsError:
            return self._is_ours(manifest, written)
        except Exception:
            self._undo_put(ref, written)
            raise
        return True

    def delete(self, ref: ModelRef) -> int:
        """Deletes a version, for all readers at one instant; returns the freed bytes."""
        if not self.holds(ref):
            raise NoSuchVersion
        prefix = f"{ref.model}/{ref.version}"
        with self._unavailable_on_error():
            obstore.delete(self._writer, _key(ref, MANIFEST))
        entries = [entry for entry in self._entries(prefix) if _is_ours(entry["path"])]
        if entries:
            with self._unavailable_on_error():
                obstore.delete(self._writer, [entry["path"] for entry in entries])
        return sum(entry["size"] for entry in entries)

    def leftovers(self, before: float) -> list[Leftover]:
        """Returns files under their digest that no manifest names; other keys are not ours."""
        entries = list(self._entries())
        named = {key for ref in self._refs_of(entries) for key in self._named_keys(ref)}
        return [
            Leftover(entry["path"], entry["size"], "a publish or a deletion that failed")
            for entry in entries
            if _is_ours(entry["path"])
            and not entry["path"].endswith(f"/{MANIFEST}")
            and entry["path"] not in named
            and "/".join(entry["path"].split("/")[:2]) not in named
            and entry["last_modified"].timestamp() < before
        ]

    def remove(self, leftover: Leftover) -> None:
        """Removes a leftover; does nothing if it is gone already."""
        with self._unavailable_on_error():
            obstore.delete(self._writer, leftover.place)

    def _named_keys(self, ref: ModelRef) -> list[str]:
        """Returns the keys that a version's manifest names; if unreadable, the whole version."""
        try:
            manifest = Manifest.parse(self.read(ref))
        except (NoSuchVersion, Unreadable, InvalidManifest):
            return [f"{ref.model}/{ref.version}"]
        return [_key(ref, file.sha256, file.name) for file in manifest.files]

    @staticmethod
    def _refs_of(entries: Sequence[Any]) -> list[ModelRef]:
        parts = [entry["path"].split("/") for entry in entries]
        return [ModelRef(p[0], p[1]) for p in parts if _is_ours("/".join(p)) and len(p) == 3]

    def _read(self, key: str, most: int) -> bytes:
        content = bytearray()
        for chunk in obstore.get(self._reader, key).stream(_CHUNK):
            content += chunk
            if len(content) > most:
                break
        return bytes(content[: most + 1])

    def _is_ours(self, manifest: Manifest, written: Sequence[str]) -> bool:
        """True if the manifest there is the one just written: the answer to a put may be lost.

        If it is another's, the files written for ours are deleted again.
        """
        try:
            there = self.read(manifest.ref)
        except (NoSuchVersion, Unreadable):
            return False
        if there == manifest.to_json():
            return True
        self._undo_put(manifest.ref, written)
        return False

    def _undo_put(self, ref: ModelRef, written: Sequence[str]) -> None:
        """Deletes the files of a failed publish, except those that a manifest names."""
        with suppress(Unavailable, BaseError, FileNotFoundError):  # `gc` finds them
            named = {*self._named_keys(ref)} if self.holds(ref) else set()
            surplus = [key for key in written if key not in named]
            if surplus and f"{ref.model}/{ref.version}" not in named:
                obstore.delete(self._writer, surplus)

    def _entries(self, prefix: str | None = None) -> Iterator[Any]:
        with self._unavailable_on_error():
            for page in obstore.list(self._reader, prefix):
                yield from page

    def _check_bucket(self, error: FileNotFoundError) -> None:
        if lacks_bucket(error):
            raise Unavailable(f"the store {self._location}: there is no such bucket") from None

    @contextmanager
    def _unavailable_on_error(self) -> Iterator[None]:
        """Turns obstore's errors into `Unavailable`, except those that the caller handles."""
        try:
            yield
        except AlreadyExistsError:
            raise
        except BaseError as error:
            self._raise(error)
        except FileNotFoundError as error:
            self._check_bucket(error)
            raise

    def _raise(self, error: BaseError) -> NoReturn:
        raise Unavailable(f"the store {self._location}: {reason_of(error)[0]}") from None


def _client(url: str, read_timeout_s: float) -> Client:
    is_http_allowed = os.environ.get(ALLOW_HTTP[url.partition(":")[0]], "").lower()
    return from_url(
        url,
        client_options={
            "allow_http": is_http_allowed in ("true", "1", "yes"),
            "connect_timeout": timedelta(seconds=1),
            "read_timeout": timedelta(seconds=read_timeout_s),
            "timeout": timedelta(hours=1),
        },
        retry_config={
            "max_retries": 4,
            "retry_timeout": timedelta(seconds=_RETRY_S),
            "backoff": {
                "init_backoff": timedelta(milliseconds=50),
                "max_backoff": timedelta(milliseconds=500),
                "base": 2,
            },
        },
    )


def _key(ref: ModelRef, *names: str) -> str:
    return "/".join((ref.model, ref.version, *names))


def _is_ours(key: str) -> bool:
    """True if a key has the form of those that are written here."""
    parts = key.split("/")
    if len(parts) == 3:
        return is_name(parts[0]) and is_name(parts[1]) and parts[2] == MANIFEST
    return (
        len(parts) == 4
        and is_name(parts[0])
        and is_name(parts[1])
        and _SHA256.fullmatch(parts[2]) is not None
    )


def _content(source: Source, file: File, place: int) -> bytes:
    """Returns the whole source, checked: the checked bytes are the ones that are put."""
    parts: list[bytes] = []
    copy_checked(source, file, place, parts.append)
    return b"".join(parts)
