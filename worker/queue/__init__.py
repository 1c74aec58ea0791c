"""The batch protocol: claim, lease, prefetch, finish, recover; and the order of the queues."""

from worker.queue.due import OrphanCollector, enqueue_due
from worker.queue.lease import MOST_TIMEOUT_S, Batch, Claimed, EndedBatch, Lease, Suspended
from worker.queue.outcomes import EndedJob
from worker.queue.prefetch import Prefetcher
from worker.queue.reconnect import (
    OUTAGE,
    UNREACHABLE,
    GaveUp,
    Retry,
    backoff,
    describe_outage,
    retry_until_up,
)
from worker.queue.recovery import Reaped, Reason, reap, sweep
from worker.queue.scheduler import QueueScheduler, keep_off

__all__ = [
    "MOST_TIMEOUT_S",
    "OUTAGE",
    "UNREACHABLE",
    "Batch",
    "Claimed",
    "EndedBatch",
    "EndedJob",
    "GaveUp",
    "Lease",
    "OrphanCollector",
    "Prefetcher",
    "QueueScheduler",
    "Reaped",
    "Reason",
    "Retry",
    "Suspended",
    "backoff",
    "describe_outage",
    "enqueue_due",
    "keep_off",
    "reap",
    "retry_until_up",
    "sweep",
]
