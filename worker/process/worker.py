"""The worker process: wait, claim, execute, finish, until a signal asks it to stop.

The main thread runs one batch after the other. A second thread keeps the batch's lease and
announces the worker (`worker.process.heartbeat`); a third listens to RQ's commands
(`worker.process.rq_commands`). Nothing in Redis, and no absence of Redis, ends the process: it
backs off and goes on. A signal lets it end the present batch and claim no other; a second signal
gives the batch back and ends the process at once.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from redis import Redis
from redis.exceptions import RedisError

from models.runtimes import ModelCache
from models.store import open_maps, open_repository
from worker.inference import (
    BatchExecutor,
    BatchObserver,
    Loader,
    MetricsObserver,
    ServiceTimes,
    Warmer,
    cache_limit_bytes,
)
from worker.process.heartbeat import Heartbeat
from worker.process.registration import Activity, Registration
from worker.process.retry import DrainRetry
from worker.process.rq_commands import CommandListener
from worker.process.watchdog import Watchdog
from worker.queue import (
    OUTAGE,
    Batch,
    EndedBatch,
    GaveUp,
    Lease,
    Prefetcher,
    QueueScheduler,
    Suspended,
    backoff,
    describe_outage,
    reap,
    retry_until_up,
)
from yard.broker import connections
from yard.contract import ModelRef, keys
from yard.platform import StopSignals
from yard.settings import Settings

_log = structlog.get_logger()

#: Seconds to wait for the command subscription before the worker registers.
_SUBSCRIBED_S = 5.0

#: Longest run of prefetched batches, in seconds; after it, queues that are not prefetched get a
#: turn.
_PREFETCH_S = 0.25

#: Idle time before a worker imports what it may need, in seconds: importing can take a second, for
#: which a job that comes meanwhile waits.
_IDLE_S = 1.0


@dataclass(frozen=True, slots=True)
class WorkLimits:
    """Limits of one worker's work; by default there are none.

    Attributes:
        queues: The only queues to serve; a model's name stands for all queues of the model.
        is_burst: True to leave when no job waits.
        most_jobs: Number of jobs after which to leave.
        most_idle_s: Seconds without a job after which to leave.
        is_watched: True to end the process when a batch hangs, though no pool has started it.
    """

    queues: tuple[str, ...] = ()
    is_burst: bool = False
    most_jobs: int | None = None
    most_idle_s: float | None = None
    is_watched: bool = False


class Worker:
    """One worker; `run` returns when it was asked to stop, or has come to one of its limits.

    Args:
        settings: All there is to set.
        url: The Redis to work on.
        name: The worker's name, unique to this process.
        pool: The name of the pool that started it; empty for none.
        pattern: Only models whose name matches are served.
        limits: Further limits, of a worker that no pool has started.

    Attributes:
        name: The worker's name.
        job_count: Number of jobs that it has ended.
    """

    def __init__(
        self,
        settings: Settings,
        url: str,
        name: str = "",
        pool: str = "",
        pattern: str = "*",
        limits: WorkLimits = WorkLimits(),  # it is frozen
    ) -> None:
        self.name = name or f"worker-{secrets.token_hex(6)}"
        self.job_count = 0
        self._limits = limits
        self._settings = settings
        self._url = url
        self._redis = connections.steady(url, self.name)
        self._bell = connections.blocking(url, settings.look_s, self.name)
        # A worker with the name of one that was killed must not use its tokens again.
        self._lease = Lease(self._redis, self.name, settings, secrets.randbits(48))
        self._registration = Registration(self._redis, self.name, pool)
        self._signals = StopSignals(on_second=self._leave_now)
        self._watchdog = Watchdog(settings.lease_s, is_on=bool(pool) or limits.is_watched)
        self._retry = DrainRetry(self._signals, self._watchdog, settings.drain_s)
        repository = open_repository(settings)
        repository.maps = open_maps(settings)
        self._service_times = ServiceTimes()
        self._loader = Loader(repository, self._redis, self._retry, self._service_times)
        self._cache = ModelCache(self._loader, cache_limit_bytes(settings))
        self._scheduler = QueueScheduler(
            self._redis,
            pattern,
            worker=self.name,
            loaded=lambda: {str(ref) for ref in self._cache.loaded()},
            patience_s=settings.target_wait_s,
            only=limits.queues,
        )
        self._busy_since = 0.0  # the end of the batch before, or the beginning of the run
        self._run_since = 0.0  # the beginning of the batch that was not prefetched
        self._idle_since = time.monotonic()
        self._is_done = False
        self._executor = BatchExecutor(self._cache, self._loader, settings, self._service_times)
        self._observers: tuple[BatchObserver, ...] = (MetricsObserver(), self._service_times)
        self._warmer = Warmer(self._redis, self._cache, self.name, settings)
        self._heartbeat = Heartbeat(
            url,
            settings,
            self._lease,
            self._registration,
            self._scheduler,
            self._cache,
            self._warmer,
            self._service_times,
        )
        self._stopped = threading.Event()
        self._prepared: set[str] = set()
        self._activity = Activity.WAITING

    def run(self) -> None:
        """Work until a signal, or RQ's shutdown command, asks to stop; in the main thread."""
        with self._signals:
            self._run()

    def _run(self) -> None:
        commands = CommandListener(self._url, self.name, self._settings)
        threads = [
            self._heartbeat.thread(self._stopped),
            commands.thread(self._stopped),
        ]
        for thread in threads:
            thread.start()
        commands.wait_until_subscribed(_SUBSCRIBED_S)  # a registered worker may get commands
        with contextlib.suppress(GaveUp):
            self._register()
        _log.info("worker started", worker=self.name)
        self._idle_since = time.monotonic()
        pause = backoff()
        while not self._is_leaving:
            try:
                self._step()
                pause = backoff()
            except OUTAGE as error:
                _log.warning(describe_outage(error), worker=self.name)
                self._signals.wait(next(pause))
            except GaveUp:
                _log.warning("Redis is away: the batch is left to others", worker=self.name)
            except Exception:  # over something unforeseen in Redis: no reason to die
                _log.exception("the worker goes on", worker=self.name)
                self._signals.wait(next(pause))
        self._leave(threads)

    @property
    def _is_leaving(self) -> bool:
        return self._signals.count > 0 or self._heartbeat.is_overgrown or self._is_done

    def _register(self) -> None:
        """Write the worker's entries, once Redis is there.

        Raises:
            GaveUp: A signal to stop came before that.
        """
        retry_until_up(
            lambda: self._registration.birth(self._scheduler.queues()),
            self._signals.wait,
            lambda: self._signals.count > 0,
        )

    def _step(self) -> None:
        """Claim and run batches, or wait for work once."""
        queues = self._scheduler.queues()
        self._unload_dropped()
        if self._limits.most_jobs is not None:
            left = self._limits.most_jobs - self.job_count
            self._lease.limit(min(left, self._settings.batch_jobs))
        try:
            claimed = self._lease.claim(queues) if queues else 0
        except Suspended:
            self._is_done = self._limits.is_burst
            self._rest()
            return
        if isinstance(claimed, Batch):
            self._activity = Activity.RUNNING  # as the claim has written
            self._work(claimed)
            self._idle_since = time.monotonic()
            self._is_done = self.job_count >= (self._limits.most_jobs or float("inf"))
            if not self._is_done:
                self._warm(queues)
            return
        has_rung = self._activity is Activity.WOKEN
        self._enter(Activity.WAITING)
        if claimed == 0:
            idle_s = time.monotonic() - self._idle_since
            self._is_done = self._limits.is_burst or idle_s >= (
                self._limits.most_idle_s or float("inf")
            )
            if self._is_done:
                return
            if has_rung:  # for no job, so perhaps for a version that is to be loaded
                self._warmer.hurry()
            self._warm(queues)
            self._wait_for_bell(queues)

    def _enter(self, activity: Activity) -> None:
        """Change what the worker does, and in Redis, too, where RQ's entry shows the difference.

        Claiming and finishing scripts write it themselves.

        Raises:
            RedisError: Redis does not answer.
        """
        if activity is Activity.LOADING:
            self._activity = activity  # Redis may have it though the reply is lost
            self._registration.begin_load()
        elif activity.rq_state != self._activity.rq_state:
            self._registration.set_state(activity.rq_state)
        self._activity = activity

    def _unload_dropped(self) -> None:
        """Unload versions that are out of service; none is in use between two batches."""
        for queue in self._scheduler.dropped:
            ref = ModelRef(*queue.split("@"))
            state = self._scheduler.state_of(queue)
            is_loaded_anew = state.startswith("revived") and self._loader.is_current(ref, state)
            if is_loaded_anew or self._cache.evict(ref):
                self._scheduler.mark_unloaded(queue)

    def _wait_for_bell(self, queues: Sequence[str]) -> None:
        """Wait until a job is submitted, or until it is time to look for jobs without a bell."""
        if self._prepared != set(queues) and time.monotonic() - self._busy_since >= _IDLE_S:
            self._loader.prepare(queues)  # something was published: import what it needs
            self._prepared = set(queues)
        self._enter(Activity.WAITING)
        if not queues:
            self._signals.wait(self._settings.look_s)
            return
        bells = [keys.key("bell", queue) for queue in queues]
        if self._bell.blpop(bells, timeout=self._settings.look_s) is not None:
            self._enter(Activity.WOKEN)

    def _work(self, first: Batch) -> None:
        """Run a batch and, as long as more wait than fit into one, those after it."""
        self._busy_since = self._run_since = time.monotonic()
        try:
            queues = self._queues_ahead(first)
            with Prefetcher(self._lease, self._retry, first, queues) as prefetcher:
                for batch in prefetcher:
                    if self._is_leaving and batch is not first:
                        break  # `_leave` gives it back
                    ended = self._execute(batch)
                    queues = self._queues_ahead(batch) if prefetcher.is_ahead else ()
                    prefetcher.complete(ended, queues)
            self._activity = Activity.WAITING  # as the last finish has written
        except RedisError:  # in forwarding; an OSError is a file's, and would come again
            raise
        except Exception:
            # Our own fault, not the model's: count it as a crash, so that jobs do not come back for
            # ever.
            _log.exception("a batch could not be served", worker=self.name)
            self._retry(lambda: reap(self._redis, self.name, "died", self._settings))
        finally:
            self._lease.held = None

    def _execute(self, batch: Batch) -> EndedBatch:
        self._scheduler.begin(batch.queue)
        self._unload_dropped()  # under load there is no other moment
        for observer in self._observers:
            observer.started(batch)
        started = time.monotonic()
        with self._watchdog.within(batch.timeout_s):
            result = self._executor.run(batch, self._lease)
        now = time.monotonic()
        result.busy_s, self._busy_since = now - self._busy_since, now
        self._scheduler.record_duration(batch.queue, now - started)
        self._scheduler.charge(batch.queue, result.busy_s, result.load_s)
        for observer in self._observers:
            observer.ended(batch, result)
        self.job_count += len(result.ended_jobs)
        metrics = result.metrics.items()
        bound(self._lease, self._service_times, batch.queue, self._settings)
        return self._lease.ended(
            batch, result.ended_jobs, result.run_info, metrics, result.released
        )

    def _queues_ahead(self, batch: Batch) -> Sequence[str]:
        """Return the queues to prefetch from; none unless more jobs wait, and none will wait long.

        A batch that is claimed now waits for the one that is run next, which is of one of these
        queues, too. A worker that leaves claims no more, and a crash suspect runs alone.
        """
        if not batch.has_more or self._is_leaving or batch.jobs[0].crashes:
            return ()
        if self._limits.most_jobs is not None:
            return ()  # each claim is limited to what is left
        is_over = time.monotonic() - self._run_since > _PREFETCH_S
        if is_over or not self._scheduler.is_quick(batch.queue):
            return ()
        with contextlib.suppress(*OUTAGE):
            queues = self._scheduler.queues()
            return () if self._warmer.has_request(queues) else self._scheduler.prefetchable()
        return ()

    def _rest(self) -> None:
        """Wait a moment while ``rq suspend`` is in force."""
        self._enter(Activity.SUSPENDED)
        self._warm(self._scheduler.known)  # loading runs no job
        self._signals.wait(0.2)

    def _warm(self, queues: Sequence[str]) -> None:
        """Load the first version that is asked for, and announce at once what came of it.

        Its entry says busy meanwhile: the pool, or the watchdog, ends a load that hangs as it ends
        a batch.
        """
        request = self._warmer.next_request(queues)
        if request is None:
            return
        self._enter(Activity.LOADING)
        with self._watchdog.within(self._settings.timeout_s):
            self._warmer.load(request)
        self._heartbeat.announce()

    def _leave(self, threads: Sequence[threading.Thread]) -> None:
        self._stopped.set()
        for thread in threads:
            thread.join(timeout=1.0)
        try:
            self._lease.release()  # a batch that was not begun, or whose claim's reply was lost
            self._registration.death()
        except OUTAGE as error:
            _log.warning("Redis is away, RQ's entry of the worker expires by itself: %s", error)
        _log.info("worker stopped", worker=self.name)

    def _leave_now(self) -> None:
        """Give the batch back and exit, in the handler of a second signal."""
        try:
            redis: Redis = connections.fast(self._url, self.name)
            Lease(redis, self.name, self._settings).release()
            self._registration.on(redis).death()
        except OUTAGE:
            pass  # the lease runs out by itself
        os._exit(1)


def bound(lease: Lease, service_times: ServiceTimes, queue: str, settings: Settings) -> None:
    """Bound a queue's next batches by the rows that the worker predicts in a moment."""
    rows = service_times.claim_rows(queue, settings.timeout_s)
    if rows is not None and rows < settings.batch_rows:
        lease.most_rows[queue] = rows
    else:
        lease.most_rows.pop(queue, None)


def main(arguments: Sequence[str]) -> None:
    """``python -m worker.process.worker NAME POOL PATTERN``, as the pool starts it."""
    from yard import local
    from yard.platform import logs

    name, pool, pattern = arguments
    settings = Settings.load()
    logs.configure(settings)
    Worker(settings, local.redis_url(settings), name, pool, pattern).run()


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
