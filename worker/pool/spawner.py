"""Starts worker processes: forked from a fork server where that works, else spawned.

The pool asks for a worker by name and gets its process. Meanwhile the spawner keeps a fork server
(`worker.pool.fork_server`) ready: it starts one, sends it the runtimes that the published versions
need, and starts another when it dies, hangs or does not answer. Without one, a worker is started by
``python -m worker.process.worker``, which takes a second longer; so are all workers on systems
other than Linux, where a child cannot be tied to an adopted parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import structlog

from worker.pool.processes import GO, MOST_BYTES, Forked, Process, adopt_orphans
from yard.platform import child_environment, pdeathsig, signals
from yard.settings import Settings

_log = structlog.get_logger()

#: Time limit of the fork server for importing, in seconds; after it, workers are spawned.
_IMPORT_S = 20.0

#: Time limit of the fork server for forking a worker, in seconds; some 10 ms are usual.
_FORK_S = 1.0

#: Backoff before the next start of a fork server that failed, doubling, in seconds.
_FIRST_DELAY_S, _LAST_DELAY_S = 1.0, 60.0

#: Defaults, for a process with pools of threads cannot be forked; an operator may set others.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Spawner:
    """Starts the workers of one pool.

    Args:
        settings: All there is to set; `Settings.fork_server` turns forking off.
        pool: The pool's name.
        pattern: Only models whose name matches are served.
        clock: Seconds, never going back.

    Attributes:
        folder: The working folder of all that is started.
    """

    def __init__(
        self,
        settings: Settings,
        pool: str,
        pattern: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._pattern = pattern
        self._clock = clock
        self.folder = os.sep
        self._environ = child_environment(settings.with_absolute_paths().environ())
        self._is_fit = settings.fork_server
        self._server: subprocess.Popen[bytes] | None = None
        self._orders: socket.socket | None = None
        self._importing_until: float | None = None
        self._runtimes: frozenset[str] = frozenset()
        self._delay_s = _FIRST_DELAY_S
        self._start_at = float("-inf")

    @property
    def descriptors(self) -> Sequence[int]:
        """Descriptors that become readable when the fork server answers."""
        return [self._orders.fileno()] if self._orders is not None else []

    @property
    def pids(self) -> Collection[int]:
        """Child processes that the spawner collects itself."""
        return [self._server.pid] if self._server is not None else []

    def tend(self, runtimes: Collection[str]) -> None:
        """Keep a fork server running that has imported ``runtimes``; to be called often."""
        wanted = self._runtimes | set(runtimes)
        if self._server is None:
            if self._is_fit and self._clock() >= self._start_at:
                self._open(wanted)
            return
        if self._server.poll() is not None:
            self._discard(f"it has ended with status {self._server.returncode}")
        elif self._importing_until is not None:
            self._read_answer()
        elif wanted != self._runtimes:
            self._order_import(wanted)

    def start(self, name: str) -> Process | None:
        """Start a worker and return its process; None while the fork server imports: try again."""
        if self._server is not None and self._importing_until is None:
            process = self._fork(name)
            if process is not None:
                return process
        if self._importing_until is not None:
            return None
        return self._spawn(name)

    def stop(self) -> None:
        """End the fork server; the workers stay."""
        self._is_fit = False
        if self._server is not None:
            self._close(self._server)

    def _open(self, runtimes: Collection[str]) -> None:
        if not adopt_orphans():
            self._is_fit = False
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # -P: a folder `models` or `worker` where the user stands is not ours.
        argv = [sys.executable, "-P", "-m", "worker.pool.fork_server", str(theirs.fileno())]
        try:
            self._server = subprocess.Popen(
                pdeathsig.command([*argv, str(os.getpid())], signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                env=_ONE_THREAD | self._environ,
                cwd=self.folder,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.settimeout(_FORK_S)
        self._orders = ours
        self._order_import(runtimes)

    def _order_import(self, runtimes: Collection[str]) -> None:
        self._runtimes = frozenset(runtimes)
        self._importing_until = self._clock() + _IMPORT_S
        try:
            self._order({"import": sorted(self._runtimes)})
        except OSError as error:
            self._discard(f"it takes no orders: {error}")

    def _read_answer(self) -> None:
        """Read the answer to an order to import, if it is there."""
        assert self._orders is not None  # it is there with the server
        assert self._importing_until is not None  # else no answer is due
        if not select.select([self._orders], [], [], 0)[0]:
            if self._clock() > self._importing_until:
                self._discard(f"it has been importing for {_IMPORT_S:g} s")
            return
        try:
            message = self._orders.recv(MOST_BYTES)
        except OSError as error:
            return self._discard(f"it cannot be heard: {error}")
        if not message:
            return self._discard("it has hung up")
        self._importing_until = None
        threads = json.loads(message)["threads"]
        if threads != 1:
            self._is_fit = False  # it would come to the same again
            self._discard(f"what it has imported has started {threads - 1} threads")

    def _fork(self, name: str) -> Process | None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        order = {"name": name, "pool": self._pool, "pattern": self._pattern}
        with ours, theirs:
            ours.settimeout(_FORK_S)
            try:
                self._order(order, theirs.fileno())
                theirs.close()
                answer = json.loads(ours.recv(MOST_BYTES) or b"{}")
                if "pid" in answer:
                    ours.send(GO)
            except OSError as error:
                answer = {"error": str(error)}
        if "pid" not in answer:
            self._discard(answer.get("error", "the worker ended before it began"))
            return None
        self._delay_s = _FIRST_DELAY_S
        return Forked(answer["pid"])

    def _order(self, order: Mapping[str, Any], channel: int | None = None) -> None:
        """Send an order, with the worker's end of its channel.

        Raises:
            OSError: The server does not take it in time, or not at all.
        """
        assert self._orders is not None  # it is there with the server
        socket.send_fds(
            self._orders, [json.dumps(order).encode()], [channel] if channel is not None else []
        )

    def _spawn(self, name: str) -> Process:
        argv = [
            sys.executable,
            "-P",
            "-m",
            "worker.process.worker",
            name,
            self._pool,
            self._pattern,
        ]
        with signals.held():
            return subprocess.Popen(
                pdeathsig.command(argv, signal.SIGTERM),
                stdin=subprocess.DEVNULL,
                env=self._environ,
                cwd=self.folder,
                process_group=0,  # a Ctrl-C at the terminal reaches the pool, and it drains them
            )

    def _discard(self, why: str) -> None:
        """Kill the server; another one is started after the backoff."""
        if self._server is None:
            return
        self._close(self._server)
        self._start_at = self._clock() + self._delay_s
        again = f"another one is started in {self._delay_s:g} s" if self._is_fit else "for good"
        _log.warning("workers are started without the fork server: %s; %s", why, again)
        self._delay_s = min(_LAST_DELAY_S, self._delay_s * 2)

    def _close(self, server: subprocess.Popen[bytes]) -> None:
        server.kill()  # it holds nothing that it could lose, and may be hung
        server.wait()
        if self._orders is not None:
            with contextlib.suppress(OSError):
                self._orders.close()
        self._server = self._orders = self._importing_until = None
