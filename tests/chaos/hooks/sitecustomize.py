"""Makes workers and pools kill themselves at named points of the protocol.

Python imports it in every process that has this folder on its PYTHONPATH; only workers and pools
are changed, and only where ``CHAOS_POINTS`` says so, in JSON: a point, then a signal's name and how
likely it is each time, as in ``{"claim:sent": ["KILL", 0.02]}``. Points are, for each script, its
name with ``before``, ``sent`` (Redis has the call, nobody reads the reply) and ``after``; and
``load:before``, ``predict:before``, ``predict:after``, ``leave:before``.

Each strike takes a file out of the folder ``CHAOS_TOKENS``: no file, no strike. ``CHAOS_CLOCK``
puts the clock wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: The command that a worker's process was started as; the fork server becomes workers.
_WORKERS = {"worker.process.worker", "worker.pool.fork_server"}

_POINTS: dict[str, tuple[str, float]] = {}
_random = random.Random()


def _strikes(point: str) -> signal.Signals | None:
    """The signal that this process gets now, if any."""
    name, probability = _POINTS.get(point, ("", 0.0))
    if not name or _random.random() >= probability:
        return None
    tokens = Path(os.environ["CHAOS_TOKENS"])
    for token in sorted(os.listdir(tokens)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(tokens / token)
            return signal.Signals[f"SIG{name}"]
    return None


def _pass(point: str) -> None:
    """Go through a point, if this process survives it."""
    number = _strikes(point)
    if number is not None:
        os.kill(os.getpid(), number)


def _around(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        _pass(f"{name}:before")
        result = call(*args, **kwargs)
        _pass(f"{name}:after")
        return result

    return wrapped


def _wrap_scripts() -> None:
    from yard.broker.lua import Script

    original = Script.__call__

    def call(self: Script, redis: Any, arguments: Any) -> Any:
        _pass(f"{self.name}:before")
        number = _strikes(f"{self.name}:sent")
        if number is not None:
            connection = redis.connection_pool.get_connection()
            connection.send_command("EVAL", self.source, 0, *arguments)
            os.kill(os.getpid(), number)
            redis.connection_pool.release(connection)  # a signal that does not kill at once
            connection.disconnect()
        reply = original(self, redis, arguments)
        _pass(f"{self.name}:after")
        return reply

    Script.__call__ = call  # type: ignore[method-assign]


def _install() -> None:
    _POINTS.update(json.loads(os.environ["CHAOS_POINTS"]))
    _seed()
    os.register_at_fork(after_in_child=_seed)
    _wrap_scripts()
    if _WORKERS & set(sys.orig_argv):
        from worker.inference import executor, loader
        from worker.process import registration
        from worker.queue import pipeline

        for owner, name, point in [
            (loader, "load", "load"),
            (executor, "predict_members", "predict"),
            (registration.Registration, "death", "leave"),
            (pipeline.PipelinedConnection, "send", "send"),  # ends of batches, and claims ahead
            (pipeline.PipelinedConnection, "receive", "receive"),
        ]:
            setattr(owner, name, _around(point, getattr(owner, name)))


def _seed() -> None:
    _random.seed(f"{os.environ.get('CHAOS_SEED', '')} {sys.orig_argv[-3:]} {os.getpid()}")


def _skew() -> None:
    """Put the wall clock wrong, by ``CHAOS_CLOCK`` seconds."""
    real, wrong = time.time, float(os.environ["CHAOS_CLOCK"])
    time.time = lambda: real() + wrong
    time.time_ns = lambda: int(time.time() * 1e9)


if "CHAOS_CLOCK" in os.environ and {"pool", *_WORKERS} & set(sys.orig_argv):
    _skew()
if "CHAOS_POINTS" in os.environ and {"pool", *_WORKERS} & set(sys.orig_argv):
    _install()
