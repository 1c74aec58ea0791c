"""Thread pools of BLAS and OpenMP, held to one thread: one core a worker.

Workers are processes, as many as there are cores, so pools of their own would only compete; at 64
rows they cost more than they save anyway. An operator who sets ``OMP_NUM_THREADS`` decides instead:
the libraries read it themselves, and nothing is done here.
"""

from __future__ import annotations

import os
import threading

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]  # ships none

_lock = threading.Lock()
_known: ThreadpoolController | None = None
_scans = 0
_held = threading.local()


def scan() -> None:
    """Records the pools of the libraries that are loaded by now; about 3 ms."""
    global _known, _scans
    if "OMP_NUM_THREADS" in os.environ:
        return
    controller = ThreadpoolController()
    with _lock:
        _known, _scans = controller, _scans + 1


def hold() -> None:
    """Holds the pools to one thread, for this process (BLAS) and for the calling thread (OpenMP).

    OpenMP keeps the number for each thread of its own, so each thread that predicts calls this; a
    repeated call costs 0.1 us.
    """
    if getattr(_held, "scans", 0) == _scans:
        return
    with _lock:
        if _known is not None:
            _known.limit(limits=1)
        _held.scans = _scans
