"""What the yard needs of a pool at this moment, before it decides anything about workers.

Which runtimes the published versions name, for its fork server; and, while there is no worker to
look at the queues, whether a job waits in any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from redis import Redis

from yard.contract import keys
from yard.registry import catalog


class Needs:
    """The needs of the models that match.

    Args:
        redis: Where the catalogue and the queues are.
        pattern: Only models whose name matches.
        names: Gives the names of their queues.
    """

    def __init__(self, redis: Redis, pattern: str, names: Callable[[], Sequence[str]]) -> None:
        self._redis = redis
        self._pattern = pattern
        self._names = names
        self._queues: frozenset[str] | None = None
        self._runtimes: frozenset[str] = frozenset()

    def runtimes(self) -> frozenset[str]:
        """The names of the runtimes, read anew when a version comes or goes.

        Raises:
            RedisError: Redis does not answer.
        """
        queues = frozenset(self._names())
        if self._queues != queues:
            self._runtimes = frozenset(self._read())
            self._queues = queues
        return self._runtimes

    def has_jobs(self) -> bool:
        """Whether a job waits in any queue, in one round trip.

        Raises:
            RedisError: Redis does not answer.
        """
        pipe = self._redis.pipeline(transaction=False)
        for queue in self._names():
            pipe.exists(keys.key("queue", queue))
        return any(reply == 1 for reply in pipe.execute(raise_on_error=False))

    def _read(self) -> set[str]:
        found: set[str] = set()
        for model in catalog.model_names(self._redis):
            if fnmatchcase(model, self._pattern):
                for entry in catalog.read_versions(self._redis, model).values():
                    found.add(str(entry.manifest.get("runtime", "")))
        return found
