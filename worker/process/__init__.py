"""One worker process: its loop, heartbeat, watchdog, retry and entries in Redis."""

from typing import TYPE_CHECKING

from yard.lazy import lazy_names

if TYPE_CHECKING:
    from worker.process.registration import unregister

__all__ = [
    "unregister",
    "worker",
]

__getattr__ = lazy_names(
    __name__,
    {
        "unregister": "worker.process.registration",
    },
)
