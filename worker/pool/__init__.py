"""The supervisor of the workers of one machine: start, monitor, scale, stop."""

from typing import TYPE_CHECKING

from yard.lazy import lazy_names

if TYPE_CHECKING:
    from worker.pool.supervisor import Pool

__all__ = [
    "Pool",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Pool": "worker.pool.supervisor",
    },
)
