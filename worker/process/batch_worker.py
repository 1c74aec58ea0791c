"""Our worker under RQ's own command line: ``rq worker -w worker.BatchWorker iris@v2``.

RQ starts, names and stops it, and its pool starts several. Everything between is our worker's:
batches, leases, models that stay loaded. As no pool of ours may run, it also recovers batches of
dead workers and, with ``--with-scheduler``, queues what RQ's clients have scheduled.

An option of RQ's that cannot be honoured is refused before any job is claimed, in one line; see
``docs/rq.md``. Libraries of models are imported only when work begins: RQ's pool forks from a
process that has imported this module.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import structlog
from redis import Redis, SSLConnection
from rq import Worker as RqWorker
from rq.defaults import (
    DEFAULT_JOB_MONITORING_INTERVAL,
    DEFAULT_LOGGING_DATE_FORMAT,
    DEFAULT_LOGGING_FORMAT,
    DEFAULT_MAINTENANCE_TASK_INTERVAL,
    DEFAULT_RESULT_TTL,
    DEFAULT_WORKER_TTL,
)

from yard.broker import check_server, connections
from yard.cluster import settle_format
from yard.contract import parse_queue
from yard.errors import ModelyardError
from yard.platform import extras, logs, signals
from yard.settings import Settings

if TYPE_CHECKING:
    from worker.process.worker import Worker

_log = structlog.get_logger()

#: Job classes that RQ's command line may be given: none of them is used, jobs are never decoded by
#: RQ.
_JOB_CLASSES = ("rq.job.Job", "producer.rq_job.SafeJob")

#: Serializers that may be named, the last being the command line's default: payloads are read as
#: JSON whichever it is.
_SERIALIZERS = ("json", "rq.serializers.JSONSerializer", "rq.serializers.DefaultSerializer")

_NAME = re.compile(r"[A-Za-z0-9._:-]{1,128}")

#: Time between two sweeps, and between two looks at scheduled jobs, in seconds.
_SWEEP_S = 0.5
_DUE_S = 1.0


class BatchWorker(RqWorker):
    """RQ's worker class with our worker in it; for the arguments see `rq.Worker`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._named_serializer = options.get("serializer")
        super().__init__(*arguments, **options)

    def work(
        self,
        burst: bool = False,
        logging_level: str | None = None,
        date_format: str = DEFAULT_LOGGING_DATE_FORMAT,
        log_format: str = DEFAULT_LOGGING_FORMAT,
        max_jobs: int | None = None,
        max_idle_time: int | None = None,
        with_scheduler: bool = False,
        dequeue_strategy: Any = "default",
    ) -> bool:
        """Work until a signal, RQ's shutdown command, or the end of a burst; in the main thread.

        Args:
            burst: Leave when no job waits.
            logging_level: Level of our log.
            date_format: Must be RQ's default.
            log_format: Must be RQ's default.
            max_jobs: Leave after so many jobs.
            max_idle_time: Leave after so many seconds without a job.
            with_scheduler: Queue jobs whose time has come (`enqueue_in`, `enqueue_at`).
            dequeue_strategy: Must be ``default``: versions take turns by their share of time.

        Returns:
            True if a job was run.

        Raises:
            SystemExit: An option cannot be honoured, or the worker cannot begin; with the reason.
        """
        signals.hold()  # until our handlers are there; a pool's own handlers must not run here
        for refusal in self._refusals(date_format, log_format, dequeue_strategy, max_jobs):
            raise SystemExit(f"worker.BatchWorker: {refusal}")
        try:
            return self._work(burst, logging_level, max_jobs, max_idle_time, with_scheduler)
        except ModelyardError as error:
            raise SystemExit(f"worker.BatchWorker: {error.message}") from None

    def _work(
        self,
        burst: bool,
        logging_level: str | None,
        max_jobs: int | None,
        max_idle_time: int | None,
        with_scheduler: bool,
    ) -> bool:
        settings = self._settings(logging_level)
        url = settings.redis_url or ""
        logs.configure(settings)
        redis = connections.steady(url, self.name)
        check_server(redis)
        settle_format(redis)
        with connections.redis_reachable():
            if redis.exists(self.key):
                raise SystemExit(f"worker.BatchWorker: a worker named {self.name!r} is active")
        from worker.process.worker import Worker, WorkLimits

        limits = WorkLimits(
            queues=tuple(self.queue_names()),
            is_burst=burst,
            most_jobs=max_jobs,
            most_idle_s=max_idle_time,
            is_watched=True,
        )
        if with_scheduler and burst:
            _queue_due(redis, limits.queues, settings)
        engine: Worker = Worker(settings, url, self.name, limits=limits)
        stopped = threading.Event()
        care = threading.Thread(
            target=_take_care,
            args=(redis, limits.queues, settings, with_scheduler and not burst, stopped),
            name="care",
            daemon=True,
        )
        care.start()
        engine.run()
        stopped.set()
        return engine.job_count > 0

    def _settings(self, logging_level: str | None) -> Settings:
        """Return our settings, with those that RQ's options and connection give.

        Raises:
            ModelyardError: One is out of its bounds.
        """
        level = str(logging_level or "").lower()
        settings = Settings.load(
            redis_url=_url_of(self.connection),
            log_level=level if level in ("debug", "info", "warning", "error") else None,
            result_ttl_s=None
            if self.default_result_ttl == DEFAULT_RESULT_TTL
            else self.default_result_ttl,
        )
        return settings

    def _refusals(
        self, date_format: str, log_format: str, dequeue_strategy: Any, max_jobs: int | None
    ) -> Iterator[str]:
        """Yield why the worker cannot begin: what is asked of it cannot be honoured."""
        if missing := extras.missing("worker"):
            yield f"{', '.join(missing)} is not installed: pip install 'modelyard[worker]'"
        for name in self.queue_names():
            if parse_queue(name) is None:
                yield f"{name!r} is no queue of a model: name MODEL@VERSION, or MODEL for all of it"
        if not self.queue_names():
            yield "name the queues to serve"
        if not _NAME.fullmatch(self.name):
            yield "--name takes 1 to 128 letters, digits, and any of . _ : -"
        if isinstance(self._named_serializer, str) and self._named_serializer not in _SERIALIZERS:
            yield f"--serializer {self._named_serializer} is not honoured: payloads are JSON"
        if f"{self.job_class.__module__}.{self.job_class.__qualname__}" not in _JOB_CLASSES:
            yield "--job-class is not honoured: jobs call worker.tasks.predict and nothing else"
        if self._exc_handlers or self.disable_default_exception_handler:
            yield "exception handlers are not run: the job's result has the reason"
        if self._work_horse_killed_handler:
            yield "work_horse_killed_handler is not run: there is no work horse"
        if self.worker_ttl != DEFAULT_WORKER_TTL:
            yield "--worker-ttl is not honoured: see MODELYARD_LEASE_S"
        if self.maintenance_interval != DEFAULT_MAINTENANCE_TASK_INTERVAL:
            yield "--maintenance-interval is not honoured: batches are recovered twice a second"
        if self.job_monitoring_interval != DEFAULT_JOB_MONITORING_INTERVAL:
            yield "--job-monitoring-interval is not honoured: see MODELYARD_LEASE_S"
        if str(getattr(dequeue_strategy, "value", dequeue_strategy)) != "default":
            yield "--dequeue-strategy is not honoured: versions take turns by their share of time"
        if date_format != DEFAULT_LOGGING_DATE_FORMAT or log_format != DEFAULT_LOGGING_FORMAT:
            yield "--log-format and --date-format are not honoured: see MODELYARD_LOG_FORMAT"
        if max_jobs is not None and max_jobs < 1:
            yield "--max-jobs must be above zero"


