"""Observes the yard for a pool that decides how many workers to run.

Reads the queues, and the presence of all workers and of the other pools, from Redis; the pool
passes the states of its own workers. The `Observation` goes to `worker.pool.autoscaler`. A pool
looks at routes, too, so that a change is known although no job asks for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import structlog
from redis import Redis

from worker.pool.autoscaler import Memory, Observation, Peer, Policy
from yard.cluster import PoolInfo, Presence, read_presence, read_workload
from yard.contract import keys
from yard.registry import catalog
from yard.routing import look_at_routes

_log = structlog.get_logger()


class Observer:
    """Observes for one pool.

    Args:
        redis: Where the yard is.
        name: The pool's name.
        queues: Returns the names of the pool's queues.
        policy: What the operator has set.

    Attributes:
        start_s: Seconds that the pool's workers take to start, as observed last.
    """

    def __init__(
        self, redis: Redis, name: str, queues: Callable[[], Sequence[str]], policy: Policy
    ) -> None:
        self._redis = redis
        self._name = name
        self._read_queues = queues
        self._memory = Memory(policy)
        self._rates: dict[str, float] = {}
        self.start_s = self._memory.start_s({}, 0.0)

    @property
    def arrivals_s(self) -> dict[str, float]:
        """Jobs that arrive in a second, by queue, as observed last, where there are any."""
        return {queue: round(rate, 3) for queue, rate in self._rates.items() if rate > 0}

    def observe(
        self,
        now: float,
        states: Mapping[str, str],
        idle_since: Mapping[str, float],
        started_at: float,
        guard: str = "",
        unmet: int = 0,
    ) -> Observation:
        """Return the state of the yard and of the pool's workers at this moment.

        Args:
            now: Seconds, never going back.
            states: State of each of the pool's workers, by name, without those that were asked to
                leave.
            idle_since: When each idle one was first seen idle, by name.
            started_at: When one was started last.
            guard: The one that keeps off queues with long batches; empty for none.
            unmet: Number of versions that are to be loaded here before they get traffic.

        Raises:
            RedisError: Redis does not answer.
        """
        queues = self._read_queues()
        presence = read_presence(self._redis)
        load = read_workload(self._redis, queues, presence)
        self._rates = self._memory.arrivals_s(load.counts, now)
        works = [replace(w, arrivals_s=self._rates.get(w.queue, 0.0)) for w in load.works]
        counts = Counter(states.values())
        self.start_s = self._memory.start_s(states, now)
        return Observation(
            works=works,
            starting=counts["starting"],
            busy=sum(counts.values()) - counts["starting"] - len(idle_since),
            idle_since=idle_since,
            only=_only_holders(presence),
            started_at=started_at,
            start_s=self.start_s,
            kept=self._memory.kept(works, self.start_s, now),
            guard=guard,
            unmet=unmet,
            names=[name for name, state in states.items() if state != "starting"],
            name=self._name,
            peers=self._peers(presence, queues),
            is_suspended=load.is_suspended,
        )

    def has_jobs(self) -> bool:
        """Return whether a job waits in any of the pool's queues, in one round trip.

        Raises:
            RedisError: Redis does not answer.
        """
        pipe = self._redis.pipeline(transaction=False)
        for queue in self._read_queues():
            pipe.exists(keys.key("queue", queue))
        return any(reply == 1 for reply in pipe.execute(raise_on_error=False))

    def _peers(self, presence: Presence, queues: Sequence[str]) -> Sequence[Peer]:
        models = {queue.partition("@")[0] for queue in queues}
        return [
            _peer(pool)
            for pool in presence.pools
            if pool.name != self._name and _serves(pool, models)
        ]


def _only_holders(presence: Presence) -> frozenset[str]:
    """Return the workers that alone have some version loaded."""
    holders: dict[str, list[str]] = {}
    for worker in presence.workers:
        for version in worker.versions:
            holders.setdefault(version, []).append(worker.name)
    return frozenset(names[0] for names in holders.values() if len(names) == 1)


def _serves(pool: PoolInfo, models: Iterable[str]) -> bool:
    """Return whether a pool looks at one of these models' queues."""
    pattern = pool.known.get("pattern")
    return not isinstance(pattern, str) or any(fnmatchcase(model, pattern) for model in models)


def _peer(pool: PoolInfo) -> Peer:
    """Return another pool; one of another release may not announce ``staying`` and ``room``."""
    workers = _count(pool.known.get("staying"), sum(pool.workers.values()))
    room = _count(pool.known.get("room"), _count(pool.known.get("max"), workers) - workers)
    return Peer(pool.name, workers, _count(pool.known.get("min"), 0), workers + max(0, room))


def _count(value: Any, default: int) -> int:
    return value if type(value) is int and value >= 0 else default


class RouteWatch:
    """Looks at the routes of matching models, and logs what turns wrong with their keys.

    Args:
        redis: Where the keys are.
        name: The pool's name.
        queues: Returns the names of the models' queues.
    """

    def __init__(self, redis: Redis, name: str, queues: Callable[[], Sequence[str]]) -> None:
        self._redis = redis
        self._name = name
        self._read_queues = queues
        self._problems: dict[str, tuple[str, ...]] = {}

    def look(self) -> None:
        """Work out each route anew whose keys were changed.

        Raises:
            RedisError: Redis does not answer.
        """
        models = sorted({queue.partition("@")[0] for queue in self._read_queues()})
        found = look_at_routes(self._redis, models)
        for model, problems in found.items():
            for problem in problems:
                if problem not in self._problems.get(model, ()):
                    _log.warning(
                        "the last good route goes on: %s", problem, pool=self._name, model=model
                    )
        self._problems = found


class RuntimeNeeds:
    """The runtimes that the versions of matching models need.

    Args:
        redis: Where the catalogue is.
        pattern: Only models whose name matches.
        queues: Returns the names of their queues.
    """

    def __init__(self, redis: Redis, pattern: str, queues: Callable[[], Sequence[str]]) -> None:
        self._redis = redis
        self._pattern = pattern
        self._read_queues = queues
        self._queues: frozenset[str] | None = None
        self._runtimes: frozenset[str] = frozenset()

    def runtimes(self) -> frozenset[str]:
        """Return the names of the runtimes, read again when a version comes or goes.

        Raises:
            RedisError: Redis does not answer.
        """
        queues = frozenset(self._read_queues())
        if self._queues != queues:
            self._runtimes = frozenset(self._read())
            self._queues = queues
        return self._runtimes

    def _read(self) -> set[str]:
        found: set[str] = set()
        for model in catalog.model_names(self._redis):
            if fnmatchcase(model, self._pattern):
                for entry in catalog.read_versions(self._redis, model).values():
                    found.add(str(entry.manifest.get("runtime", "")))
        return found
