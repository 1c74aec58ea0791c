"""Which runtimes the published versions need, for the pool to tell its fork server."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from redis import Redis

from producer import catalog


class Needs:
    """The runtimes that manifests in the catalogue name, read anew when a version comes or goes.

    Args:
        redis: Where the catalogue is.
        pattern: Only models whose name matches.
    """

    def __init__(self, redis: Redis, pattern: str) -> None:
        self._redis = redis
        self._pattern = pattern
        self._queues: frozenset[str] | None = None
        self._runtimes: frozenset[str] = frozenset()

    def runtimes(self, queues: Sequence[str]) -> frozenset[str]:
        """The runtimes' names.

        Args:
            queues: The queues of the published versions, as they are now.

        Raises:
            RedisError: Redis does not answer.
        """
        if self._queues != frozenset(queues):
            self._runtimes = frozenset(self._read())
            self._queues = frozenset(queues)
        return self._runtimes

    def _read(self) -> set[str]:
        found: set[str] = set()
        for model in catalog.model_names(self._redis):
            if fnmatchcase(model, self._pattern):
                for entry in catalog.read_versions(self._redis, model).values():
                    found.add(str(entry.manifest.get("runtime", "")))
        return found
