"""The running cluster: pools and workers that are alive, work that waits, crashes, metrics."""

from yard.cluster import metrics
from yard.cluster.capacity import (
    KEEP_HEADROOM,
    Bounds,
    Pace,
    Work,
    has_long_batches,
    seconds_of_work,
    workers_wanted,
)
from yard.cluster.crash_loops import (
    LOOP_CRASHES,
    CrashLoop,
    count_crash,
    held_back_queues,
    read_crash_loops,
    record_crash,
)
from yard.cluster.format_version import format_problem, settle_format
from yard.cluster.key_types import read_mistyped_keys
from yard.cluster.metrics import (
    METRIC_DEFINITIONS,
    MetricDefinition,
    Series,
    parse_metric_field,
    version_labels,
)
from yard.cluster.presence import (
    WORKER_STATES,
    PoolInfo,
    Presence,
    announce_presence,
    read_presence,
    why_no_pool_works,
    withdraw_worker,
)
from yard.cluster.workload import (
    announced_arrivals_s,
    announced_start_s,
    believed_wait_s,
    read_waiting_since_s,
    read_waits_s,
    read_workload,
    write_paces,
)

__all__ = [
    "KEEP_HEADROOM",
    "LOOP_CRASHES",
    "METRIC_DEFINITIONS",
    "WORKER_STATES",
    "Bounds",
    "CrashLoop",
    "MetricDefinition",
    "Pace",
    "PoolInfo",
    "Presence",
    "Series",
    "Work",
    "announce_presence",
    "announced_arrivals_s",
    "announced_start_s",
    "believed_wait_s",
    "count_crash",
    "format_problem",
    "has_long_batches",
    "held_back_queues",
    "metrics",
    "parse_metric_field",
    "read_crash_loops",
    "read_mistyped_keys",
    "read_presence",
    "read_waiting_since_s",
    "read_waits_s",
    "read_workload",
    "record_crash",
    "seconds_of_work",
    "settle_format",
    "version_labels",
    "why_no_pool_works",
    "withdraw_worker",
    "workers_wanted",
    "write_paces",
]
