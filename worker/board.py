"""Which queues a worker looks at, and in which order: every version's turn comes round.

The queues are those of the catalogue: one a version, and one a model, its front door. That of a
version which was retired or deleted counts while something is on it, so that what it was accepted
for is run, and what somebody still pushes is failed. They are read anew every second, and with
them, by a worker that has work, how long their first jobs have waited. `worker.turns` puts them in
order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from producer import keys, retirement
from producer.catalog import model_names
from producer.contract import ModelRef, is_name
from producer.crashes import held_back
from producer.workload import waits_s
from worker.turns import Turns

#: How long the queues are remembered.
_TTL_S = 1.0


class Board:
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
        self._read_at = float("-inf")
        self._worker = worker
        self._loaded = loaded
        self._turns = Turns(patience_s)
        self._waits_s: dict[str, float] = {}
        self._off: frozenset[str] = frozenset()
        self._is_at_work = False
        self._states: dict[str, tuple[retirement.State, str]] = {}
        self._dropped: set[str] = set()

    def queues(self) -> list[str]:
        """All queues, whose turn it is first.

        Raises:
            RedisError: Redis does not answer.
        """
        if self._clock() - self._read_at > _TTL_S:
            self._queues, states = _read(self._redis, self._pattern)
            self._dropped |= {
                queue
                for queue, state in states.items()
                if state[0] != "retired" and self._states.get(queue) != state
            }
            self._states = states
            # Nothing waits for long where a worker is idle.
            self._waits_s = waits_s(self._redis, self._queues) if self._is_at_work else {}
            self._off = read_off(self._redis, self._worker) if self._worker else frozenset()
            self._is_at_work = False
            self._read_at = self._clock()
        mine = [queue for queue in self._queues if queue not in self._off]
        return self._turns.order(mine, self._loaded(), self._waits_s)

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
        self._turns.took(queue)
        self._waits_s.pop(queue, None)  # its first job is another one now
        self._is_at_work = True

    def charge(self, queue: str, seconds: float, load_s: float) -> None:
        """Note what the batch took of the worker's time, and what part of it loading was."""
        self._turns.charge(queue, seconds, load_s)


def read_queues(redis: Redis, pattern: str = "*") -> list[str]:
    """The queues of all published versions and the front doors of their models, in order.

    Those of retired and deleted ones are among them while something is on them.
    Not of those that are held back because they kill their workers (`producer.crashes`).

    Raises:
        RedisError: Redis does not answer.
    """
    return _read(redis, pattern)[0]


def _read(redis: Redis, pattern: str) -> tuple[list[str], dict[str, tuple[retirement.State, str]]]:
    """The queues, and which versions were taken out of service."""
    models = [model for model in model_names(redis) if fnmatchcase(model, pattern)]
    pipe = redis.pipeline(transaction=False)
    for model in models:
        pipe.hkeys(keys.key("signatures", model))
    pipe.hgetall(keys.RETIRED)
    *published, retired = pipe.execute(raise_on_error=False)
    states = {
        queue: state
        for queue, state in retirement.parse_states(retired).items()
        if fnmatchcase(queue.partition("@")[0], pattern)
    }
    queues: list[str] = []
    for model, versions in zip(models, published, strict=True):
        if isinstance(versions, RedisError):  # somebody's own under a name of ours: others go on
            continue
        names = sorted(raw.decode("utf-8", "replace") for raw in versions)
        queues += [keys.queue_name(ModelRef(model, name)) for name in names if is_name(name)]
        queues.append(model)
    queues += _still_in_use(redis, states, frozenset(queues))
    held = held_back(redis)
    return [queue for queue in queues if queue not in held], states


def _still_in_use(
    redis: Redis,
    states: Mapping[str, tuple[retirement.State, str]],
    known: frozenset[str],
) -> list[str]:
    """The queues beside the ``known`` ones that versions out of service have left work on."""
    versions = sorted(states.keys() - known)
    names = versions + sorted({queue.partition("@")[0] for queue in versions} - known)
    pipe = redis.pipeline(transaction=False)
    for name in names:
        pipe.llen(keys.key("queue", name))
    lengths = dict(zip(names, pipe.execute(raise_on_error=False), strict=True)) if names else {}
    if drying := [name for name in versions if states[name][0] == "retired" and lengths[name] == 0]:
        retirement.drain(redis, drying)
    return [name for name in names if isinstance(lengths[name], int) and lengths[name] > 0]


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
