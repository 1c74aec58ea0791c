"""Buffers the metrics of a batch in memory; the script that ends the batch writes them."""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from typing import NamedTuple

from yard.cluster import metrics, version_labels
from yard.contract import ModelRef


class MetricsBuffer:
    """Counts and observations of one version; a buffer of an unversioned queue counts nothing.

    Args:
        ref: The version that labels all of them; None for an unversioned queue.
    """

    def __init__(self, ref: ModelRef | None = None) -> None:
        self._ref = ref
        self._amounts: dict[str, float] = {}

    def count(self, name: str, label: str, value: str) -> None:
        """Add one to a counter that has one label beside the version's."""
        if self._ref is not None:
            self._add(_counter(self._ref, name, label, value), 1)

    def observe(self, name: str, value: float) -> None:
        """Add an observation to a histogram."""
        if self._ref is not None:
            fields = _histogram(self._ref, name)
            self._add(fields.buckets[bisect_left(fields.bounds, value)], 1)
            self._add(fields.number, 1)
            self._add(fields.total, value)

    def items(self) -> list[tuple[str, float]]:
        """Return fields of the metrics hash, each with the amount to add."""
        return list(self._amounts.items())

    def _add(self, field: str, amount: float) -> None:
        self._amounts[field] = self._amounts.get(field, 0) + amount


class _Histogram(NamedTuple):
    """The fields of a histogram; the last of the buckets is beyond all bounds."""

    bounds: tuple[float, ...]
    buckets: tuple[str, ...]
    number: str
    total: str


# Cached: building a batch's field names takes as long as predicting one row.


@lru_cache(maxsize=4096)
def _counter(ref: ModelRef, name: str, label: str, value: str) -> str:
    return metrics.field(name, version_labels(ref) | {label: value})


@lru_cache(maxsize=4096)
def _histogram(ref: ModelRef, name: str) -> _Histogram:
    labels, bounds = version_labels(ref), metrics.METRIC_DEFINITIONS[name].bounds
    ends = [*map(str, bounds), "+Inf"]
    return _Histogram(
        bounds,
        tuple(metrics.field(f"{name}_bucket", labels, le) for le in ends),
        metrics.field(f"{name}_count", labels),
        metrics.field(f"{name}_sum", labels),
    )
