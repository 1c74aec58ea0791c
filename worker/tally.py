"""What a batch adds to the metrics, gathered in memory and written by the script that ends it."""

from __future__ import annotations

from collections import Counter, defaultdict

from redis import Redis

from producer import keys, measures
from producer.contract import ModelRef
from producer.crashes import LOOP
from producer.scripting import Script

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
        self._labels = None if ref is None else labels_of(ref)
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._buckets: Counter[tuple[str, str]] = Counter()
        self._sums: defaultdict[str, float] = defaultdict(float)

    def count(self, name: str, label: str, value: str) -> None:
        """Add one to a counter that has one label beside the version's."""
        self._counts[name, label, value] += 1

    def observe(self, name: str, value: float) -> None:
        """Add an observation to a histogram."""
        self._buckets[name, measures.bucket(measures.MEASURES[name], value)] += 1
        self._sums[name] += value

    def items(self) -> list[tuple[str, float]]:
        """Fields of the metrics hash, and what to add to each."""
        labels = self._labels
        if labels is None:
            return []
        fields: list[tuple[str, float]] = [
            (measures.field(name, labels | {label: value}), count)
            for (name, label, value), count in self._counts.items()
        ]
        totals: Counter[str] = Counter()
        for (name, le), count in self._buckets.items():
            fields.append((measures.field(f"{name}_bucket", labels, le), count))
            totals[name] += count
        for name, total in totals.items():
            fields.append((measures.field(f"{name}_count", labels), total))
            fields.append((measures.field(f"{name}_sum", labels), self._sums[name]))
        return fields


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
    predicts = measures.field(
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
        redis.hincrby(keys.METRICS, measures.field("worker_crashes_total", labels), 1)
