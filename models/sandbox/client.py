"""Asks the process that opens artefacts, from the side of who publishes.

`Sandbox.ask` hands bytes and a question to a child of `models.sandbox.server` and returns what it
says, line by line as it comes, checked by the caller. However the child ends, by itself, killed by
a limit, or because it took too long, the caller gets answers or one clear `SandboxError`.
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

#: Seconds in which a child that was ended, or has nothing more to say, must be gone.
_GRACE_S = 5.0
#: What a child may say in all, in bytes.
MOST_ANSWER = 2**24
#: What of our environment a child gets: nothing that opens doors.
_ENVIRON = ("PATH", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH")
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class SandboxError(Exception):
    """The child did not answer: it raised, crashed, or broke a limit; the message says which.

    It becomes one of `yard.errors` where the caller knows what was asked.
    """


@dataclass(slots=True)
class _Template:
    process: subprocess.Popen[bytes]
    connection: socket.socket


class Sandbox:
    """Opens artefacts in children; safe for threads, one question at a time.

    The process behind it is started by the first question, and ends with this one, or when nothing
    was asked for a while.

    Args:
        tasks: The module that answers in a child, see `models.sandbox.server.serve`.
    """

    def __init__(self, tasks: str) -> None:
        self._tasks = tasks
        self._lock = threading.Lock()
        self._template: _Template | None = None
        self._owner = os.getpid()

    def ask(
        self, task: str, artefact: bytes, limits: Limits, made: IO[bytes], **request: Any
    ) -> Iterator[Mapping[str, Any]]:
        """What a child says about ``artefact``, each line as it comes.

        Args:
            task: One of `models.publish.sandbox_tasks.TASKS`.
            artefact: The bytes to open.
            limits: What the child may take.
            made: An empty file, for the bytes that the child makes.
            request: What else the task needs, plain values.

        Raises:
            ProbeFailed: The child raised, crashed or broke a limit; also after some lines.
        """
        with self._lock, contextlib.ExitStack() as stack:
            # What cannot be removed must not hide what was found.
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="modelyard-", ignore_cleanup_errors=True)
            )
            asked = stack.enter_context(tempfile.TemporaryFile())
            known = request | {"task": task, "folder": folder, "limits": limits.model_dump()}
            asked.write(wire.dumps(known) + b"\n")
            asked.write(artefact)
            asked.seek(0)
            answers, writer = os.pipe()
            stack.callback(os.close, answers)
            try:
                template = self._send([asked.fileno(), writer, made.fileno()])
            finally:
                os.close(writer)
            yield from _listen(template, answers, limits, self)

    def close(self) -> None:
        """End the process, if there is one."""
        atexit.unregister(self.close)
        template, self._template = self._template, None
        if template is None:
            return
        template.connection.close()
        try:
            template.process.wait(2)
        except subprocess.TimeoutExpired:
            template.process.kill()
            template.process.wait()

    def _send(self, descriptors: list[int]) -> _Template:
        """Put a question to the process; it may have ended meanwhile, so twice."""
        if self._owner != os.getpid():  # a fork: the process is another one's
            self._template, self._owner = None, os.getpid()
        for _ in range(2):
            template = self._template or self._started()
            try:
                socket.send_fds(template.connection, [b"Q"], descriptors)
            except OSError:
                self.close()
                continue
            return template
        raise SandboxError("the process that opens artefacts does not start")

    def _started(self) -> _Template:
        ours, theirs = socket.socketpair()
        environ = {name: os.environ[name] for name in _ENVIRON if name in os.environ}
        environ |= dict.fromkeys(_ONE_THREAD, "1")
        # An artefact may need modules that are found only where this process looks.
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
        self._template = _Template(process, ours)
        atexit.register(self.close)
        return self._template


def _listen(
    template: _Template, answers: int, limits: Limits, prober: Sandbox
) -> Iterator[Mapping[str, Any]]:
    """The lines of a child, until it ends; it is killed after ``limits.wall_s``."""
    has_ended = is_late = False
    try:
        yield from _lines(answers, time.monotonic() + limits.wall_s)
        has_ended = True
    except TimeoutError:
        is_late = True
    finally:  # also where the caller wants no more
        status = _ended(template, is_to_end=not has_ended)
        if status is None:
            prober.close()
    if is_late:
        raise SandboxError(f"it takes more than {limits.wall_s:g} s")
    if status != 0:
        raise SandboxError(_said(status, limits))


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
            yield _parsed(line)


def _parsed(line: bytes) -> Mapping[str, Any]:
    try:
        known = wire.loads(line)
    except InvalidJson:
        known = None
    if not isinstance(known, dict):
        raise SandboxError("its answer cannot be read")
    fault = known.get("error")
    if isinstance(fault, dict):
        raise _fault(str(fault.get("code")), str(fault.get("message"))[:2_000])
    return known


class ArtefactRaised(SandboxError):
    """The artefact, or a library that read it, raised in the child."""


class ArtefactRefused(SandboxError):
    """The child refused the artefact for a reason of ours.

    Attributes:
        kind: The code of the error, see `yard.errors`.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


def _fault(code: str, message: str) -> SandboxError:
    if code == "raised":
        return ArtefactRaised(message)
    return SandboxError(message) if code == "memory" else ArtefactRefused(message, code)


def _ended(template: _Template, *, is_to_end: bool) -> int | None:
    """The child's status; None if the process behind it is gone or hangs."""
    if not is_to_end:
        # It has closed its pipe, and may live on all the same.
        is_to_end = not select.select([template.connection], [], [], _GRACE_S)[0]
    try:
        if is_to_end:
            template.connection.sendall(b"K")
        template.connection.settimeout(_GRACE_S)
        raw = template.connection.recv(server.STATUS.size, socket.MSG_WAITALL)
        template.connection.settimeout(None)
    except OSError:
        return None
    return int(server.STATUS.unpack(raw)[0]) if len(raw) == server.STATUS.size else None


def _said(status: int | None, limits: Limits) -> str:
    if status is None:
        return "the process that opens artefacts ended"
    if not os.WIFSIGNALED(status):
        return "it ended the process that opens it"
    number = os.WTERMSIG(status)
    if number == signal.SIGXCPU:
        return f"it takes more than {limits.cpu_s} s of processor time"
    return f"it crashed ({signal.Signals(number).name})"
