"""Definitions of the job metrics: name, labels, help text, buckets, and their form in Redis.

Workers and the reaper count in one hash, `yard.contract.keys.METRICS`, inside the scripts that end
jobs, so that a count is as durable as the job; the gateway reads the hash when it is scraped. A
field is one number: ``name|label=value|label=value``. A histogram has a field for each bucket,
``name_bucket|...|le=0.005``, which counts only values between the bound before and its own (a
worker adds to one field, the gateway sums them up), and ``name_sum`` and ``name_count``.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from yard.contract import ModelRef

#: Upper bounds of buckets of seconds, from a bare predict to a job's timeout.
SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
    0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
#: Upper bounds of buckets of jobs in a batch; the last is the largest that a setting allows.
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

_VERSION = ("model", "model_version")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    """One metric that workers keep in Redis.

    Attributes:
        name: As Prometheus shows it; a histogram's fields add ``_bucket``, ``_sum`` and ``_count``.
        kind: Counter or histogram.
        help: One sentence for people.
        labels: Names of its labels, in the order of a field.
        bounds: Upper bounds of a histogram's buckets, rising; beyond the last is ``+Inf``.
    """

    name: str
    kind: Literal["counter", "histogram"]
    help: str
    labels: tuple[str, ...] = _VERSION
    bounds: tuple[float, ...] = ()


METRIC_DEFINITIONS: Mapping[str, MetricDefinition] = {
    metric.name: metric
    for metric in (
        MetricDefinition(
            "model_prediction_requests_total",
            "counter",
            "Jobs that a worker ended, by how: finished or failed.",
            (*_VERSION, "status"),
        ),
        MetricDefinition(
            "model_prediction_errors_total",
            "counter",
            "Jobs that failed, by the code of their error.",
            (*_VERSION, "error_type"),
        ),
        MetricDefinition(
            "model_inference_latency_seconds",
            "histogram",
            "How long one predict of a batch took.",
            bounds=SECONDS,
        ),
        MetricDefinition(
            "model_load_time_seconds",
            "histogram",
            "How long a worker took to load a version.",
            bounds=SECONDS,
        ),
        MetricDefinition(
            "queue_wait_seconds",
            "histogram",
            "How long jobs waited in the queue before a worker claimed them.",
            bounds=SECONDS,
        ),
        MetricDefinition("batch_size", "histogram", "Jobs that one predict served.", bounds=SIZES),
        MetricDefinition(
            "jobs_reaped_total",
            "counter",
            "Jobs that were taken back from a worker that died or went silent.",
        ),
        MetricDefinition(
            "worker_crashes_total", "counter", "Workers that died with a batch in hand."
        ),
        MetricDefinition(
            "jobs_quarantined_total",
            "counter",
            "Entries of a queue that were set aside because they are no job.",
            labels=(),
        ),
    )
}


def version_labels(ref: ModelRef) -> dict[str, str]:
    """Returns the labels of a version."""
    return {"model": ref.model, "model_version": ref.version}


def field(name: str, labels: Mapping[str, str], le: str | None = None) -> str:
    """Returns the hash field of one series.

    Args:
        name: A counter's name, or a histogram's with ``_bucket``, ``_sum`` or ``_count``.
        labels: Every label of the metric; the order does not matter.
        le: The bucket's upper bound as `bucket` gives it, only with ``_bucket``.
    """
    parts = [name, *(f"{label}={labels[label]}" for label in _metric_of(name).labels)]
    return "|".join(parts if le is None else [*parts, f"le={le}"])


def bucket(metric: MetricDefinition, value: float) -> str:
    """Returns the upper bound of a value's bucket, as text: ``0.005``, ``64.0``, ``+Inf``."""
    place = bisect_left(metric.bounds, value)
    return str(metric.bounds[place]) if place < len(metric.bounds) else "+Inf"


def observation(name: str, labels: Mapping[str, str], value: float) -> dict[str, float]:
    """Returns the increments that one observed ``value`` makes, by hash field of a histogram."""
    return {
        field(f"{name}_bucket", labels, bucket(METRIC_DEFINITIONS[name], value)): 1,
        field(f"{name}_sum", labels): value,
        field(f"{name}_count", labels): 1,
    }


@dataclass(frozen=True, slots=True)
class Series:
    """A hash field, parsed.

    Attributes:
        metric: Its metric.
        part: The histogram's part that it counts; ``total`` for a counter.
        labels: Every label of the metric.
        le: The upper bound, of a bucket only.
    """

    metric: MetricDefinition
    part: Literal["total", "bucket", "sum", "count"]
    labels: Mapping[str, str]
    le: str | None = None


def parse_metric_field(text: str) -> Series | None:
    """Parses a hash field; None if `field` does not write such a one."""
    name, *pairs = text.split("|")
    labels = {label: value for label, _, value in (pair.partition("=") for pair in pairs)}
    le = labels.pop("le", None)
    metric, part = _parse_name(name)
    if (
        metric is None
        or labels.keys() != set(metric.labels)
        or len(pairs) != len(labels) + bool(le)
    ):
        return None
    if not all(map(_LABEL_VALUE.fullmatch, labels.values())):
        return None
    if (le is not None) != (part == "bucket"):
        return None
    if le is not None and le not in (*map(str, metric.bounds), "+Inf"):
        return None
    return Series(metric, part, labels, le)


def _parse_name(
    name: str,
) -> tuple[MetricDefinition | None, Literal["total", "bucket", "sum", "count"]]:
    found = METRIC_DEFINITIONS.get(name)
    if found is not None and found.kind == "counter":
        return found, "total"
    base, _, part = name.rpartition("_")
    found = METRIC_DEFINITIONS.get(base)
    if found is not None and found.kind == "histogram":
        match part:
            case "bucket" | "sum" | "count":
                return found, part
    return None, "total"


def _metric_of(name: str) -> MetricDefinition:
    metric, _ = _parse_name(name)
    if metric is None:
        raise KeyError(f"no metric has a field {name!r}")
    return metric
