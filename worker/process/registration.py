"""A worker's entries in Redis: RQ's own, and Modelyard's presence.

``rq info``, ``rq.Worker.all`` and ``send_shutdown_command`` read these entries. RQ's worker class
is not used to write them: it would bring its dequeueing and clean-up, which must never act on our
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

from yard.broker import Script, ScriptArgument
from yard.cluster import announce_presence, withdraw_worker
from yard.contract import format_time, keys

#: The worker's version in RQ's tools: that of the installed RQ, whose formats these are.
RQ_VERSION = metadata.version("rq")

_BEAT = Script("worker", "beat")


class Activity(Enum):
    """The present activity of a worker, each with its state in RQ's entry."""

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
            "birth": format_time(),
            "hostname": socket.gethostname(),
            "ip_address": "unknown",
            "pid": os.getpid(),
            "version": RQ_VERSION,
            "python_version": platform.python_version(),
        }

    def on(self, redis: Redis) -> Registration:
        """Return the same worker's entries on another connection, for another thread."""
        return Registration(redis, self._worker, self._pool)

    def birth(self, queues: Sequence[str]) -> None:
        """Register the worker, idle, with the queues that it claims from."""
        self.beat(queues, {})

    def beat(
        self,
        queues: Sequence[str],
        loaded: Mapping[str, int],
        failed: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Announce that the worker is alive, with its queues and loaded versions.

        All of its entry is written each time: a Redis that was restarted may have lost it.

        Args:
            queues: The queues' names.
            loaded: Bytes of each loaded version by its ``model@version``.
            failed: Failed loads, by the same; see `yard.cluster.presence.FailedLoad`.
        """
        left = self._queues - set(queues)
        arguments: list[ScriptArgument] = [self._worker, len(queues), *queues, len(left), *left]
        for name, value in (self._entry | {"last_heartbeat": format_time()}).items():
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
        announce_presence(self._redis, "worker", self._worker, what)

    def set_state(self, state: str) -> None:
        """Write RQ's state of the worker: idle, busy or suspended."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(self._key, "state", state)
        pipe.expire(self._key, keys.WORKER_TTL_S)
        pipe.execute()

    def begin_load(self) -> None:
        """Write that the worker is busy with a load, which the pool times apart from others."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(self._key, mapping={"state": "busy", "my_load": format_time()})
        pipe.expire(self._key, keys.WORKER_TTL_S)
        pipe.execute()

    def death(self) -> None:
        """Remove the worker's entries."""
        unregister(self._redis, self._worker)


def unregister(redis: Redis, worker: str) -> None:
    """Remove the entries of a worker, which may have died."""
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
