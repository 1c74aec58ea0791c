"""A real Redis for tests, on a free loopback port, to stop, kill, pause and start again."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from modelyard.up.log_tail import last_line
from modelyard.up.redis_server import Server, find_server
from tests.helpers.waiting import wait_until
from tests.helpers.yards import free_port
from yard.broker.connections import steady
from yard.platform import pdeathsig


class RedisServer:
    """One server process after another, all on one port and one folder.

    Args:
        folder: Where it keeps its files.
        appendfsync: `always` or `everysec` makes it keep what it holds over a restart; None does
        not.
    """

    def __init__(self, folder: Path, appendfsync: str | None = None) -> None:
        self.folder = folder
        self.appendfsync = appendfsync
        self.server: Server = find_server()
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers."""
        if self.is_running:
            return self.resume()
        for _ in range(5):
            port = self.port or free_port()
            self._process = self._run(port)
            if self._answers(port):
                self.port = port
                return None
        raise AssertionError(f"the server did not start: {last_line(self.folder / 'log')}")

    def stop(self) -> None:
        """Send a SIGTERM and wait; it writes its file."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Send a SIGKILL and wait; it writes nothing more."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: go on after `pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def client(self) -> Redis:
        """A new client; the caller closes it."""
        return steady(self.url, "test")

    def _run(self, port: int) -> subprocess.Popen[bytes]:
        keeps = self.appendfsync is not None
        options = {
            "bind": "127.0.0.1",
            "port": str(port),
            "dir": str(self.folder),
            "logfile": str(self.folder / "log"),
            "save": "",
            "appendonly": "yes" if keeps else "no",
            "appendfsync": self.appendfsync or "no",
        }
        argv = [str(self.server.path), *(w for k, v in options.items() for w in (f"--{k}", v))]
        return subprocess.Popen(
            pdeathsig.command(argv, signal.SIGKILL), stdin=subprocess.DEVNULL, process_group=0
        )

    def _answers(self, port: int) -> bool:
        """True once it answers; False if another program took the port in between."""
        process = self._process
        assert process is not None

        def is_settled() -> bool:
            return process.poll() is not None or _pings(port)

        wait_until(is_settled, 60, "the Redis of the tests answers")
        return process.poll() is None

    def _end(self, signum: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)  # stopped, it would not see a SIGTERM
            self._process.send_signal(signum)
            self._process.wait(60)
            self._process = None


def patient(url: str) -> str:
    """The Redis at ``url``, for clients that wait 30 s for a reply of a busy machine, not 0.8 s."""
    return f"{url}?socket_timeout=30"


def _pings(port: int) -> bool:
    with steady(f"redis://127.0.0.1:{port}/0") as client:
        try:
            return bool(client.ping())
        except RedisError:
            return False
