"""What no version needs any more, in the store, on this machine and in Redis.

`find` looks and `Garbage.remove` acts, so that what is shown and what is done are the same. What is
being written is told by its age. The catalogue is read before the store, into which a publish
writes first: a version that is found in the first and not in the second is really gone from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from redis import Redis

from models.store import DiskCache, Repository
from yard.broker import redis_reachable
from yard.cluster import parse_metric_field
from yard.contract import ModelRef, keys
from yard.errors import NotFound, VersionInUse
from yard.registry import lifecycle
from yard.status import read_models


@dataclass(frozen=True, slots=True)
class Garbage:
    """One thing to remove.

    Attributes:
        kind: ``store``, ``cache``, ``catalogue`` or ``metrics``.
        name: What it is called there.
        size_bytes: What it takes; 0 for what is in Redis.
        why: Why nobody needs it.
        remove: Removes it; raises `VersionInUse` if it is needed by now.
    """

    kind: str
    name: str
    size_bytes: int
    why: str
    remove: Callable[[], object]

    def to_dict(self) -> dict[str, Any]:
        """It as JSON shows it."""
        return {
            "kind": self.kind,
            "name": self.name,
            "size_bytes": self.size_bytes,
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class Found:
    """What a look has found.

    Attributes:
        garbage: What can go.
        kept: What looks like garbage and stays: its name, and why.
    """

    garbage: list[Garbage]
    kept: list[tuple[str, str]]


def find(
    repository: Repository, redis: Redis | None, age_s: float, caches: Iterable[DiskCache] = ()
) -> Found:
    """What nobody needs; nothing is removed.

    Args:
        repository: The store.
        redis: Where the catalogue is; None leaves it out.
        age_s: What was touched since in the store is left alone.
        caches: Folders of this machine with copies of what is in stores.

    Raises:
        Unavailable: The store or Redis does not answer.
    """
    known = _catalogue(redis) if redis is not None else {}
    stored = set(repository.refs())
    found = Found([*_of_store(repository, age_s), *_of_caches(caches)], [])
    if redis is not None:
        _look_at_catalogue(redis, repository, known, stored, found)
        found.garbage.extend(_of_metrics(redis, known))
    return found


def _catalogue(redis: Redis) -> dict[ModelRef, dict[str, Any]]:
    return {
        ModelRef(version["model"], version["version"]): version
        for model in read_models(redis)
        for version in model["versions"]
    }


def _of_store(repository: Repository, age_s: float) -> Iterator[Garbage]:
    for leftover in repository.leftovers(age_s):
        remove = partial(repository.remove, leftover)
        yield Garbage("store", leftover.place, leftover.size_bytes, leftover.why, remove)


def _of_caches(caches: Iterable[DiskCache]) -> Iterator[Garbage]:
    for kept in (kept for cache in caches for kept in cache.surplus()):
        remove = partial(kept.path.unlink, missing_ok=True)
        why = "not read for the longest time, and the folder is above its bound"
        yield Garbage("cache", str(kept.path), kept.size_bytes, why, remove)


def _look_at_catalogue(
    redis: Redis,
    repository: Repository,
    known: Mapping[ModelRef, dict[str, Any]],
    stored: set[ModelRef],
    found: Found,
) -> None:
    gone = sorted(known.keys() - stored, key=str)
    if gone and not stored:
        why = f"the store {repository.location} has no version at all: is it the right one?"
        found.kept.extend((str(ref), why) for ref in gone)
        return
    for ref in gone:
        if use := _use_of(known[ref]):
            found.kept.append((str(ref), f"it is not in the store, but {use}"))
            continue
        remove = partial(_delete, redis, ref)
        found.garbage.append(Garbage("catalogue", str(ref), 0, "it is not in the store", remove))


def _use_of(version: Mapping[str, Any]) -> str:
    """Why the catalogue still needs a version; '' if it does not."""
    if version["active"] or version["share"]:
        return "it gets traffic"
    if version["aliases"]:
        return f"the alias {version['aliases'][0]!r} stands for it"
    return f"{version['queue_depth']} jobs wait for it" if version["queue_depth"] else ""


def _delete(redis: Redis, ref: ModelRef) -> None:
    with redis_reachable(), suppress(NotFound):
        lifecycle.delete(redis, ref)


def _of_metrics(redis: Redis, known: Mapping[ModelRef, object]) -> Iterator[Garbage]:
    """Series of versions that are in no catalogue: a scrape leaves them out, but they stay."""
    with redis_reachable():
        raw = cast("dict[bytes, bytes]", redis.hgetall(keys.METRICS))
    published = {(ref.model, ref.version) for ref in known}
    lost: dict[str, list[bytes]] = {}
    for field in raw:
        series = parse_metric_field(field.decode("utf-8", "replace"))
        if series is None or "model_version" not in series.labels:
            continue
        version = (series.labels["model"], series.labels["model_version"])
        if version not in published:
            lost.setdefault("@".join(version), []).append(field)
    for name, fields in sorted(lost.items()):
        why = "no such version is published"
        yield Garbage("metrics", name, 0, why, partial(_drop, redis, fields))


def _drop(redis: Redis, fields: Sequence[bytes]) -> None:
    with redis_reachable():
        redis.hdel(keys.METRICS, *fields)


def remove(found: Found) -> tuple[list[Garbage], list[tuple[str, str]]]:
    """Remove what was found: what is gone, and what was needed after all, with the reason.

    Raises:
        OSError: The store, or the folder, cannot be written.
        Unavailable: The store or Redis does not answer.
    """
    removed, kept = [], list(found.kept)
    for garbage in found.garbage:
        try:
            garbage.remove()
        except VersionInUse as error:
            kept.append((garbage.name, error.message))
        else:
            removed.append(garbage)
    return removed, kept
