"""What is published, how it is routed and what waits, as ``GET /v1/models`` names it.

Read from the catalogue, the routes, the queues' lengths and the workers' presence, for people who
look at a terminal: two round trips for each model, and four for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis import Redis

from yard.cluster import Presence, read_presence
from yard.contract import Route, keys
from yard.registry import Published, model_names, read_versions
from yard.routing import cold, read_route


def read_models(redis: Redis) -> list[dict[str, Any]]:
    """Every published model with its route and its versions, in order of their names."""
    known = {name: list(read_versions(redis, name).values()) for name in model_names(redis)}
    queues = [*known, *(_queue(entry) for entries in known.values() for entry in entries)]
    depths, presence = _depths(redis, queues), read_presence(redis)
    return [
        _model(read_route(redis, name), entries, depths, presence)
        for name, entries in known.items()
        if entries
    ]


def _model(
    route: Route, entries: list[Published], depths: Mapping[str, int], presence: Presence
) -> dict[str, Any]:
    versions = [_version(entry, route, depths[_queue(entry)], presence) for entry in entries]
    front_door = depths[route.model]
    return {
        "model": route.model,
        "route": route.to_dict() | {"cold": cold(route, presence)},
        "queue_depth": front_door + sum(version["queue_depth"] for version in versions),
        "versions": versions,
    }


def _version(entry: Published, route: Route, depth: int, presence: Presence) -> dict[str, Any]:
    """One version; its manifest is whatever was published, so nothing in it is sure."""
    version, manifest = entry.ref.version, entry.manifest
    aliases = route.keys["aliases"]
    return {
        "model": entry.ref.model,
        "version": version,
        "queue": _queue(entry),
        "queue_depth": depth,
        "active": route.active == version,
        "share": route.shares.get(version, 0.0),
        "state": entry.state,
        "aliases": sorted(alias for alias, named in aliases.items() if named == version),
        "signature": entry.signature.model_dump(mode="json"),
        "signature_id": entry.signature.id,
        "digest": _text(manifest.get("digest")),
        "size_bytes": _size_bytes(manifest.get("files")),
        "created_at": _text(manifest.get("created_at")),
        "note": _text(manifest.get("note")) or "",
        "loaded": [
            {
                "worker": worker.name,
                "host": _text(worker.known.get("host")),
                "bytes": worker.versions[_queue(entry)],
            }
            for worker in presence.holders(_queue(entry))
        ],
        "failed": failed_loads(presence, _queue(entry)),
    }


def failed_loads(presence: Presence, queue: str) -> list[dict[str, Any]]:
    """The workers that could not load a version, why, and when they try again."""
    return [
        {
            "worker": worker.name,
            "host": _text(worker.known.get("host")),
            "reason": failed.reason,
            "retry_at": failed.retry_at,
        }
        for worker, failed in presence.failures(queue)
    ]


def _queue(entry: Published) -> str:
    return keys.queue_name(entry.ref)


def _depths(redis: Redis, queues: list[str]) -> dict[str, int]:
    """How many jobs wait on each queue, in one round trip; what is no list counts as empty."""
    pipe = redis.pipeline(transaction=False)
    for queue in queues:
        pipe.llen(keys.key("queue", queue))
    replies = pipe.execute(raise_on_error=False)
    return {
        queue: reply if isinstance(reply, int) else 0
        for queue, reply in zip(queues, replies, strict=True)
    }


def _size_bytes(files: Any) -> int | None:
    known = files if isinstance(files, list) else []
    sizes = [file.get("size_bytes") for file in known if isinstance(file, dict)]
    return sum(size for size in sizes if isinstance(size, int)) if sizes else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
