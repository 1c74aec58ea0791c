"""The fork server: a process that has imported what workers need, and becomes workers.

Importing takes a worker most of a second; forking a process that has imported takes milliseconds,
and its pages are shared. So the pool keeps one such process. It holds no model and no connection,
and has one thread: a fork copies only the thread that calls it, and a lock that another holds at
that moment stays locked for good. Runtimes that start a thread on import are therefore left to the
workers; if there are more threads all the same, the server reports them and forks nothing.

The pool's orders come as JSON over a socket that keeps messages apart, each at most `MOST_BYTES`:

    {"import": ["sklearn"]}        import runtimes; answered by {"threads": 1}
    {"name", "pool", "pattern"}    fork a worker; with it comes the worker's end of a channel

A new worker is forked by a go-between that ends at once, so that it becomes the child of the pool
(`worker.pool.processes`). On its channel it sends {"pid": 4711}, and begins when it reads `GO`
there. A pool that has given up has closed its end, and the worker ends; so there is never a worker
that its pool does not know. When the pool is gone, so is its end of the socket, and the server
ends.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import socket
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from models.runtimes import RUNTIMES
from worker.pool.processes import GO, MOST_BYTES, tie_to
from worker.process import worker as worker_process
from yard import local
from yard.platform import logs, signals
from yard.settings import Settings

#: Runtimes that start a thread when they are imported. ONNX Runtime does, and takes 30 ms.
_LEFT_TO_WORKERS = frozenset({"onnx"})


class ForkServer:
    """Carries out orders until the pool is gone.

    Args:
        orders: The server's end of the socket.
        pool: The pool's process.
    """

    def __init__(self, orders: socket.socket, pool: int) -> None:
        self._orders = orders
        self._pool = pool

    def serve(self) -> list[str] | None:
        """Return None when the pool is gone; in each worker, its name, pool and pattern.

        Like ``fork``, it returns more than once.
        """
        with contextlib.suppress(ConnectionError):  # the pool is gone, our answer unread
            while True:
                message, channels, _, _ = socket.recv_fds(self._orders, MOST_BYTES, 1)
                if not message:
                    return None
                order: dict[str, Any] = json.loads(message)
                if "import" in order:
                    self._import(order["import"])
                for channel in channels:
                    with socket.socket(fileno=channel) as end:
                        if self._becomes_worker(end):
                            return [order["name"], order["pool"], order["pattern"]]
        return None

    def _import(self, runtimes: Sequence[str]) -> None:
        modules = [
            RUNTIMES[name] for name in runtimes if name in RUNTIMES.keys() - _LEFT_TO_WORKERS
        ]
        for module in ("numpy", *modules):
            # An import that fails is reported with the first job that needs it.
            with contextlib.suppress(Exception):
                import_module(module)
        # A garbage collection in a worker would write to these pages, and they would no longer be
        # shared: freeze what is here.
        gc.collect()
        gc.freeze()
        self._orders.send(json.dumps({"threads": threads()}).encode())

    def _becomes_worker(self, channel: socket.socket) -> bool:
        """Fork; return False in the server, and True in the worker, when it may begin."""
        if threads() != 1:
            _send(channel, {"error": f"the fork server has {threads()} threads"})
            return False
        signals.hold()  # in the worker, until its handlers are there
        try:
            between = os.fork()
        except OSError as error:
            _send(channel, {"error": f"no process can be forked: {error.strerror}"})
            between = -1
        if between:
            if between > 0:
                os.waitpid(between, 0)
            signals.release()
            return False
        _leave_a_child(channel)
        self._orders.close()
        _begin(channel, self._pool)
        return True


def _leave_a_child(channel: socket.socket) -> None:
    """Fork, and end; returns in the child only."""
    try:
        child = os.fork()
    except OSError as error:
        _send(channel, {"error": f"no process can be forked: {error.strerror}"})
        os._exit(1)
    if child:
        os._exit(0)


def _begin(channel: socket.socket, pool: int) -> None:
    """Detach this process from the server, report it to the pool, and seed its randomness.

    Python reseeds `random` after a fork by itself; `secrets` and `uuid` ask the kernel.
    """
    os.setpgid(0, 0)  # a Ctrl-C at the terminal reaches the pool, and it drains them
    if not tie_to(pool):
        os._exit(1)
    _send(channel, {"pid": os.getpid()})
    if channel.recv(1) != GO:
        os._exit(0)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def threads() -> int:
    """Return the number of threads of this process, those of libraries included."""
    return len(os.listdir("/proc/self/task"))


def _send(channel: socket.socket, what: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the pool has closed its end
        channel.send(json.dumps(what).encode())


def main(arguments: Sequence[str]) -> None:
    """``python -m worker.pool.fork_server DESCRIPTOR PID``, as the pool starts it."""
    descriptor, pool = map(int, arguments)
    settings = Settings.load()
    logs.configure(settings)
    worker = ForkServer(socket.socket(fileno=descriptor), pool).serve()
    if worker is not None:
        name, pool_name, pattern = worker
        url = local.redis_url(settings)
        worker_process.Worker(settings, url, name, pool_name, pattern).run()


if __name__ == "__main__":
    main(sys.argv[1:])
