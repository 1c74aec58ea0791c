"""How a worker is seen: in RQ's own entries, and in Modelyard's presence.

``rq info``, ``rq.Worker.all`` and ``send_shutdown_command`` read what is written here. RQ's worker
class is not used for it: it would bring its dequeueing and clean-up, which must never act on our
batches.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Mapping, Sequence
from enum import Enum
from importlib import metadata
from typing import Any

from redis import Redis

from yard.broker import Argument, Script
from yard.cluster import announce, withdraw_worker
from yard.contract import keys, moment

#: What RQ's tools show as the worker's version: that of the installed RQ, whose formats these are.
RQ_VERSION = metadata.version("rq")

_BEAT = Script("worker", "beat")


class Activity(Enum):
    """What a worker does, with the state that RQ's entry gives it."""

    WAITING = ("waiting", "idle")
    WOKEN = ("woken", "idle")  # by a bell, and has not looked for a job yet
    RUNNING = ("running", "busy")
    LOADING = ("loading", "busy")
    SUSPENDED = ("suspended", "suspended")

    @property
    def rq_state(self) -> str:
        """The state that RQ's tools show."""
        return self.value[1]


class Registration:
    """One worker's entries in Redis.

    Args:
        redis: A connection with time-outs.
        worker: The worker's name.
        pool: The name of the pool that started it; empty for none.
    """

    def __init__(self, redis: Redis, worker: str, pool: str) -> None:
        self._redis = redis
        self._worker = worker
        self._pool = pool
        self._key = keys.key("worker", worker)
        self._queues: frozenset[str] = frozenset()
        self._entry: dict[str, str | int] = {
            "birth": moment(),
            "hostname": socket.gethostname(),
            "ip_address": "unknown",
            "pid": os.getpid(),
            "version": RQ_VERSION,
            "python_version": platform.python_version(),
        }

    def on(self, redis: Redis) -> Registration:
        """The same worker's entries, through another connection: for another thread."""
        return Registration(redis, self._worker, self._pool)

    def birth(self, queues: Sequence[str]) -> None:
        """Enter the worker, idle, with the queues that it looks at."""
        self.beat(queues, {})

    def beat(
        self,
        queues: Sequence[str],
        loaded: Mapping[str, int],
        failed: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Say that the worker is alive, which queues it looks at and what it has loaded.

        All of its entry is written each time: a Redis that was restarted may have forgotten it.

        Args:
            queues: The queues' names.
            loaded: Bytes of each loaded version by its ``model@version``.
            failed: What could not be loaded, by the same; see `yard.cluster.presence.FailedLoad`.
        """
        left = self._queues - set(queues)
        arguments: list[Argument] = [self._worker, len(queues), *queues, len(left), *left]
        for name, value in (self._entry | {"last_heartbeat": moment()}).items():
            arguments += [name, value]
        _BEAT(self._redis, arguments)
        self._queues = frozenset(queues)
        what = {
            "versions": dict(loaded),
            "failed": dict(failed or {}),
            "pool": self._pool,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        announce(self._redis, "worker", self._worker, what)

    def set_state(self, state: str) -> None:
        """Say what the worker does: idle, busy or suspended."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(self._key, "state", state)
        pipe.expire(self._key, keys.WORKER_TTL_S)
        pipe.execute()

    def begin_load(self) -> None:
        """Say that the worker is busy without a batch: it loads, and this load is a new one."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(self._key, mapping={"state": "busy", "my_load": moment()})
        pipe.expire(self._key, keys.WORKER_TTL_S)
        pipe.execute()

    def death(self) -> None:
        """Take the worker's entries away."""
        unregister(self._redis, self._worker)


def unregister(redis: Redis, worker: str) -> None:
    """Take away the entries of a worker, which may be one that has died."""
    key = keys.key("worker", worker)
    known: Any = redis.hget(key, "queues")
    queues = (known or b"").decode("utf-8", "replace")
    pipe = redis.pipeline(transaction=True)
    pipe.srem(keys.WORKERS, key)
    for queue in filter(None, queues.split(",")):
        pipe.srem(keys.key("workers", queue), key)
    pipe.delete(key)
    withdraw_worker(pipe, worker)
    pipe.execute()
