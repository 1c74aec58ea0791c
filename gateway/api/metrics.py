"""Metrics for Prometheus: counters that workers keep in Redis, and the present state of the yard.

`gateway.middleware.request_log` counts the requests of the gateway's own processes. A scrape while
Redis is away still shows those, and ``modelyard_redis_up 0``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

import structlog
from flask import Response
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.tag import Tag
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from redis import Redis

from gateway.api import openapi
from gateway.api.scaling import Scaling, read_scaling
from gateway.services import services
from yard.broker import redis_reachable
from yard.cluster import (
    METRIC_DEFINITIONS,
    WORKER_STATES,
    CrashLoop,
    MetricDefinition,
    Series,
    parse_metric_field,
    read_crash_loops,
)
from yard.contract import keys, lenient
from yard.errors import ModelyardError
from yard.routing import cold_versions
from yard.settings import Settings
from yard.status import Status, read_status

blueprint = APIBlueprint(
    "metrics", __name__, abp_tags=[Tag(name="operation", description="Health and metrics.")]
)

_log = structlog.get_logger("gateway.api.metrics")

_VERSION = ("model", "model_version")
_Labels = tuple[str, ...]


@blueprint.get(
    "/metrics",
    **openapi.call(
        "getMetrics",
        answers={
            200: {
                "description": "The metrics.",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            }
        },
    ),
)
def scrape() -> Response:
    """Metrics in Prometheus' text format."""
    return Response(generate_latest(services().registry), content_type=CONTENT_TYPE_LATEST)


class YardCollector(Collector):
    """Reads Redis at each scrape.

    Args:
        redis: The yard's Redis.
        settings: Bounds by which workers are wanted.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings

    def describe(self) -> Iterable[Metric]:
        """Returns no metrics, so that registering the collector does not read Redis."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yields every metric of the yard."""
        try:
            look = read_status(self._redis, with_waits=True)
            scaling = read_scaling(self._redis, self._settings)
            with redis_reachable():
                counted = self._redis.hgetall(keys.METRICS)
                crashes = read_crash_loops(self._redis)
        except ModelyardError as error:
            _log.warning("Redis cannot be read", error=error.message)
            yield _up(0)
            return
        yield _up(1)
        yield from _counted(cast("dict[bytes, bytes]", counted), _published(look))
        yield from _routes(look)
        yield from _queues(look)
        yield from _workers(look)
        yield from _demands(scaling)
        yield from _crashes(crashes, _published(look))


def _up(value: int) -> Metric:
    return GaugeMetricFamily("modelyard_redis_up", "Whether Redis answers.", value)


def _published(look: Status) -> set[_Labels]:
    return {(model.name, version) for model in look.models for version in model.versions}


