"""Which queues a worker looks at, and in which order: every version's turn comes round.

The queues are those of the catalogue: one a version, and one a model, its front door. They are read
anew every second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from fnmatch import fnmatchcase

from redis import Redis
from redis.exceptions import RedisError

from producer import keys
from producer.catalog import model_names
from producer.contract import ModelRef, is_name
from producer.crashes import held_back

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

    def queues(self) -> list[str]:
        """All queues, those after the one that was served last first.

        Raises:
            RedisError: Redis does not answer.
        """
        if self._clock() - self._read_at > _TTL_S:
            self._queues = read_queues(self._redis, self._pattern)
            self._read_at = self._clock()
        if self._served not in self._queues:
            return list(self._queues)
        turn = self._queues.index(self._served) + 1
        return self._queues[turn:] + self._queues[:turn]

    @property
    def known(self) -> list[str]:
        """The queues as read last."""
        return self._queues

    def served(self, queue: str) -> None:
        """Note which queue had its turn."""
        self._served = queue


def read_queues(redis: Redis, pattern: str = "*") -> list[str]:
    """The queues of all published versions and the front doors of their models, in order.

    Not of those that are held back because they kill their workers (`producer.crashes`).

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
    held = held_back(redis)
    return [queue for queue in queues if queue not in held]
