"""Garbage collection: what no version needs any more, in the store, on disk and in Redis.

`find_garbage` makes a plan and `remove_garbage` carries it out, so that what is shown and what is
done are the same. Files that are being written are recognised by their age. The catalogue is read
before the store, and a publish writes the store first: a version in the catalogue that is not in
the store is really gone from there.
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
        name: Its name there.
        size_bytes: Its size; 0 for entries of Redis.
        why: Why it is not needed.
        remove: Removes it; raises `VersionInUse` if it is in use by now.
    """

    kind: str
    name: str
    size_bytes: int
    why: str
    remove: Callable[[], object]

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON shows it."""
        return {
            "kind": self.kind,
            "name": self.name,
            "size_bytes": self.size_bytes,
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class GcPlan:
    """Garbage, and what stays.

    Attributes:
        garbage: Things to remove.
        kept: Things that look like garbage and stay: name, and why.
    """

    garbage: list[Garbage]
    kept: list[tuple[str, str]]


def find_garbage(
    repository: Repository, redis: Redis | None, age_s: float, caches: Iterable[DiskCache] = ()
) -> GcPlan:
    """Returns what is not needed; removes nothing.

    Args:
        repository: The store.
        redis: Where the catalogue is; None leaves it out.
        age_s: Entries of the store that were written in these last seconds are left alone.
        caches: Folders of this machine with copies of files of stores.

    Raises:
        Unavailable: The store or Redis does not answer.
    """
    catalogue = _read_catalogue(redis) if redis is not None else {}
    stored = set(repository.refs())
    plan = GcPlan([*_of_store(repository, age_s), *_of_caches(caches)], [])
    if redis is not None:
        _plan_catalogue(redis, repository, catalogue, stored, plan)
        plan.garbage.extend(_of_metrics(redis, catalogue))
    return plan


def _read_catalogue(redis: Redis) -> dict[ModelRef, dict[str, Any]]:
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
    for cached in (cached for cache in caches for cached in cache.surplus()):
        remove = partial(cached.path.unlink, missing_ok=True)
        why = "not read for the longest time, and the folder is above its bound"
        yield Garbage("cache", str(cached.path), cached.size_bytes, why, remove)


def _plan_catalogue(
    redis: Redis,
    repository: Repository,
    catalogue: Mapping[ModelRef, dict[str, Any]],
    stored: set[ModelRef],
    plan: GcPlan,
) -> None:
    gone = sorted(catalogue.keys() - stored, key=str)
    if gone and not stored:
        why = f"the store {repository.location} has no version at all: is it the right one?"
        plan.kept.extend((str(ref), why) for ref in gone)
        return
    for ref in gone:
        if use := _use_reason(catalogue[ref]):
            plan.kept.append((str(ref), f"it is not in the store, but {use}"))
            continue
        remove = partial(_delete, redis, ref)
        plan.garbage.append(Garbage("catalogue", str(ref), 0, "it is not in the store", remove))


def _use_reason(version: Mapping[str, Any]) -> str:
    """Returns why the catalogue still needs a version; '' if it does not."""
    if version["active"] or version["share"]:
        return "it gets traffic"
    if version["aliases"]:
        return f"the alias {version['aliases'][0]!r} stands for it"
    return f"{version['queue_depth']} jobs wait for it" if version["queue_depth"] else ""


def _delete(redis: Redis, ref: ModelRef) -> None:
    with redis_reachable(), suppress(NotFound):
        lifecycle.delete(redis, ref)


def _of_metrics(redis: Redis, catalogue: Mapping[ModelRef, object]) -> Iterator[Garbage]:
    """Yields series of versions that are in no catalogue: a scrape omits them, but they stay."""
    with redis_reachable():
        raw = cast("dict[bytes, bytes]", redis.hgetall(keys.METRICS))
    published = {(ref.model, ref.version) for ref in catalogue}
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


def remove_garbage(plan: GcPlan) -> tuple[list[Garbage], list[tuple[str, str]]]:
    """Removes the garbage of a plan; returns what is gone, and what stays, with the reason.

    Raises:
        OSError: The store, or the folder, cannot be written.
        Unavailable: The store or Redis does not answer.
    """
    removed, kept = [], list(plan.kept)
    for garbage in plan.garbage:
        try:
            garbage.remove()
        except VersionInUse as error:
            kept.append((garbage.name, error.message))
        else:
            removed.append(garbage)
    return removed, kept
