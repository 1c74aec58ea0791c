"""Worker processes as their pool holds them, spawned or forked.

A spawned worker is a `subprocess.Popen`. A forked one is the child of a go-between that has ended;
the kernel gives it to the nearest ancestor that asked for orphans (``prctl(2)``,
``PR_SET_CHILD_SUBREAPER``): the pool, which gets SIGCHLD and its exit status as of any other child.
The pool also gets the processes that workers and models leave behind, and must collect them.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection
from typing import Protocol

from yard.platform import prctl

#: Bytes of a message between a pool and its fork server, at most.
MOST_BYTES = 4096

#: The message that a forked worker waits for before it begins.
GO = b"!"

#: The status of a child that was collected elsewhere, so that its own is not known.
_UNKNOWN = 255

#: Time limit of a new worker for becoming its pool's child, in seconds.
_TIED_S = 5.0


class Process(Protocol):
    """The part of `subprocess.Popen` that the pool uses of a worker's process."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""

    def wait(self) -> int:
        """Wait until it has ended and return the exit status."""

    def terminate(self) -> None:
        """Send SIGTERM, if it runs."""

    def kill(self) -> None:
        """Send SIGKILL, if it runs."""


class Forked:
    """A child of this process that another process has forked; see `Process`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """See `Process`."""
        return self._collect(os.WNOHANG)

    def wait(self) -> int:
        """See `Process`."""
        status = self._collect(0)
        assert status is not None  # it was waited for
        return status

    def terminate(self) -> None:
        """See `Process`."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """See `Process`."""
        self._signal(signal.SIGKILL)

    def _collect(self, options: int) -> int | None:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, options)
            except ChildProcessError:
                self.returncode = _UNKNOWN
            else:
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def _signal(self, number: signal.Signals) -> None:
        if self.poll() is None:  # it was not collected, so the number is still its own
            os.kill(self.pid, number)


def adopt_orphans() -> bool:
    """Become the parent of descendants' orphans; return whether the system can do that."""
    return prctl.become_subreaper()


def collect_strays(known: Collection[int]) -> None:
    """Collect children that have ended and are not ``known``, mostly models' own processes.

    The owners of the known ones collect them, so that no exit status is lost.
    """
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in known:
            return
        os.waitpid(found.si_pid, 0)


def tie_to(parent: int) -> bool:
    """Wait until this process, whose parent is about to end, is the child of ``parent``.

    From then on it gets a SIGTERM when ``parent`` dies.

    Returns:
        True if it is.
    """
    between, until = os.getppid(), time.monotonic() + _TIED_S
    while os.getppid() == between != parent and time.monotonic() < until:
        time.sleep(0.0002)  # about as long as the go-between takes to exit
    prctl.die_with_parent(signal.SIGTERM)
    return os.getppid() == parent
