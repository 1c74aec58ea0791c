"""Processes that read large bodies: no request may hold this process' lock of Python for long.

Parsing and checking 6 MB of JSON holds the lock of the interpreter for a tenth of a second, and two
seconds if the JSON is made for it; all other requests stand still meanwhile, threads or not. So a
large body goes to another process as bytes. That parses it, checks it and queues the job by its own
client, and only the job's handle comes back. Small bodies (`gateway.http.SMALL_BYTES`) are read in
a millisecond here.

The processes start with the first large body and end with this one.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from producer.client import Client
from yard.errors import Unavailable
from yard.platform import logs, prctl
from yard.settings import Settings

R = TypeVar("R")

#: One more than one, so that a body which takes a second does not hold up the next.
_PROCESSES = 2
#: Bodies that may wait for a process or be in one: with the bound of 8 MiB they have 256 MiB.
_MOST_BODIES = 32


class BodyProcesses:
    """Runs functions with a client of their own in other processes.

    Args:
        settings: Of the clients.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool: ProcessPoolExecutor | None = None
        self._count = 0

    async def run(self, work: Callable[..., R], *arguments: object) -> R:
        """Returns what ``work`` returns, called with a client and ``arguments``.

        Args:
            work: A function of a module; what it takes and returns crosses processes.
            arguments: Behind the client.

        Raises:
            Unavailable: Too many bodies wait; nothing was done.
            BrokenProcessPool: The process has died, and may have done its work.
            Exception: As ``work`` raises.
        """
        if self._count >= _MOST_BODIES:
            raise Unavailable("too many large bodies wait to be read")
        self._count += 1
        pool = self._pool = self._pool or _new_pool(self._settings)
        try:
            return await asyncio.wrap_future(pool.submit(_run, work, arguments))
        except BrokenProcessPool:
            if self._pool is pool:
                self._pool = None
            raise
        finally:
            self._count -= 1

    def close(self) -> None:
        """Ends the processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _new_pool(settings: Settings) -> ProcessPoolExecutor:
    # Not forked: this process has threads.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(
        _PROCESSES, context, initializer=_start, initargs=(settings.environ(), os.getpid())
    )


_client: Client


def _start(environ: dict[str, str], parent: int) -> None:
    """Prepares a process; its parent decides when it ends."""
    global _client
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prctl.die_with_parent(signal.SIGKILL)
    os.nice(5)  # the event loop goes first
    if os.getppid() != parent:  # it died before the request was made: no signal will come
        os._exit(1)
    settings = Settings.load(environ)
    logs.configure(settings)
    _client = Client(settings=settings)


def _run(work: Callable[..., R], arguments: tuple[object, ...]) -> R:
    gc.disable()  # a parsed body has millions of objects and no circles: collections find nothing
    try:
        return work(_client, *arguments)
    finally:
        gc.enable()
