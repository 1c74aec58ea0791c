"""Threads beside the event loop: for views of Flask, and for work that would block the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

R = TypeVar("R")

#: JSON of up to this size is read and checked in a millisecond or less: a thread costs more.
#: Bodies of up to this size come in without being counted.
SMALL_BYTES = 65_536

#: Large bodies and results that are processed at once; their threads share the interpreter's lock.
_LARGE = 4


class Threads:
    """The threads of one gateway process; they start when they are needed.

    Args:
        views: Views of Flask that may run at once.
    """

    def __init__(self, views: int) -> None:
        self.views = ThreadPoolExecutor(views, "view")
        self._large = ThreadPoolExecutor(_LARGE, "large")

    async def run(self, size_bytes: int, work: Callable[..., R], *arguments: object) -> R:
        """Returns what ``work`` returns; runs it in a thread if the input is large."""
        if size_bytes <= SMALL_BYTES:
            return work(*arguments)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._large, work, *arguments)

    def close(self) -> None:
        """Ends the threads when their work is done."""
        self.views.shutdown()
        self._large.shutdown()