def _counted(raw: Mapping[bytes, bytes], published: set[_Labels]) -> Iterator[Metric]:
    """Yields the metrics that workers keep, of published versions only."""
    values: dict[str, dict[_Labels, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for field, text in raw.items():
        series = parse_metric_field(lenient.decode(field))
        number = lenient.number(text)
        if series is None or number is None:
            continue
        labels = tuple(series.labels[label] for label in series.metric.labels)
        if not labels or labels[:2] in published:
            values[series.metric.name][labels][_slot(series)] = number
    for metric in METRIC_DEFINITIONS.values():
        build = _counter if metric.kind == "counter" else _histogram
        yield build(metric, values[metric.name])


def _slot(series: Series) -> str:
    """Returns a series' key among its metric's: an upper bound, ``sum``, ``count`` or ``total``."""
    return series.le or series.part


def _counter(metric: MetricDefinition, values: Mapping[_Labels, Mapping[str, float]]) -> Metric:
    family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, numbers in sorted(values.items()):
        family.add_metric(labels, numbers["total"])
    return family


def _histogram(metric: MetricDefinition, values: Mapping[_Labels, Mapping[str, float]]) -> Metric:
    """Adds up buckets, which Redis keeps apart; the last is the count, so the two agree."""
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, numbers in sorted(values.items()):
        total, buckets = 0.0, []
        for bound in (*map(str, metric.bounds), "+Inf"):
            total += numbers.get(bound, 0.0)
            buckets.append((bound, total))
        family.add_metric(labels, buckets, numbers.get("sum", 0.0))
    return family


def _routes(look: Status) -> Iterator[Metric]:
    active = _gauge("model_version_active", "1 for the model's active version, else 0.", _VERSION)
    weight = _gauge("model_route_weight", "The version's weight in the route in force.", _VERSION)
    problems = _gauge("route_problems", "What is wrong with the model's keys.", ("model",))
    loaded = _gauge("loaded_model_versions", "Workers that have the version loaded.", _VERSION)
    is_cold = _gauge(
        "model_version_cold",
        "1 if the version gets traffic and some pool has not loaded it, else 0.",
        _VERSION,
    )
    failed = _gauge("model_load_failures", "Workers that could not load the version.", _VERSION)
    for model in look.models:
        problems.add_metric((model.name,), len(model.route.problems))
        colds = cold_versions(model.route, look.presence)
        for version, entry in model.versions.items():
            labels = (model.name, version)
            active.add_metric(labels, float(model.route.active == version))
            weight.add_metric(labels, model.route.weights.get(version, 0.0))
            queue = keys.queue_name(entry.ref)
            loaded.add_metric(labels, len(look.presence.holders(queue)))
            is_cold.add_metric(labels, float(version in colds))
            failed.add_metric(labels, len(look.presence.failures(queue)))
    return iter((active, weight, problems, loaded, is_cold, failed))


def _queues(look: Status) -> Iterator[Metric]:
    """Yields the queues' gauges; an unversioned queue has an empty ``model_version``."""
    depth = _gauge("queue_depth", "Jobs that wait.", _VERSION)
    oldest = _gauge("queue_oldest_seconds", "How long the first job has waited.", _VERSION)
    inflight = _gauge("jobs_inflight", "Jobs that workers have claimed and not ended.", _VERSION)
    for model in look.models:
        for name, queue in model.queues.items():
            labels = (model.name, name.partition("@")[2])
            depth.add_metric(labels, queue.depth)
            oldest.add_metric(labels, queue.oldest_s)
            inflight.add_metric(labels, queue.inflight)
    return iter((depth, oldest, inflight))


def _workers(look: Status) -> Iterator[Metric]:
    workers = _gauge("pool_workers", "Workers of all pools, by what they do.", ("state",))
    for state in WORKER_STATES:
        workers.add_metric((state,), look.presence.count(state))
    yield workers
    alive = len(look.presence.looking)
    yield GaugeMetricFamily("pools_alive", "Pools that look at the queues.", alive)


def _crashes(known: Iterable[CrashLoop], published: set[_Labels]) -> Iterator[Metric]:
    row = _gauge("crashes_in_a_row", "Workers that died since the last predict.", _VERSION)
    held = _gauge("held_back_seconds", "For how long nobody takes the version's jobs.", _VERSION)
    for crashes in known:
        model, _, version = crashes.queue.partition("@")
        if (model, version) in published:
            row.add_metric((model, version), crashes.row)
            held.add_metric((model, version), crashes.held_s)
    return iter((row, held))


def _demands(scaling: Scaling) -> Iterator[Metric]:
    """Yields gauges, whose sums are the yard's; unversioned queues have an empty version."""
    seconds = _gauge(
        "queue_work_seconds",
        "What waits, what runs and what has to be loaded for it, in seconds of one worker.",
        _VERSION,
    )
    wanted = _gauge("workers_wanted", "Workers that there should be.", _VERSION)
    for demand in scaling.demands:
        model, _, version = demand.work.queue.partition("@")
        seconds.add_metric((model, version), demand.seconds)
        wanted.add_metric((model, version), demand.wanted)
    return iter((seconds, wanted))


def _gauge(name: str, text: str, labels: tuple[str, ...]) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)


def registry_for(redis: Redis, settings: Settings, *, has_files: bool) -> CollectorRegistry:
    """Returns the registry of one process, which answers scrapes.

    Args:
        redis: The yard's Redis.
        settings: Bounds by which workers are wanted.
        has_files: True if prometheus_client keeps the requests of all gateway processes in files
            (``PROMETHEUS_MULTIPROC_DIR``); the registry adds them up.
    """
    registry = CollectorRegistry()
    registry.register(YardCollector(redis, settings))
    if has_files:
        from prometheus_client.multiprocess import MultiProcessCollector

        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry
