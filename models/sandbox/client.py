"""Client of the sandbox, used by the publishing process.

`Sandbox.ask` sends bytes and a question to a child of `models.sandbox.server` and yields its
answers line by line; the caller validates them. If the child crashes, is killed by a limit, or
takes too long, the caller gets one clear `SandboxError`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from models.sandbox import server
from models.sandbox.limits import Limits
from yard.contract import wire
from yard.errors import InvalidJson

#: Seconds for a child to exit after it was killed or has closed its pipe.
_GRACE_S = 5.0
#: Bytes that a child may answer in all.
MOST_ANSWER = 2**24
#: Environment variables that a child gets: none that hold credentials.
_ENVIRON = ("PATH", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH")
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class SandboxError(Exception):
    """The child did not answer: it raised, crashed, or broke a limit; the message says which.

    The caller turns it into one of `yard.errors`.
    """


@dataclass(slots=True)
class _ServerProcess:
    process: subprocess.Popen[bytes]
    connection: socket.socket


class Sandbox:
    """Opens artefacts in children; safe for threads, one question at a time.

    The server process is started by the first question. It ends with this one, or when it was idle
    for a while.

    Args:
        tasks: The module with the tasks, see `models.sandbox.server.serve`.
    """

    def __init__(self, tasks: str) -> None:
        self._tasks = tasks
        self._lock = threading.Lock()
        self._server_process: _ServerProcess | None = None
        self._owner = os.getpid()

    def ask(
        self, task: str, artefact: bytes, limits: Limits, output: IO[bytes], **request: Any
    ) -> Iterator[Mapping[str, Any]]:
        """Yields a child's answers about ``artefact``, each line as it comes.

        Args:
            task: A key of the module's ``TASKS``.
            artefact: The bytes to open.
            limits: The limits of the child.
            output: An empty file, for the bytes that the child makes.
            request: Further arguments of the task, plain values.

        Raises:
            SandboxError: The child raised, crashed or broke a limit; also after some lines.
        """
        with self._lock, contextlib.ExitStack() as stack:
            # A folder that cannot be removed must not hide the answers.
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="modelyard-", ignore_cleanup_errors=True)
            )
            question = stack.enter_context(tempfile.TemporaryFile())
            header = request | {"task": task, "folder": folder, "limits": limits.model_dump()}
            question.write(wire.dumps(header) + b"\n")
            question.write(artefact)
            question.seek(0)
            answers, writer = os.pipe()
            stack.callback(os.close, answers)
            try:
                server_process = self._send([question.fileno(), writer, output.fileno()])
            finally:
                os.close(writer)
            yield from _read_answers(server_process, answers, limits, self)

    def close(self) -> None:
        """Ends the server process, if there is one."""
        atexit.unregister(self.close)
        server_process, self._server_process = self._server_process, None
        if server_process is None:
            return
        server_process.connection.close()
        try:
            server_process.process.wait(2)
        except subprocess.TimeoutExpired:
            server_process.process.kill()
            server_process.process.wait()

    def _send(self, descriptors: list[int]) -> _ServerProcess:
        """Sends a question to the server; it may have ended meanwhile, so tries twice."""
        if self._owner != os.getpid():  # after a fork: the server belongs to the parent
            self._server_process, self._owner = None, os.getpid()
        for _ in range(2):
            server_process = self._server_process or self._start()
            try:
                socket.send_fds(server_process.connection, [b"Q"], descriptors)
            except OSError:
                self.close()
                continue
            return server_process
        raise SandboxError("the process that opens artefacts does not start")

    def _start(self) -> _ServerProcess:
        ours, theirs = socket.socketpair()
        environ = {name: os.environ[name] for name in _ENVIRON if name in os.environ}
        environ |= dict.fromkeys(_ONE_THREAD, "1")
        # An artefact may need modules that are found only on our path.
        environ["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", server.__name__, str(theirs.fileno()), self._tasks],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environ,
                cwd="/",
                start_new_session=True,
            )
        self._server_process = _ServerProcess(process, ours)
        atexit.register(self.close)
        return self._server_process


def _read_answers(
    server_process: _ServerProcess, answers: int, limits: Limits, sandbox: Sandbox
) -> Iterator[Mapping[str, Any]]:
    """Yields the lines of a child until it ends; kills it after ``limits.wall_s``."""
    has_ended = is_late = False
    try:
        yield from _lines(answers, time.monotonic() + limits.wall_s)
        has_ended = True
    except TimeoutError:
        is_late = True
    finally:  # also where the caller stops reading
        status = _exit_status(server_process, is_to_end=not has_ended)
        if status is None:
            sandbox.close()
    if is_late:
        raise SandboxError(f"it takes more than {limits.wall_s:g} s")
    if status != 0:
        raise SandboxError(_failure_text(status, limits))


def _lines(answers: int, ends_at: float) -> Iterator[Mapping[str, Any]]:
    waiting = bytearray()
    received = 0
    while True:
        ready, _, _ = select.select([answers], [], [], max(0.0, ends_at - time.monotonic()))
        if not ready:
            raise TimeoutError
        chunk = os.read(answers, 65_536)
        received += len(chunk)
        if not chunk:
            return
        if received > MOST_ANSWER:
            raise SandboxError("it answers without an end")
        waiting += chunk
        while (end := waiting.find(b"\n")) >= 0:
            line = bytes(waiting[:end])
            del waiting[: end + 1]
            yield _parse_line(line)


def _parse_line(line: bytes) -> Mapping[str, Any]:
    try:
        known = wire.loads(line)
    except InvalidJson:
        known = None
    if not isinstance(known, dict):
        raise SandboxError("its answer cannot be read")
    fault = known.get("error")
    if isinstance(fault, dict):
        raise _error_of(str(fault.get("code")), str(fault.get("message"))[:2_000])
    return known


class ArtefactRaised(SandboxError):
    """The artefact, or a library that read it, raised in the child."""


class ArtefactRefused(SandboxError):
    """The child refused the artefact with one of our errors.

    Attributes:
        kind: The code of the error, see `yard.errors`.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


def _error_of(code: str, message: str) -> SandboxError:
    if code == "raised":
        return ArtefactRaised(message)
    return SandboxError(message) if code == "memory" else ArtefactRefused(message, code)


def _exit_status(server_process: _ServerProcess, *, is_to_end: bool) -> int | None:
    """Returns the child's wait status; None if the server is gone or hangs."""
    if not is_to_end:
        # A child may live on after it has closed its pipe.
        is_to_end = not select.select([server_process.connection], [], [], _GRACE_S)[0]
    try:
        if is_to_end:
            server_process.connection.sendall(b"K")
        server_process.connection.settimeout(_GRACE_S)
        raw = server_process.connection.recv(server.STATUS.size, socket.MSG_WAITALL)
        server_process.connection.settimeout(None)
    except OSError:
        return None
    return int(server.STATUS.unpack(raw)[0]) if len(raw) == server.STATUS.size else None


def _failure_text(status: int | None, limits: Limits) -> str:
    if status is None:
        return "the process that opens artefacts ended"
    if not os.WIFSIGNALED(status):
        return "it ended the process that opens it"
    number = os.WTERMSIG(status)
    if number == signal.SIGXCPU:
        return f"it takes more than {limits.cpu_s} s of processor time"
    return f"it crashed ({signal.Signals(number).name})"
