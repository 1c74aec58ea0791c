"""Child processes that are commands of ours: started tied, watched, stopped with all they started.

Each child is the leader of a process group, so that a Ctrl-C at the terminal reaches the parent
alone and the parent chooses the order; and it gets a SIGTERM when the parent dies, however that
happens.
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

#: A log that is longer than this at a start is set aside (one is kept) and begun anew.
_LOG_BYTES = 16 * 2**20

#: Waits before a child that died is started again: from the first, doubled each time, to the last.
FIRST_DELAY_S, LAST_DELAY_S = 0.5, 10.0

#: A child that has run for this long has recovered: its next death is a first one again.
_RECOVERED_S = 30.0


class Child:
    """One command, through all the processes that it takes.

    Args:
        arguments: The command and its options, without the program.
        environ: Its environment, see `yard.platform.environment.child_environment`.
        keeps: Descriptors that it holds open as long as it lives.

    Attributes:
        name: The command, for messages: ``gateway``.
        log: The file that it appends to.
        restart_at: When it is to be started again (monotonic seconds), or None.
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
        # -P: a folder `models` or `worker` where the user stands is not ours.
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
        """Whether there is a process."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, from the main thread."""
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
        """Choose when to start it again, having died; the wait in seconds."""
        self.sweep(signal.SIGTERM)
        now = time.monotonic()
        if now - self._started_at > _RECOVERED_S:
            self._delay_s = FIRST_DELAY_S
        delay_s, self._delay_s = self._delay_s, min(self._delay_s * 2, LAST_DELAY_S)
        self.restart_at = now + delay_s
        return delay_s

    def sweep(self, number: signal.Signals) -> None:
        """Signal what a child that has just ended left in its group; only once.

        Later, the number may be that of another group.
        """
        if self._process is not None and not self.is_running and not self._is_swept:
            self._is_swept = True
            _signal_group(self._process.pid, number)

    def terminate(self) -> None:
        """Ask the child, and not those that it answers for, to drain."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """Kill it, and everything that it started, at once."""
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
    """The processes below ``pid``, those nearest first; none where the kernel does not tell."""
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
