"""Jobs that wait outside of a queue: scheduled, deferred, canceled by RQ, or in no queue at all.

RQ's clients may enqueue a job for later (`enqueue_in`, `enqueue_at`) or behind another
(`depends_on`); RQ's scheduler and workers queue them then. Here every pool does, once a second, by
one script for all of it, which only reads where nothing of the kind waits. No job is decoded for
it, so that no entry can do harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import Redis

from worker.queue.outcomes import ADRIFT, DEPENDENCY_GONE
from yard.broker import Script, ScriptArgument
from yard.contract import keys, lenient
from yard.settings import Settings

#: Most queues of one call (3 us each), and most entries of a queue and kind (20 us each).
_QUEUES = 64
_ENTRIES = 32

#: Keys that one look for orphans goes through, and entries of queues (10 ns each).
_KEYS = 100
_QUEUE_ENTRIES = 100_000

#: Seconds from the first sight of a job that is in no queue to its end.
_ORPHAN_S = 3600

_DUE = Script("worker", "due")
_ORPHANS = Script("worker", "orphans")


def enqueue_due(redis: Redis, queues: Sequence[str], settings: Settings) -> tuple[int, int]:
    """Queue the jobs whose time or whose dependencies have come, and end those RQ has canceled.

    Args:
        redis: A connection with time-outs.
        queues: The queues to look after.
        settings: Times to live.

    Returns:
        Number of jobs queued, and of jobs ended: canceled, or with a dependency that is gone.

    Raises:
        RedisError: Redis does not answer.
    """
    terms: list[ScriptArgument] = [
        _ENTRIES,
        settings.result_ttl_s,
        settings.failure_ttl_s,
        *DEPENDENCY_GONE,
    ]
    queued = ended = 0
    for place in range(0, len(queues), _QUEUES):
        now_queued, now_ended = _DUE(redis, [*terms, *queues[place : place + _QUEUES]])
        queued += now_queued
        ended += now_ended
    return queued, ended


class OrphanCollector:
    """Goes through the jobs of Redis, a few keys a call, and ends those that are in no queue.

    Args:
        redis: A connection with time-outs.
        settings: Times to live.
        age_s: Seconds from the first sight of such a job to its end.
    """

    def __init__(self, redis: Redis, settings: Settings, age_s: int = _ORPHAN_S) -> None:
        self._redis = redis
        self._settings = settings
        self._age_s = age_s
        self._cursor = 0

    def look(self) -> int:
        """Look at the next keys; return the number of jobs ended.

        Raises:
            RedisError: Redis does not answer.
        """
        prefix = keys.PREFIXES["job"]
        reply: Any = self._redis.scan(self._cursor, match=f"{prefix}*", count=_KEYS)
        self._cursor, found = reply
        ids = [lenient.decode(raw).removeprefix(prefix) for raw in found]
        if not ids:
            return 0
        terms: list[ScriptArgument] = [
            self._settings.failure_ttl_s,
            self._age_s,
            _QUEUE_ENTRIES,
            *ADRIFT,
        ]
        return int(_ORPHANS(self._redis, [*terms, *ids]))
