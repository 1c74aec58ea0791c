"""Workers: claim a batch, predict once, finish; and the pool that keeps workers running."""

from typing import TYPE_CHECKING

from yard.lazy import lazy_names

if TYPE_CHECKING:
    from worker.process import BatchWorker

__all__ = [
    "BatchWorker",
]

__getattr__ = lazy_names(
    __name__,
    {
        "BatchWorker": "worker.process",
    },
)
