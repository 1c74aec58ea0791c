"""One worker process: its loop, heartbeat, watchdog and entries in Redis; under RQ's command."""

from typing import TYPE_CHECKING

from yard.lazy import lazy_names

if TYPE_CHECKING:
    from worker.process.batch_worker import BatchWorker
    from worker.process.registration import unregister

__all__ = [
    "BatchWorker",
    "unregister",
    "worker",
]

__getattr__ = lazy_names(
    __name__,
    {
        "BatchWorker": "worker.process.batch_worker",
        "unregister": "worker.process.registration",
    },
)
