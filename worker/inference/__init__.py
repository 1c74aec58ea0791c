"""From a claimed batch to its outcomes: load, check, stack, predict, measure."""

from typing import TYPE_CHECKING

from yard.lazy import lazy_names

if TYPE_CHECKING:
    from worker.inference.batching import check, run
    from worker.inference.executor import BatchExecutor, BatchResult
    from worker.inference.loader import Loader
    from worker.inference.memory import cache_limit_bytes, used_bytes, worker_limit_bytes
    from worker.inference.throughput import ServiceTimes
    from worker.inference.warmup import Warmer

__all__ = [
    "BatchExecutor",
    "BatchResult",
    "Loader",
    "ServiceTimes",
    "Warmer",
    "cache_limit_bytes",
    "check",
    "run",
    "used_bytes",
    "worker_limit_bytes",
]

__getattr__ = lazy_names(
    __name__,
    {
        "BatchExecutor": "worker.inference.executor",
        "BatchResult": "worker.inference.executor",
        "Loader": "worker.inference.loader",
        "ServiceTimes": "worker.inference.throughput",
        "Warmer": "worker.inference.warmup",
        "cache_limit_bytes": "worker.inference.memory",
        "check": "worker.inference.batching",
        "run": "worker.inference.batching",
        "used_bytes": "worker.inference.memory",
        "worker_limit_bytes": "worker.inference.memory",
    },
)
