"""Finder of keys that would stay in Redis for ever, and are not meant to."""

from __future__ import annotations

from redis import Redis

from yard.contract import keys

_ENDED = {b"finished", b"failed", b"canceled", b"stopped"}


def find_leaks(redis: Redis) -> list[str]:
    """The keys without a time to live that are not permanent and serve nothing that is in use."""
    names = [bytes(name) for name in redis.scan_iter(count=1000)]
    pipe = redis.pipeline(transaction=False)
    for name in names:
        pipe.pttl(name)
    lasting = [
        name.decode("utf-8", "backslashreplace")
        for name, ttl in zip(names, pipe.execute(), strict=True)
        if ttl == -1
    ]
    return sorted(name for name in lasting if _is_leak(redis, name))


def _is_leak(redis: Redis, name: str) -> bool:
    if name.startswith(keys.PERMANENT):
        return False
    if name.startswith(keys.PREFIXES["job"]):  # an open job stays, an ended one must go
        return redis.type(name) == b"hash" and redis.hget(name, "status") in _ENDED
    if name.startswith(keys.PREFIXES["batch"]):  # a batch is reaped by its lease
        worker = name.removeprefix(keys.PREFIXES["batch"])
        return redis.zscore(keys.LEASES, worker) is None
    return not name.startswith(keys.WHILE_IN_USE)
