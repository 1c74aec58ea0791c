"""The catalogue: published versions and their signatures, in Redis.

``models`` publishes here after the artefact is in the store; the client, the gateway and the
workers read. `Catalog` caches entries for a second, so that checking a request costs no round trip;
the submitting script compares signatures, so a stale entry can delay an answer but never make a
wrong one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from redis import Redis
from redis.exceptions import RedisError

from yard.broker import Script
from yard.contract import ModelRef, Signature, check_name, is_name, keys, lenient, wire
from yard.errors import UnknownModel, UnknownVersion

_REGISTER = Script("yard", "register")
_NEVER: tuple[float, dict[str, PublishedVersion]] = (float("-inf"), {})


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """One published version.

    Attributes:
        ref: Its model and version.
        signature: Its inputs and outputs.
        manifest: The whole manifest, as published.
        state: ``published``, or ``retired``: it gets no new jobs.
    """

    ref: ModelRef
    signature: Signature
    manifest: dict[str, Any]
    state: Literal["published", "retired"] = "published"


def register(redis: Redis, ref: ModelRef, manifest: bytes, signature: Signature) -> None:
    """Adds a version to the catalogue, atomically; publishing the same again changes nothing.

    A retired version stays retired: `yard.registry.lifecycle.restore` brings it back.
    """
    _REGISTER(redis, [ref.model, ref.version, manifest, signature.id])


def model_names(redis: Redis) -> list[str]:
    """Reads the names of the published models, in order; members that are no names are left out."""
    members: set[bytes] = redis.smembers(keys.MODELS)  # type: ignore[assignment]  # not decoded
    return sorted(name for raw in members if is_name(name := lenient.decode(raw)))


def read_versions(redis: Redis, model: str) -> dict[str, PublishedVersion]:
    """Reads a model's versions in order; entries that cannot be read are left out."""
    pipe = redis.pipeline(transaction=True)  # one look: a version is published, or retired
    pipe.hgetall(keys.key("versions", check_name("model", model)))
    pipe.hkeys(keys.key("signatures", model))
    raw, published = pipe.execute(raise_on_error=False)
    if isinstance(raw, RedisError):
        raise raw
    # Where the key holds another type, it is unknown which versions are retired.
    in_service = frozenset(published) if isinstance(published, list) else raw.keys()
    entries = (
        _entry(model, version, manifest, version in in_service)
        for version, manifest in sorted(raw.items())
    )
    return {entry.ref.version: entry for entry in entries if entry is not None}


def _entry(
    model: str, version: bytes, manifest: bytes, is_published: bool
) -> PublishedVersion | None:
    try:
        ref = ModelRef(model, version.decode())
        known = wire.loads(manifest)
        signature = Signature.model_validate(known["signature"])
        return PublishedVersion(ref, signature, known, "published" if is_published else "retired")
    except Exception:  # anything may be written there: one bad entry must not hide the others
        return None


class Catalog:
    """A cache of the catalogue; safe for threads.

    Args:
        redis: Where the catalogue is.
        ttl_s: Seconds that an entry is kept.
        clock: Seconds by a monotonic clock.
    """

    def __init__(
        self, redis: Redis, ttl_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._redis = redis
        self._ttl_s = ttl_s
        self._clock = clock
        self._read: dict[str, tuple[float, dict[str, PublishedVersion]]] = {}

    def versions(self, model: str, *, fresh: bool = False) -> dict[str, PublishedVersion]:
        """Returns the versions of a model, at most ``ttl_s`` old; ``fresh`` reads them again.

        Raises:
            UnknownModel: None is published.
        """
        known = None if fresh else self.known(model)
        if known is None:
            now = self._clock()
            known = read_versions(self._redis, model)
            if not known:
                self._read.pop(model, None)
                raise UnknownModel(f"no version of model {model!r} is published")
            self._read[model] = (now, known)
        return known

    def known(self, model: str) -> dict[str, PublishedVersion] | None:
        """Returns the cached versions of a model; None if they must be read."""
        read_at, entries = self._read.get(model, _NEVER)
        return entries if self._clock() - read_at <= self._ttl_s else None

    def entry(self, ref: ModelRef) -> PublishedVersion:
        """Returns one version.

        Raises:
            UnknownModel: No version of the model is published.
            UnknownVersion: This one is not.
        """
        found = self.versions(ref.model).get(ref.version) or self.versions(
            ref.model, fresh=True
        ).get(ref.version)
        if found is None:
            raise UnknownVersion(f"model {ref.model!r} has no version {ref.version!r}")
        return found
