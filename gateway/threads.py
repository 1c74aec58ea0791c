"""How the threads of one process are shared out, so that slow clients cannot take all of them."""

from __future__ import annotations

from dataclasses import dataclass

from producer.settings import Settings


@dataclass(frozen=True, slots=True)
class Threads:
    """The threads of one gateway process.

    Attributes:
        total: All of them.
        waits: Those that may wait for a job at once.
        readers: Those that may read a body at once; a client that sends slowly holds one.
    """

    total: int
    waits: int
    readers: int

    @classmethod
    def of(cls, settings: Settings) -> Threads:
        """``gateway_threads``, a quarter of them never waiting, and the readers on top."""
        readers = max(2, settings.gateway_threads // 2)
        waits = min(settings.gateway_waits, settings.gateway_threads * 3 // 4)
        return cls(settings.gateway_threads + readers, waits, readers)
