"""The process that opens artefacts while they are published (``-m models.sandbox.server``).

Opening a pickle runs its code, and a model file may crash or hang whatever reads it. Therefore
`models.sandbox.client` starts this once and asks it again and again; each time it forks a child,
which limits itself (`models.sandbox.limits`), opens one artefact and answers in lines of JSON.
Nothing that a child made is ever unpickled. The process itself has only imported what children
need, so that a child starts in milliseconds; it opens nothing.

A request comes over a socket with three descriptors: a file with a line of JSON and the artefact, a
pipe for the answer, and a file for bytes that are made. The reply is the child's exit status.
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

from models.sandbox.limits import Limits, enter
from models.sandbox.messages import Exchange
from yard.contract import wire
from yard.errors import ModelyardError, described
from yard.platform import prctl

#: A template that nobody asks for so long ends; the next question starts another.
IDLE_S = 60.0
#: A status on the socket, and how many descriptors come with a question.
STATUS = struct.Struct("<i")
DESCRIPTORS = 3
_KILL = b"K"


def serve(connection: socket.socket, tasks: str) -> None:
    """Answer questions until the other side hangs up or stays silent for long.

    Args:
        connection: Where questions come from.
        tasks: A module with ``TASKS``, functions of an `Exchange` by name, and ``PRELOAD``, modules
            that they need; what of these is not installed here they do without.
    """
    prctl.become_subreaper()  # what a child leaves behind becomes ours, to be killed
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    with contextlib.suppress(ImportError):  # else each child says what is missing
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
        if len(descriptors) == DESCRIPTORS:  # else a late order to kill a child that has ended
            _answer(connection, (woken, wake), descriptors, tasks)


def _answer(
    connection: socket.socket, wakes: tuple[int, int], descriptors: list[int], tasks: str
) -> None:
    """Let a child work on one question, and tell its exit status."""
    child = os.fork()
    if child == 0:
        signal.set_wakeup_fd(-1)
        for ours in (connection.fileno(), *wakes):
            os.close(ours)
        _work(descriptors, tasks)
    for descriptor in descriptors:
        os.close(descriptor)
    status = _await(connection, wakes[0], child)
    _kill_others()
    connection.sendall(STATUS.pack(status))


def _await(connection: socket.socket, woken: int, child: int) -> int:
    """The child's wait status; it is killed if the other side says so or hangs up."""
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
    """End what the child has started and left behind."""
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


def _work(descriptors: list[int], tasks: str) -> NoReturn:
    """The child: limit itself, read the question, answer, and end without any clean-up."""
    status = 1
    try:
        asked, answers, made = descriptors
        for kind in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(kind, signal.SIG_DFL)
        os.setsid()
        with os.fdopen(asked, "rb") as stream:
            request = wire.loads(stream.readline())
            exchange = Exchange(request, stream.read(), answers, made)
        _try(exchange, tasks)
        status = 0
    finally:
        os._exit(status)


def _try(exchange: Exchange, tasks: str) -> None:
    try:
        limits = Limits.model_validate(exchange.request["limits"])
        fence = enter(limits, exchange.request["folder"])
        known = importlib.import_module(tasks).TASKS
        exchange.say(fence=fence.model_dump())
        known[exchange.request["task"]](exchange)
    except ModelyardError as error:
        exchange.say(error={"code": error.code, "message": error.message})
    except MemoryError:
        exchange.say(error={"code": "memory", "message": "it takes more memory than it may"})
    except BaseException as error:  # SystemExit too: it is the artefact's, not ours
        exchange.say(error={"code": "raised", "message": described(error)})


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as inherited:
        serve(inherited, sys.argv[2])
