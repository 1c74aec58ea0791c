"""Estimators that echo, or misbehave on certain numbers as faulty models do.

They are published like any other model, so they live in a module that worker processes can import.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin

RAISE = 424201.0
HANG = 424202.0
EXIT_0 = 424203.0
EXIT_1 = 424204.0
SEGFAULT = 424205.0
SYS_EXIT = 424206.0
ABORT = 424207.0
LEAK = 424208.0
SLOW = 424209.0
HOLD = 424210.0
HOLD_FOR_EVER = 424211.0
KILL_GROUP = 424212.0
OUT_OF_MEMORY = 424213.0
KILLED_FOR_MEMORY = 424214.0
DRAW = 424215.0
ORPHAN = 424216.0
STUBBORN = 424217.0

#: Seconds that a batch with `SLOW` takes; long enough to hit its worker meanwhile.
SLOW_S = 1.0
#: Seconds for which a batch with `HOLD` keeps Python's lock, as some C code does, so that no other
#: thread of its worker runs.
HOLD_S = 4
#: Bytes that a batch with `LEAK` leaves behind.
LEAK_BYTES = 30 * 2**20

_leaked: list[bytearray] = []


class Echo(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Predicts its first column.

    Args:
        journal: A file that gets a line for each number of a batch, before it is predicted; rows
            that the runtime adds to fill a batch up repeat one of its own.
        pace_s: Seconds that each predict takes.
    """

    def __init__(self, journal: str | None = None, pace_s: float = 0.0) -> None:
        self.journal = journal
        self.pace_s = pace_s

    def fit(self, X: Any, y: Any = None) -> Echo:
        self.n_features_in_ = np.asarray(X).shape[1]
        return self

    def predict(self, X: Any) -> Any:
        numbers = np.asarray(X, dtype=float)[:, 0]
        if self.journal:
            lines = "".join(f"{number:.10g}\n" for number in dict.fromkeys(numbers))
            # The process that opens it while it is published may not write; workers may.
            with contextlib.suppress(PermissionError), Path(self.journal).open("a") as journal:
                journal.write(lines)
        for number in sorted(set(numbers)):
            _misbehave(float(number))
        if self.pace_s:
            time.sleep(self.pace_s)
        return np.asarray([_answer(float(number)) for number in numbers])


def _answer(number: float) -> float:
    """The number; or a random one of NumPy's, or the id of a process that is left behind."""
    if number == DRAW:
        return float(np.random.random())
    if number == ORPHAN:
        script = "sleep 300 >/dev/null 2>&1 & echo $!"
        ran = subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, check=True)
        return float(ran.stdout)
    return number


def _misbehave(number: float) -> None:
    if number == RAISE:
        raise ValueError("a row that raises")
    if number == HANG:
        while True:
            time.sleep(3600)
    if number == STUBBORN:
        with contextlib.suppress(Exception):
            time.sleep(3600)
        while True:
            time.sleep(3600)
    if number == EXIT_0:
        os._exit(0)
    if number == EXIT_1:
        os._exit(1)
    if number == SEGFAULT:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == SYS_EXIT:
        sys.exit("a model that exits")
    if number == ABORT:
        os.abort()
    if number == KILL_GROUP:
        os.killpg(0, signal.SIGKILL)
    if number == OUT_OF_MEMORY:
        _exhaust()
    if number == KILLED_FOR_MEMORY:  # as the kernel does it
        os.kill(os.getpid(), signal.SIGKILL)
    if number == LEAK:
        _leaked.append(bytearray(b"x" * LEAK_BYTES))
    if number == SLOW:
        time.sleep(SLOW_S)
    if number == HOLD:
        ctypes.PyDLL(None).sleep(HOLD_S)
    if number == HOLD_FOR_EVER:
        re.match("(a+)+$", "a" * 60 + "b")


def _exhaust() -> None:
    """Asks for more memory than the process may have."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**33, before[1]))
    try:
        np.zeros(2**34, dtype=np.uint8)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


class Obedient(Echo):
    """Follows the orders in a file each time that it is opened, and writes a line about it.

    Args:
        orders: A file that may hold a word and a number: ``sleep 2`` takes two seconds to open,
            ``raise 0`` does not open, ``kill 0`` ends the process.
        loads: A file that gets a line for each opening, the process' id; nothing is done without.
    """

    def __init__(self, orders: str, loads: str) -> None:
        super().__init__()
        self.orders = orders
        self.loads = loads

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        if not Path(self.loads).exists():  # it is being published, where nothing can be written
            return
        with Path(self.loads).open("a") as loads:
            loads.write(f"{os.getpid()}\n")
        orders = Path(self.orders)
        word, number = orders.read_text().split() if orders.exists() else ("", "0")
        if word == "sleep":
            time.sleep(float(number))
        elif word == "raise":
            raise RuntimeError("it was told not to load")
        elif word == "kill":
            os.kill(os.getpid(), signal.SIGKILL)


class Doubling(Echo):
    """Predicts twice its first column."""

    def predict(self, X: Any) -> Any:
        return 2 * super().predict(X)


class Paced(Echo):
    """Takes time for each row, as long as a file holds a number of seconds.

    Args:
        pace: The file.
    """

    def __init__(self, pace: str = "", journal: str | None = None, pace_s: float = 0.0) -> None:
        super().__init__(journal, pace_s)
        self.pace = pace

    def predict(self, X: Any) -> Any:
        if Path(self.pace).exists():
            time.sleep(float(Path(self.pace).read_text()) * len(X))
        return super().predict(X)


class PacedAlone(Paced):
    """Gives a row other answers beside others, so that it is predicted job by job."""

    def predict(self, X: Any) -> Any:
        return super().predict(X) + 0.5 * (len(X) - 1)


class DiesOnLoad(Echo):
    """Ends the process that opens it, as long as a file is there.

    Args:
        trap: The file.
    """

    def __init__(self, trap: str = "", journal: str | None = None, pace_s: float = 0.0) -> None:
        super().__init__(journal, pace_s)
        self.trap = trap

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        if Path(self.trap).exists():
            os._exit(1)


class Unloadable(Echo):
    """Cannot be opened again."""

    def __setstate__(self, state: Any) -> None:
        raise RuntimeError("this model does not load")
