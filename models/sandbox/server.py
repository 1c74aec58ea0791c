"""Server of the sandbox: forks a child for each artefact (``-m models.sandbox.server``).

Opening a pickle runs its code, and a model file may crash or hang any reader. Therefore
`models.sandbox.client` starts this process once and sends it question after question; for each it
forks a child, which confines itself (`models.sandbox.limits`), opens one artefact and answers in
lines of JSON. Nothing that a child made is ever unpickled. The server itself has only imported what
children need, so that a child starts in milliseconds; it opens nothing.

A question comes over a socket with three descriptors: a file with a line of JSON and the artefact,
a pipe for the answer, and a file for the output. The reply is the child's exit status.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import socket
import struct
import sys
from typing import Any, NoReturn

from models.sandbox.limits import Limits, confine
from models.sandbox.messages import Exchange
from yard.contract import wire
from yard.errors import ModelyardError, described
from yard.platform import prctl

#: A server that is idle for so many seconds ends; the next question starts another.
IDLE_S = 60.0
#: The format of a status on the socket, and the descriptors of a question.
STATUS = struct.Struct("<i")
DESCRIPTORS = 3
_KILL = b"K"


def serve(connection: socket.socket, tasks: str) -> None:
    """Answers questions until the client hangs up or is silent for `IDLE_S`.

    Args:
        connection: Questions come from it.
        tasks: A module with ``TASKS``, functions of an `Exchange` by name, and ``PRELOAD``, modules
            that they need; those that are not installed are skipped.
    """
    prctl.become_subreaper()  # orphans of a child become ours, to be killed
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    with contextlib.suppress(ImportError):  # else each child reports what is missing
        for name in importlib.import_module(tasks).PRELOAD:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    while True:
        ready, _, _ = select.select([connection], [], [], IDLE_S)
        if not ready:
            return
        message, descriptors, _, _ = socket.recv_fds(connection, 1, DESCRIPTORS)
        if not message:
            return
        if len(descriptors) == DESCRIPTORS:  # else a late kill for a child that has ended
            _run_child(connection, (woken, wake), descriptors, tasks)


def _run_child(
    connection: socket.socket, wakes: tuple[int, int], descriptors: list[int], tasks: str
) -> None:
    """Forks a child for one question, and sends its exit status."""
    child = os.fork()
    if child == 0:
        signal.set_wakeup_fd(-1)
        _child_main(descriptors, tasks)
    for descriptor in descriptors:
        os.close(descriptor)
    status = _wait_child(connection, wakes[0], child)
    _kill_others()
    connection.sendall(STATUS.pack(status))


def _wait_child(connection: socket.socket, woken: int, child: int) -> int:
    """Returns the child's wait status; kills it if the client asks so or hangs up."""
    watched: list[Any] = [connection, woken]
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        ready, _, _ = select.select(watched, [], [])
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
        if connection in ready:
            is_order = bool(connection.recv(1))
            for kill in (os.killpg, os.kill):  # it may not have its own group yet
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    kill(child, signal.SIGKILL)
            if not is_order:
                watched.remove(connection)


def _kill_others() -> None:
    """Kills the processes that the child has left behind."""
    while True:
        try:
            with open(f"/proc/self/task/{os.getpid()}/children", "rb") as stream:
                left = [int(pid) for pid in stream.read().split()]
        except OSError:
            return
        if not left:
            return
        for pid in left:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _child_main(descriptors: list[int], tasks: str) -> NoReturn:
    """Runs the child: confines it, reads the question, answers, and exits without any clean-up."""
    status = 1
    try:
        question, answers, output = descriptors
        _close_others({0, 1, 2, *descriptors})
        for kind in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(kind, signal.SIG_DFL)
        os.setsid()
        with os.fdopen(question, "rb") as stream:
            request = wire.loads(stream.readline())
            exchange = Exchange(request, stream.read(), answers, output)
        _run_task(exchange, tasks)
        status = 0
    finally:
        os._exit(status)


def _close_others(kept: set[int]) -> None:
    """Closes the server's descriptors, and those that libraries have opened in it."""
    for name in os.listdir("/dev/fd"):
        if int(name) not in kept:
            with contextlib.suppress(OSError):  # that of the listing itself
                os.close(int(name))


def _run_task(exchange: Exchange, tasks: str) -> None:
    try:
        limits = Limits.model_validate(exchange.request["limits"])
        fence = confine(limits, exchange.request["folder"])
        known = importlib.import_module(tasks).TASKS
        exchange.send(fence=fence.model_dump())
        known[exchange.request["task"]](exchange)
    except ModelyardError as error:
        exchange.send(error={"code": error.code, "message": error.message})
    except MemoryError:
        exchange.send(error={"code": "memory", "message": "it takes more memory than it may"})
    except BaseException as error:  # SystemExit too: the artefact raised it
        exchange.send(error={"code": "raised", "message": described(error)})


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as inherited:
        serve(inherited, sys.argv[2])
