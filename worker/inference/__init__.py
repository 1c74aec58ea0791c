"""From a claimed batch to its outcomes: load, check, stack, predict, observe."""

from typing import TYPE_CHECKING

from yard.lazy import lazy_names

if TYPE_CHECKING:
    from worker.inference.batching import check, predict_members
    from worker.inference.executor import BatchExecutor
    from worker.inference.loader import Loader
    from worker.inference.memory import cache_limit_bytes, used_bytes, worker_limit_bytes
    from worker.inference.observers import BatchObserver, MetricsObserver
    from worker.inference.results import BatchResult
    from worker.inference.throughput import ServiceTimes
    from worker.inference.warmup import Warmer

__all__ = [
    "BatchExecutor",
    "BatchObserver",
    "BatchResult",
    "Loader",
    "MetricsObserver",
    "ServiceTimes",
    "Warmer",
    "cache_limit_bytes",
    "check",
    "predict_members",
    "used_bytes",
    "worker_limit_bytes",
]

__getattr__ = lazy_names(
    __name__,
    {
        "BatchExecutor": "worker.inference.executor",
        "BatchObserver": "worker.inference.observers",
        "BatchResult": "worker.inference.results",
        "Loader": "worker.inference.loader",
        "MetricsObserver": "worker.inference.observers",
        "ServiceTimes": "worker.inference.throughput",
        "Warmer": "worker.inference.warmup",
        "cache_limit_bytes": "worker.inference.memory",
        "check": "worker.inference.batching",
        "predict_members": "worker.inference.batching",
        "used_bytes": "worker.inference.memory",
        "worker_limit_bytes": "worker.inference.memory",
    },
)
