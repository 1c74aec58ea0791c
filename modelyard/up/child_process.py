"""Child processes of `modelyard up`: commands of ours that it starts, watches and stops.

Each child leads a process group of its own, so that a Ctrl-C at the terminal reaches the parent
alone and the parent chooses the order of stopping. The kernel sends it a SIGTERM when the parent
dies.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from yard.platform import pdeathsig, signals

#: Bytes of a log above which a start renames it (one is kept) and begins a new one.
_LOG_BYTES = 16 * 2**20

#: Exponential backoff between restarts: first and longest delay.
FIRST_DELAY_S, LAST_DELAY_S = 0.5, 10.0

#: Seconds of running after which a child has recovered: the backoff begins again.
_RECOVERED_S = 30.0


class Child:
    """One command and its restarts, each a new process.

    Args:
        arguments: The command and its options, without the program.
        environ: Its environment, see `yard.platform.environment.child_environment`.
        keeps: Descriptors that it inherits, so that they stay open while it lives.

    Attributes:
        name: The command, for messages: ``gateway``.
        log: The file that it appends to.
        restart_at: Monotonic time of the planned restart, in seconds, or None.
    """

    def __init__(
        self,
        name: str,
        arguments: list[str],
        environ: Mapping[str, str],
        log: Path,
        keeps: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.log = log
        self.restart_at: float | None = None
        # -P: a folder `models` or `worker` in the current folder is not ours.
        self._argv = [sys.executable, "-P", "-m", "modelyard.cli", *arguments]
        self._environ = environ
        self._keeps = keeps
        self._process: subprocess.Popen[bytes] | None = None
        self._is_swept = False
        self._started_at = 0.0
        self._delay_s = FIRST_DELAY_S

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs or before it is started."""
        return self._process.poll() if self._process else None

    @property
    def is_running(self) -> bool:
        """True while there is a process."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process; only from the main thread, whose end would end the child."""
        self.restart_at, self._is_swept = None, False
        self._started_at = time.monotonic()
        _set_aside(self.log)
        with self.log.open("ab") as log, signals.held():
            self._process = subprocess.Popen(
                pdeathsig.command(self._argv, signal.SIGTERM),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environ,
                pass_fds=self._keeps,
                process_group=0,
            )

    def plan_restart(self) -> float:
        """Schedule the restart of a child that died; returns the delay in seconds."""
        self.sweep(signal.SIGTERM)
        now = time.monotonic()
        if now - self._started_at > _RECOVERED_S:
            self._delay_s = FIRST_DELAY_S
        delay_s, self._delay_s = self._delay_s, min(self._delay_s * 2, LAST_DELAY_S)
        self.restart_at = now + delay_s
        return delay_s

    def sweep(self, number: signal.Signals) -> None:
        """Signal the processes that an ended child left in its group; only once.

        Later, the id may be that of another group.
        """
        if self._process is not None and not self.is_running and not self._is_swept:
            self._is_swept = True
            _signal_group(self._process.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM to the child alone: it drains, and stops its own children."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """Kill the child and all its descendants at once."""
        if self._process is None or not self.is_running:
            return
        below = list(descendants(self._process.pid))
        _signal_group(self._process.pid, signal.SIGKILL)
        for pid in below:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._is_swept = True


def descendants(pid: int) -> Iterator[int]:
    """Descendants of ``pid``, children before grandchildren; none without ``/proc``."""
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            below = [int(child) for child in listing.read_text().split()]
        except OSError:
            continue
        yield from below
        for child in below:
            yield from descendants(child)


def _signal_group(leader: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def _set_aside(log: Path) -> None:
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