def _url_of(connection: Redis) -> str:
    """Return the URL of the Redis that RQ's connection leads to.

    Raises:
        SystemExit: It has none, as that of a Sentinel.
    """
    pool = connection.connection_pool
    known = pool.connection_kwargs
    user = quote(str(known.get("username") or ""), safe="")
    password = quote(str(known.get("password") or ""), safe="")
    login = f"{user}:{password}@" if user or password else ""
    options = {"db": known.get("db") or 0}
    if "path" in known:
        return f"unix://{login}{known['path']}?{urlencode(options)}"
    if "connection_pool" in known or "host" not in known:
        raise SystemExit(
            "worker.BatchWorker: give the Redis by --url (for a Sentinel run `modelyard pool`)"
        )
    host = f"[{known['host']}]" if ":" in str(known["host"]) else known["host"]
    scheme = "redis"
    if issubclass(pool.connection_class, SSLConnection):
        scheme = "rediss"
        options |= {name: v for name, v in known.items() if name.startswith("ssl_") and v}
    return f"{scheme}://{login}{host}:{known.get('port') or 6379}?{urlencode(options)}"


def _take_care(
    redis: Redis,
    only: Collection[str],
    settings: Settings,
    with_scheduler: bool,
    stopped: threading.Event,
) -> None:
    """Do what a pool would: recover batches of dead workers, and queue what is due."""
    from worker.queue import OUTAGE, sweep

    rounds = 0
    while not stopped.wait(_SWEEP_S):
        try:
            sweep(redis, settings)
            rounds += 1
            if with_scheduler and rounds % int(_DUE_S / _SWEEP_S) == 0:
                _queue_due(redis, only, settings)
        except OUTAGE as error:
            _log.debug("care: Redis is away: %s", error)
        except Exception:  # over something unforeseen in Redis: dead workers' jobs wait for it
            _log.exception("care: it goes on")


def _queue_due(redis: Redis, only: Collection[str], settings: Settings) -> None:
    """Queue the jobs of the worker's queues whose time has come.

    Raises:
        RedisError: Redis does not answer.
    """
    from worker.queue import QueueScheduler, enqueue_due

    enqueue_due(redis, QueueScheduler(redis, only=only).queues(), settings)
