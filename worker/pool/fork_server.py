"""The fork server: a process that has imported what workers need, and becomes workers.

Importing takes a worker most of a second; forking a process that has imported takes milliseconds,
and its pages are shared. So the pool keeps one such process. It holds no model and no connection,
and it has one thread, for a fork copies only the thread that calls it, and a lock that another
holds at that moment stays locked for good. What starts a thread when it is imported is therefore
left to the workers; if there are more threads all the same, it says so and forks nothing.

The pool's orders come as JSON over a socket that keeps messages apart, each at most `MOST_BYTES`:

    {"import": ["sklearn"]}        import runtimes; answered by {"threads": 1}
    {"name", "pool", "pattern"}    fork a worker; with it comes the worker's end of a line

A new worker is forked by a go-between that ends at once, so that it becomes the child of the pool
(`worker.pool.processes`). On its line it says {"pid": 4711}, and begins when it reads `GO` there. A
pool that has given up has closed its end, and the worker ends; so there is never a worker that its
pool does not know. When the pool is gone, so is its end of the socket, and the server ends.
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
    """Obeys orders until the pool is gone.

    Args:
        orders: The server's end of the socket.
        pool: The pool's process.
    """

    def __init__(self, orders: socket.socket, pool: int) -> None:
        self._orders = orders
        self._pool = pool

    def serve(self) -> list[str] | None:
        """None when the pool is gone; in each worker, its name, its pool's name and its pattern.

        Like ``fork``, it returns more than once.
        """
        with contextlib.suppress(ConnectionError):  # the pool is gone, our answer unread
            while True:
                message, lines, _, _ = socket.recv_fds(self._orders, MOST_BYTES, 1)
                if not message:
                    return None
                order: dict[str, Any] = json.loads(message)
                if "import" in order:
                    self._import(order["import"])
                for line in lines:
                    with socket.socket(fileno=line) as end:
                        if self._becomes_worker(end):
                            return [order["name"], order["pool"], order["pattern"]]
        return None

    def _import(self, runtimes: Sequence[str]) -> None:
        modules = [
            RUNTIMES[name] for name in runtimes if name in RUNTIMES.keys() - _LEFT_TO_WORKERS
        ]
        for module in ("numpy", *modules):
            # What cannot be imported, for whatever reason, is told with the first job for it.
            with contextlib.suppress(Exception):
                import_module(module)
        # What is here stays as it is in all workers: a collection that looked at it would write
        # to its pages, and they would no longer be shared.
        gc.collect()
        gc.freeze()
        self._orders.send(json.dumps({"threads": threads()}).encode())

    def _becomes_worker(self, line: socket.socket) -> bool:
        """False in the server, having forked if it could; True in the worker, when it may begin."""
        if threads() != 1:
            _say(line, {"error": f"the fork server has {threads()} threads"})
            return False
        signals.hold()  # in the worker, until its handlers are there
        try:
            between = os.fork()
        except OSError as error:
            _say(line, {"error": f"no process can be forked: {error.strerror}"})
            between = -1
        if between:
            if between > 0:
                os.waitpid(between, 0)
            signals.release()
            return False
        _leave_a_child(line)
        self._orders.close()
        _begin(line, self._pool)
        return True


def _leave_a_child(line: socket.socket) -> None:
    """Fork, and end; returns in the child only."""
    try:
        child = os.fork()
    except OSError as error:
        _say(line, {"error": f"no process can be forked: {error.strerror}"})
        os._exit(1)
    if child:
        os._exit(0)


def _begin(line: socket.socket, pool: int) -> None:
    """Become a process of one's own, known to the pool, with randomness of one's own.

    Python reseeds `random` after a fork by itself; `secrets` and `uuid` ask the kernel.
    """
    os.setpgid(0, 0)  # a Ctrl-C at the terminal reaches the pool, and it drains them
    if not tie_to(pool):
        os._exit(1)
    _say(line, {"pid": os.getpid()})
    if line.recv(1) != GO:
        os._exit(0)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def threads() -> int:
    """How many threads this process has, those of libraries included."""
    return len(os.listdir("/proc/self/task"))


def _say(line: socket.socket, what: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the pool no longer listens
        line.send(json.dumps(what).encode())


def main(arguments: Sequence[str]) -> None:
    """``python -m worker.pool.fork_server DESCRIPTOR PID``, as the pool starts it."""
    descriptor, pool = map(int, arguments)
    settings = Settings.load()
    logs.configure(settings)
    worker = ForkServer(socket.socket(fileno=descriptor), pool).serve()
    if worker is not None:
        worker_process.Worker(settings, local.redis_url(settings), *worker).run()


if __name__ == "__main__":
    main(sys.argv[1:])
