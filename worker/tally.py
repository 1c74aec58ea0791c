"""What a batch adds to the metrics, gathered in memory and written by the script that ends it."""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from typing import NamedTuple

from redis import Redis

from yard.broker.lua import Script
from yard.cluster import metrics
from yard.cluster.crash_loops import LOOP
from yard.contract import keys
from yard.contract.values import ModelRef

#: From this many deaths in a row on a version is held back for so long, doubled for each further,
#: in seconds.
_FIRST_HOLD_S, _LAST_HOLD_S = 0.5, 30.0

_CRASHED = Script("worker", "crashed")


class Tally:
    """Counts and observations of one version; of none for a front door, which counts nothing.

    Args:
        ref: The version that all of them are labelled with.
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
        """Fields of the metrics hash, and what to add to each."""
        return list(self._amounts.items())

    def _add(self, field: str, amount: float) -> None:
        self._amounts[field] = self._amounts.get(field, 0) + amount


class _Histogram(NamedTuple):
    """The fields of a histogram; the last of the buckets is beyond all bounds."""

    bounds: tuple[float, ...]
    buckets: tuple[str, ...]
    number: str
    total: str


# To spell a batch's fields anew would take as long as to predict one row.


@lru_cache(maxsize=4096)
def _counter(ref: ModelRef, name: str, label: str, value: str) -> str:
    return metrics.field(name, labels_of(ref) | {label: value})


@lru_cache(maxsize=4096)
def _histogram(ref: ModelRef, name: str) -> _Histogram:
    labels, bounds = labels_of(ref), metrics.MEASURES[name].bounds
    ends = [*map(str, bounds), "+Inf"]
    return _Histogram(
        bounds,
        tuple(metrics.field(f"{name}_bucket", labels, le) for le in ends),
        metrics.field(f"{name}_count", labels),
        metrics.field(f"{name}_sum", labels),
    )


def labels_of(ref: ModelRef) -> dict[str, str]:
    """The labels of a version."""
    return {"model": ref.model, "model_version": ref.version}


def note_crash(redis: Redis, queue: str, status: int) -> tuple[int, float]:
    """How many workers in a row died over a version, and for how long it is held back, in seconds.

    A row ends with a batch that is predicted. A worker that died over no version makes none.
    """
    model, version = keys.parse_queue(queue) or ("", None)
    if version is None:
        return 0, 0.0
    predicts = metrics.field(
        "model_inference_latency_seconds_count", labels_of(ModelRef(model, version))
    )
    bounds = [LOOP, int(_FIRST_HOLD_S * 1000), int(_LAST_HOLD_S * 1000)]
    row, held_ms = _CRASHED(redis, [queue, predicts, status, *bounds])
    return int(row), held_ms / 1000


def count_crash(redis: Redis, queue: str) -> None:
    """Count a worker's death, with the version that it was working on, if it was on one."""
    model, version = keys.parse_queue(queue) or ("", None)
    if version is not None:
        labels = labels_of(ModelRef(model, version))
        redis.hincrby(keys.METRICS, metrics.field("worker_crashes_total", labels), 1)
