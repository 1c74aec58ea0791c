"""A real `modelyard up` for one test, and a search for all processes that it started."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.helpers.waiting import wait_until
from yard import local
from yard.platform import extras

_MARK = "YARD_OF_A_TEST"
_PORTS = range(20_000, 32_000)


class RunningYard:
    """One yard in one folder, on a free port; it can be started several times."""

    def __init__(self, folder: Path, environ: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.mark = secrets.token_hex(8)
        self.environ = clean_environ() | dict(environ or {})
        self.environ |= {_MARK: self.mark, "MODELYARD_PORT": str(self.port)}
        self._process: subprocess.Popen[bytes] | None = None
        self._sessions: set[int] = set()
        self._terminal = folder / "terminal.txt"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def redis_url(self) -> str:
        known = local.running(self.data)
        assert known is not None
        return known.redis_url

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def said(self) -> str:
        """The terminal's text since the last start."""
        return self._terminal.read_text() if self._terminal.exists() else ""

    def start(self, *arguments: str) -> None:
        """Start it without waiting."""
        with self._terminal.open("wb") as terminal:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "modelyard.cli", "up", *arguments],
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=terminal,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._sessions.add(self._process.pid)

    def wait_for(self, text: str, timeout_s: float = 60.0) -> None:
        """Wait until the terminal shows ``text``."""
        wait_until(
            lambda: text in self.said or self.process.poll() is not None,
            timeout_s,
            f"the yard says {text!r}",
        )
        assert text in self.said, self.said + self.logs()

    def logs(self) -> str:
        """The end of each child's log, for a failing test."""
        ends = [
            f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}\n"
            for log in sorted((self.data / "logs").glob("*.log"))
        ]
        return "\n".join(["", *ends])

    def stop(self, timeout_s: float = 60.0) -> int:
        """Send a SIGINT, as Ctrl-C does, and return the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout_s)

    def processes(self) -> dict[int, str]:
        """The living processes that this yard started: command line by process id."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self._is_mine(folder):
                    words = (folder / "cmdline").read_bytes().split(b"\0")
                    found[int(folder.name)] = b" ".join(words).decode(errors="replace").strip()
        return found

    def _is_mine(self, folder: Path) -> bool:
        """True for a process of the yard's sessions, or a marked one: Redis overwrites its mark."""
        state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        if state == "Z":
            return False
        mark = f"{_MARK}={self.mark}".encode()
        return int(session) in self._sessions or mark in (folder / "environ").read_bytes()

    def kill_all(self) -> None:
        """Kill every process that is left."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait(60)


@contextlib.contextmanager
def running_yard(folder: Path, environ: Mapping[str, str] | None = None) -> Iterator[RunningYard]:
    """A yard that is gone when the context ends; it is not started yet."""
    found = RunningYard(folder, environ)
    try:
        yield found
    finally:
        found.kill_all()


def clean_environ() -> dict[str, str]:
    """This process' environment without settings, and with our packages on the path."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("MODELYARD_")}
    if not extras.is_installed():
        environ["PYTHONPATH"] = str(extras.root())
    return environ


def free_port() -> int:
    """A TCP port of the loopback that is free, and stays so until the caller uses it.

    A port that the system chooses may be given to another process or connection before it is used.
    So this one is below those that the system gives away by itself (ip(7): from 32768 on), and an
    abstract Unix socket reserves it against the tests of other processes.
    """
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0port-of-a-test-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        claim.detach()  # so that it stays open
        return port
    raise AssertionError("no port is free")
