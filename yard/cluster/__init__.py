"""The running cluster: which pools and workers live, what waits, what crashed."""

from yard.cluster import metrics
from yard.cluster.capacity import KEEP, Bounds, Pace, Work, is_long, seconds_of_work, wanted
from yard.cluster.crash_loops import (
    LOOP,
    CrashLoop,
    count_crash,
    held_back,
    note_crash,
    read_crash_loops,
)
from yard.cluster.format_version import format_problem, settle_format
from yard.cluster.metrics import DEFINITIONS, MetricDefinition, Series, labels_of, parse_field
from yard.cluster.presence import (
    WORKER_STATES,
    PoolInfo,
    Presence,
    announce,
    read_presence,
    why_none_looks,
    withdraw_worker,
)
from yard.cluster.workload import (
    announced_arrivals_s,
    announced_start_s,
    read_workload,
    waits_s,
    write_paces,
)

__all__ = [
    "DEFINITIONS",
    "KEEP",
    "LOOP",
    "WORKER_STATES",
    "Bounds",
    "CrashLoop",
    "MetricDefinition",
    "Pace",
    "PoolInfo",
    "Presence",
    "Series",
    "Work",
    "announce",
    "announced_arrivals_s",
    "announced_start_s",
    "count_crash",
    "format_problem",
    "held_back",
    "is_long",
    "labels_of",
    "metrics",
    "note_crash",
    "parse_field",
    "read_crash_loops",
    "read_presence",
    "read_workload",
    "seconds_of_work",
    "settle_format",
    "waits_s",
    "wanted",
    "why_none_looks",
    "withdraw_worker",
    "write_paces",
]
