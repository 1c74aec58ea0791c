"""The queues that a worker claims from, in order: every version gets its turn.

The queues are those of `yard.registry.queues`, without those of versions that kill their workers.
They are read again every second, and with them the versions to be unloaded and, by a worker that
has work, the time that the first jobs have waited. `worker.queue.fair_queue` orders them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from redis import Redis

from worker.queue.fair_queue import FairQueue
from yard.cluster import read_waits_s
from yard.contract import keys
from yard.registry import VersionState, read_served_queues

#: Time between two reads of the queues, in seconds.
_TTL_S = 1.0

#: Time that their order holds, in seconds: sorting a hundred queues takes as long as some jobs.
_TURN_S = 0.002

#: Batches are prefetched only behind batches that take less than this, in seconds: jobs that wait
#: in a worker cannot be claimed by an idle one.
_QUICK_S = 0.05


class QueueScheduler:
    """The queues of the published versions.

    Args:
        redis: Where the catalogue is.
        pattern: Only models whose name matches, as a shell matches file names.
        clock: Seconds, never going back.
        worker: The worker's name: its pool may exclude some queues (`keep_off`).
        loaded: Returns the ``model@version`` of each version that the worker has loaded.
        patience_s: Seconds after which a waiting job's version gets a turn, loaded or not.
        only: Only these queues; a model's name stands for all queues of the model. Empty for all.
    """

    def __init__(
        self,
        redis: Redis,
        pattern: str = "*",
        clock: Callable[[], float] = time.monotonic,
        *,
        worker: str = "",
        loaded: Callable[[], Collection[str]] = tuple,
        patience_s: float = 1.0,
        only: Collection[str] = (),
    ) -> None:
        self._redis = redis
        self._pattern = pattern
        self._clock = clock
        self._queues: list[str] = []
        self._read_at = self._ordered_at = float("-inf")
        self._order: list[str] = []
        self._prefetchable: list[str] | None = None
        self._durations_s: dict[str, float] = {}
        self._worker = worker
        self._only = frozenset(only)
        self._loaded = loaded
        self._fair_queue = FairQueue(patience_s)
        self._waits_s: dict[str, float] = {}
        self._off: frozenset[str] = frozenset()
        self._is_at_work = False
        self._states: dict[str, tuple[VersionState, str]] = {}
        self._dropped: set[str] = set()

    def queues(self) -> list[str]:
        """Return all queues in the order of their turns.

        Raises:
            RedisError: Redis does not answer.
        """
        now = self._clock()
        if now - self._read_at > _TTL_S:
            found, states = read_served_queues(self._redis, self._pattern)
            self._queues = [queue for queue in found if self._is_mine(queue)]
            self._dropped |= {
                queue
                for queue, state in states.items()
                if state[0] != "retired" and self._states.get(queue) != state
            }
            self._states = states
            # Where a worker is idle, no job waits for long.
            self._waits_s = read_waits_s(self._redis, self._queues) if self._is_at_work else {}
            self._off = read_off(self._redis, self._worker) if self._worker else frozenset()
            self._is_at_work = False
            self._read_at = now = self._clock()
        elif now - self._ordered_at < _TURN_S:
            return self._order
        mine = [queue for queue in self._queues if queue not in self._off]
        self._order = self._fair_queue.order(mine, self._loaded(), self._waits_s)
        self._ordered_at = now
        self._prefetchable = None
        return self._order

    def _is_mine(self, queue: str) -> bool:
        only = self._only
        return not only or queue in only or queue.partition("@")[0] in only

    def prefetchable(self) -> list[str]:
        """Return those of `queues`, as ordered last, to prefetch from: their batches are quick.

        A loaded version whose batches were not timed yet counts as quick, once.
        """
        if self._prefetchable is None:
            loaded = self._loaded()
            self._prefetchable = [
                queue
                for queue in self._order
                if self.is_quick(queue) or (queue in loaded and queue not in self._durations_s)
            ]
        return self._prefetchable

    def is_quick(self, queue: str) -> bool:
        """Return whether the last batch of a queue took little time."""
        return self._durations_s.get(queue, _QUICK_S) < _QUICK_S

    @property
    def known(self) -> list[str]:
        """The queues as read last."""
        return self._queues

    @property
    def dropped(self) -> frozenset[str]:
        """The queues of versions to unload: drained, deleted, or published again."""
        return frozenset(self._dropped)

    def state_of(self, queue: str) -> str:
        """The state of a version of `dropped`, as `Batch.state`; empty for none."""
        return " ".join(self._states.get(queue, ()))

    def mark_unloaded(self, queue: str) -> None:
        """Record that one of `dropped` is no longer loaded."""
        self._dropped.discard(queue)

    def begin(self, queue: str) -> None:
        """Record that a batch of a queue is about to be run."""
        self._fair_queue.begin(queue)
        self._waits_s.pop(queue, None)  # it has another first job now
        self._is_at_work = True

    def record_duration(self, queue: str, seconds: float) -> None:
        """Record how long a batch took to run."""
        self._durations_s[queue] = seconds

    def charge(self, queue: str, seconds: float, load_s: float) -> None:
        """Charge a queue with a batch's time in the worker, ``load_s`` of it for loading."""
        self._fair_queue.charge(queue, seconds, load_s)


def keep_off(redis: Redis, worker: str, queues: Sequence[str]) -> None:
    """Exclude some queues from a worker's, for `keys.PRESENCE_TTL_S`.

    Raises:
        RedisError: Redis does not answer.
    """
    redis.set(keys.key("off", worker), " ".join(queues), ex=keys.PRESENCE_TTL_S)


def read_off(redis: Redis, worker: str) -> frozenset[str]:
    """Return the queues that are excluded from a worker's.

    Raises:
        RedisError: Redis does not answer.
    """
    found: Any = redis.mget([keys.key("off", worker)])  # a key of another type counts as none
    return frozenset((found[0] or b"").decode("utf-8", "replace").split())
