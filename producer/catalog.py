"""Which versions exist and what they take, as published in Redis.

``models`` publishes here after the artefact is in the store; the client, the gateway and the
workers read. `Catalog` remembers what it read for a second, so that checking a request costs no
round trip; the submitting script compares signatures, so a stale memory can delay an answer but
never make a wrong one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from producer import keys, wire
from producer.contract import ModelRef, Signature, check_name, is_name
from producer.errors import UnknownModel, UnknownVersion


@dataclass(frozen=True, slots=True)
class Entry:
    """One published version.

    Attributes:
        ref: Its model and version.
        signature: What it takes and gives.
        manifest: The whole manifest, as published.
    """

    ref: ModelRef
    signature: Signature
    manifest: dict[str, Any]


def register(redis: Redis, ref: ModelRef, manifest: bytes, signature: Signature) -> None:
    """Make a version known, all at once; publishing the same again changes nothing."""
    pipe = redis.pipeline(transaction=True)
    pipe.hset(keys.key("versions", ref.model), ref.version, manifest)
    pipe.hset(keys.key("signatures", ref.model), ref.version, signature.id)
    pipe.sadd(keys.MODELS, ref.model)
    pipe.sadd(keys.QUEUES, *(keys.key("queue", name) for name in (keys.queue_name(ref), ref.model)))
    pipe.hdel(keys.key("route", ref.model), "source")  # a key set before may be obeyed from now on
    pipe.execute()


def model_names(redis: Redis) -> list[str]:
    """The published models, in order; what is no name is left out."""
    members: set[bytes] = redis.smembers(keys.MODELS)  # type: ignore[assignment]  # not decoded
    return sorted(name for raw in members if is_name(name := raw.decode("utf-8", "replace")))


def queue_names(redis: Redis, pattern: str = "*") -> list[str]:
    """The queues of all published versions and the front doors of their models, in order.

    Raises:
        RedisError: Redis does not answer.
    """
    models = [model for model in model_names(redis) if fnmatchcase(model, pattern)]
    pipe = redis.pipeline(transaction=False)
    for model in models:
        pipe.hkeys(keys.key("signatures", model))
    queues: list[str] = []
    for model, versions in zip(models, pipe.execute(raise_on_error=False), strict=True):
        if isinstance(versions, RedisError):  # somebody's own under a name of ours: others go on
            continue
        names = sorted(raw.decode("utf-8", "replace") for raw in versions)
        queues += [keys.queue_name(ModelRef(model, name)) for name in names if is_name(name)]
        queues.append(model)
    return queues


def read_versions(redis: Redis, model: str) -> dict[str, Entry]:
    """A model's versions in order; an entry that cannot be read is left out."""
    raw: dict[bytes, bytes] = redis.hgetall(  # type: ignore[assignment]  # not decoded
        keys.key("versions", check_name("model", model))
    )
    entries = (_entry(model, version, manifest) for version, manifest in sorted(raw.items()))
    return {entry.ref.version: entry for entry in entries if entry is not None}


def _entry(model: str, version: bytes, manifest: bytes) -> Entry | None:
    try:
        ref = ModelRef(model, version.decode())
        known = wire.loads(manifest)
        return Entry(ref, Signature.model_validate(known["signature"]), known)
    except Exception:  # whatever somebody wrote there: one bad entry must not hide the others
        return None


class Catalog:
    """The catalogue as read lately; safe for threads."""

    def __init__(
        self, redis: Redis, ttl_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._redis = redis
        self._ttl_s = ttl_s
        self._clock = clock
        self._read: dict[str, tuple[float, dict[str, Entry]]] = {}

    def versions(self, model: str, *, fresh: bool = False) -> dict[str, Entry]:
        """The versions of a model, at most a second old, or read anew.

        Raises:
            UnknownModel: None is published.
        """
        now = self._clock()
        known = self._read.get(model)
        if fresh or known is None or now - known[0] > self._ttl_s:
            entries = read_versions(self._redis, model)
            if not entries:
                self._read.pop(model, None)
                raise UnknownModel(f"no version of model {model!r} is published")
            known = (now, entries)
            self._read[model] = known
        return known[1]

    def entry(self, ref: ModelRef) -> Entry:
        """One version.

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
