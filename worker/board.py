"""Which queues a worker looks at, and in which order: every version's turn comes round.

The queues are those of `producer.queues`, but none of a version that kills its workers. They are
read anew every second, and with them which versions are to be unloaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from redis import Redis

from producer.crashes import held_back
from producer.queues import read_queues
from producer.retirement import State

#: How long the queues are remembered.
_TTL_S = 1.0


class Board:
    """The queues of the published versions.

    Args:
        redis: Where the catalogue is.
        pattern: Only models whose name matches, as a shell matches file names.
        clock: Seconds, for how long to remember.
    """

    def __init__(
        self, redis: Redis, pattern: str = "*", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._redis = redis
        self._pattern = pattern
        self._clock = clock
        self._queues: list[str] = []
        self._read_at = float("-inf")
        self._served: str | None = None
        self._states: dict[str, tuple[State, str]] = {}
        self._dropped: set[str] = set()

    def queues(self) -> list[str]:
        """All queues, those after the one that was served last first.

        Raises:
            RedisError: Redis does not answer.
        """
        if self._clock() - self._read_at > _TTL_S:
            queues, states = read_queues(self._redis, self._pattern)
            held = held_back(self._redis)  # they kill their workers (`producer.crashes`)
            self._queues = [queue for queue in queues if queue not in held]
            self._dropped |= {
                queue
                for queue, state in states.items()
                if state[0] != "retired" and self._states.get(queue) != state
            }
            self._states = states
            self._read_at = self._clock()
        if self._served not in self._queues:
            return list(self._queues)
        turn = self._queues.index(self._served) + 1
        return self._queues[turn:] + self._queues[:turn]

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

    def served(self, queue: str) -> None:
        """Note which queue had its turn."""
        self._served = queue
