"""Which queues a worker looks at, and in which order: every version's turn comes round.

The queues are those of `yard.registry.queues`, but none of a version that kills its workers. They
are read anew every second, and with them which versions are to be unloaded and, by a worker that
has work, how long their first jobs have waited. `worker.queue.fair_queue` puts them in order.
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

#: How long the queues are remembered.
_TTL_S = 1.0

#: How long their order holds: to sort a hundred queues takes as long as to serve some jobs.
_TURN_S = 0.002

#: Other jobs are taken ahead, to wait in the worker, only for a batch that takes less than this, in
#: seconds: what it holds, no idle worker can take.
_BRISK_S = 0.05


class QueueScheduler:
    """The queues of the published versions.

    Args:
        redis: Where the catalogue is.
        pattern: Only models whose name matches, as a shell matches file names.
        clock: Seconds, for how long to remember.
        worker: The worker's name: its pool may tell it to leave some queues to others.
        loaded: Tells the ``model@version`` of what the worker has loaded.
        patience_s: How long a job may wait before its version's turn comes, loaded or not.
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
    ) -> None:
        self._redis = redis
        self._pattern = pattern
        self._clock = clock
        self._queues: list[str] = []
        self._read_at = self._ordered_at = float("-inf")
        self._order: list[str] = []
        self._brisk: list[str] | None = None
        self._served_s: dict[str, float] = {}
        self._worker = worker
        self._loaded = loaded
        self._fair_queue = FairQueue(patience_s)
        self._waits_s: dict[str, float] = {}
        self._off: frozenset[str] = frozenset()
        self._is_at_work = False
        self._states: dict[str, tuple[VersionState, str]] = {}
        self._dropped: set[str] = set()

    def queues(self) -> list[str]:
        """All queues, whose turn it is first.

        Raises:
            RedisError: Redis does not answer.
        """
        now = self._clock()
        if now - self._read_at > _TTL_S:
            self._queues, states = read_served_queues(self._redis, self._pattern)
            self._dropped |= {
                queue
                for queue, state in states.items()
                if state[0] != "retired" and self._states.get(queue) != state
            }
            self._states = states
            # Nothing waits for long where a worker is idle.
            self._waits_s = read_waits_s(self._redis, self._queues) if self._is_at_work else {}
            self._off = read_off(self._redis, self._worker) if self._worker else frozenset()
            self._is_at_work = False
            self._read_at = now = self._clock()
        elif now - self._ordered_at < _TURN_S:
            return self._order
        mine = [queue for queue in self._queues if queue not in self._off]
        self._order = self._fair_queue.order(mine, self._loaded(), self._waits_s)
        self._ordered_at = now
        self._brisk = None
        return self._order

    def brisk(self) -> list[str]:
        """Those of `queues`, as ordered last, whose batches others can wait for in the worker.

        A version that is loaded and was not served yet is given the benefit of the doubt, once.
        """
        if self._brisk is None:
            loaded = self._loaded()
            self._brisk = [
                queue
                for queue in self._order
                if self.is_brisk(queue) or (queue in loaded and queue not in self._served_s)
            ]
        return self._brisk

    def is_brisk(self, queue: str) -> bool:
        """Whether the last batch of a queue took little time."""
        return self._served_s.get(queue, _BRISK_S) < _BRISK_S

    @property
    def known(self) -> list[str]:
        """The queues as read last."""
        return self._queues

    @property
    def dropped(self) -> frozenset[str]:
        """The queues of versions that are to be unloaded: drained, deleted, or published anew."""
        return frozenset(self._dropped)

    def unloaded(self, queue: str) -> None:
        """Note that one of `dropped` is not loaded any more."""
        self._dropped.discard(queue)

    def took(self, queue: str) -> None:
        """Note that a batch of a queue has its turn."""
        self._fair_queue.took(queue)
        self._waits_s.pop(queue, None)  # its first job is another one now
        self._is_at_work = True

    def served(self, queue: str, seconds: float) -> None:
        """Note how long serving a batch took."""
        self._served_s[queue] = seconds

    def charge(self, queue: str, seconds: float, load_s: float) -> None:
        """Note what the batch took of the worker's time, and what part of it loading was."""
        self._fair_queue.charge(queue, seconds, load_s)


def keep_off(redis: Redis, worker: str, queues: Sequence[str]) -> None:
    """Tell a worker to leave some queues to others, for `keys.PRESENCE_TTL_S`.

    Raises:
        RedisError: Redis does not answer.
    """
    redis.set(keys.key("off", worker), " ".join(queues), ex=keys.PRESENCE_TTL_S)


def read_off(redis: Redis, worker: str) -> frozenset[str]:
    """The queues that a worker was told to leave to others.

    Raises:
        RedisError: Redis does not answer.
    """
    found: Any = redis.mget([keys.key("off", worker)])  # a key of another type counts as none
    return frozenset((found[0] or b"").decode("utf-8", "replace").split())
