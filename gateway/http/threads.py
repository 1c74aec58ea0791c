"""Threads beside the event loop: for Flask's views, and for what would hold the loop up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

R = TypeVar("R")

#: JSON of up to so many bytes is read and checked in a millisecond or less: a thread costs more.
#: Bodies of up to this come in without being counted.
SMALL_BYTES = 65_536

#: Large bodies and results that are worked on at once; they share one lock of the interpreter's.
_ASIDE = 4


class Threads:
    """The threads of one gateway process; started as they are needed.

    Args:
        views: Flask's views that may run at once.
    """

    def __init__(self, views: int) -> None:
        self.views = ThreadPoolExecutor(views, "view")
        self._aside = ThreadPoolExecutor(_ASIDE, "aside")

    async def aside(self, size_bytes: int, work: Callable[..., R], *arguments: object) -> R:
        """What ``work`` gives: at once for a small piece, in a thread for a large one."""
        if size_bytes <= SMALL_BYTES:
            return work(*arguments)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._aside, work, *arguments)

    def close(self) -> None:
        """End them, after what they are at."""
        self.views.shutdown()
        self._aside.shutdown()
