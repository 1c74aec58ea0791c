"""The worker process: wait, claim, serve, finish, until told to stop.

The main thread runs one batch after the other. A second thread keeps the batch's lease and says
that the worker lives (`worker.process.heartbeat`); a third listens to RQ's commands
(`worker.process.rq_commands`). Nothing that is in Redis, and no absence of Redis, ends the process:
it backs off and goes on. Stopping is asked for by a signal, ends the present batch and claims no
other; a second signal gives the batch back and ends at once.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import structlog
from redis import Redis
from redis.exceptions import RedisError

from models.runtimes import ModelCache
from models.store import open_maps, open_repository
from worker.inference import (
    BatchExecutor,
    BatchResult,
    Loader,
    ServiceTimes,
    Warmer,
    cache_limit_bytes,
)
from worker.process.heartbeat import Heartbeat
from worker.process.registration import Registration
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
    reap,
    retry_until_up,
)
from yard.broker import connections
from yard.contract import Failure, ModelRef, keys
from yard.platform import StopSignals
from yard.settings import Settings

_log = structlog.get_logger()

#: How long a new worker waits to be heard before it says that it is there, in seconds.
_HEARD_S = 5.0

#: For so long a worker takes one batch ahead after the other, in seconds; then those queues have
#: their turn that it does not take ahead from.
_RUN_S = 0.25

#: For so long a worker has nothing to do before it imports what it may need, in seconds: that can
#: take a second, and whoever comes meanwhile waits for it.
_IDLE_S = 1.0


class Worker:
    """One worker; `run` returns when it was asked to stop.

    Args:
        settings: All there is to set.
        url: The Redis to work on.
        name: The worker's name, unique to this process.
        pool: The name of the pool that started it; empty for none.
        pattern: Only models whose name matches are served.
    """

    def __init__(
        self, settings: Settings, url: str, name: str = "", pool: str = "", pattern: str = "*"
    ) -> None:
        self.name = name or f"worker-{secrets.token_hex(6)}"
        self._settings = settings
        self._url = url
        self._redis = connections.steady(url, self.name)
        self._bell = connections.blocking(url, settings.look_s, self.name)
        self._lease = Lease(self._redis, self.name, settings)
        self._registration = Registration(self._redis, self.name, pool)
        repository = open_repository(settings)
        repository.maps = open_maps(settings)
        self._loader = Loader(repository, self._redis, self._persist)
        self._cache = ModelCache(self._loader, cache_limit_bytes(settings))
        self._scheduler = QueueScheduler(
            self._redis,
            pattern,
            worker=self.name,
            loaded=lambda: {str(ref) for ref in self._cache.loaded()},
            patience_s=settings.target_wait_s,
        )
        self._service_times = ServiceTimes()
        self._busy_since = 0.0  # the end of the batch before, or when there was none
        self._run_since = 0.0  # the beginning of the batch that was not taken ahead
        self._server = BatchExecutor(self._cache, self._loader.is_batchable, settings)
        self._watchdog = Watchdog(settings.lease_s, is_on=bool(pool))
        self._heartbeat = Heartbeat(
            url, self.name, settings, self._service_times, self._loaded, self._announce
        )
        self._warmer = Warmer(
            self._redis,
            self._cache,
            self.name,
            settings,
            self._loading,
            lambda: self._heartbeat.tell(self._registration),  # at once: somebody waits for it
        )
        self._stopped = threading.Event()
        self._prepared: set[str] = set()
        self._is_suspended = False
        self._is_loading = False
        self._has_rung = False
        self._leaves_by = float("inf")
        self._signals = StopSignals(on_second=self._leave_now)

    def run(self) -> None:
        """Work until a signal, or RQ's shutdown command, asks to stop; in the main thread."""
        with self._signals:
            self._run()

    def _run(self) -> None:
        commands = CommandListener(self._url, self.name, self._settings)
        threads = [
            self._heartbeat.thread(self._registration, self._stopped),
            commands.thread(self._stopped),
        ]
        for thread in threads:
            thread.start()
        commands.wait_until_heard(_HEARD_S)  # whoever sees the worker may send it a command
        with contextlib.suppress(GaveUp):
            self._register()
        _log.info("worker started", worker=self.name)
        pause = backoff()
        while not self._is_leaving:
            try:
                self._step()
                pause = backoff()
            except Suspended:
                self._suspended()
            except OUTAGE as error:
                _log.warning("Redis is away: %s", error, worker=self.name)
                self._signals.wait(next(pause))
            except GaveUp:
                _log.warning("Redis is away: the batch is left to others", worker=self.name)
            except Exception:  # of something in Redis that nobody thought of: no reason to die
                _log.exception("the worker goes on", worker=self.name)
                self._signals.wait(next(pause))
        self._leave(threads)

    @property
    def _is_leaving(self) -> bool:
        return self._signals.count > 0 or self._heartbeat.is_overgrown

    def _register(self) -> None:
        """Be seen, unless told to stop before Redis was there.

        Raises:
            GaveUp: So it was.
        """
        retry_until_up(
            lambda: self._registration.birth(self._scheduler.queues()),
            self._signals.wait,
            lambda: self._signals.count > 0,
        )

    def _persist(self, action: Callable[[], object]) -> None:
        """Repeat ``action`` until Redis has answered; once told to stop, for the drain time.

        Raises:
            GaveUp: The drain time is over, too.
        """
        with self._watchdog.paused():
            retry_until_up(action, self._signals.wait, self._is_out_of_time)

    def _is_out_of_time(self) -> bool:
        if self._signals.count and self._leaves_by == float("inf"):
            self._leaves_by = time.monotonic() + self._settings.drain_s
        return time.monotonic() >= self._leaves_by

    def _step(self) -> None:
        """One batch, or one wait for work."""
        queues = self._scheduler.queues()
        self._unload_dropped()
        claimed = self._lease.claim(queues) if queues else 0
        has_been = self._is_suspended or self._is_loading
        if has_been and not isinstance(claimed, Batch):  # a claim has said busy itself
            self._registration.set_state("idle")
        self._is_suspended = self._is_loading = False
        if isinstance(claimed, Batch):
            self._work(claimed)
            self._warmer.look(queues)
        elif claimed == 0:
            if self._has_rung:  # for no job, so perhaps for a version that is to be loaded
                self._warmer.hurry()
            self._warmer.look(queues)
            self._wait_for_bell(queues)
            return
        self._has_rung = False

    def _unload_dropped(self) -> None:
        """Let go of versions that are out of service; nothing is in use between two batches."""
        for queue in self._scheduler.dropped:
            ref = ModelRef(*queue.split("@"))
            if self._cache.evict(ref):
                self._scheduler.unloaded(queue)

    def _wait_for_bell(self, queues: Sequence[str]) -> None:
        """Return when a job is submitted, or when it is time to look for jobs pushed otherwise."""
        if self._prepared != set(queues) and time.monotonic() - self._busy_since >= _IDLE_S:
            self._loader.prepare(queues)  # something was published: import what it needs
            self._prepared = set(queues)
        self._has_rung = False
        if not queues:
            self._signals.wait(self._settings.look_s)
            return
        bells = [keys.key("bell", queue) for queue in queues]
        self._has_rung = self._bell.blpop(bells, timeout=self._settings.look_s) is not None

    def _work(self, batch: Batch) -> None:
        """Serve a batch and, as long as more wait than fit into one, those after it."""
        prefetcher = Prefetcher(
            self._lease, self._serve, self._ahead, self._settle, lambda: self._is_leaving
        )
        self._busy_since = self._run_since = time.monotonic()
        try:
            prefetcher.run(batch)  # what it took ahead and did not begin, `_leave` gives back
        except RedisError:  # at the front door; an OSError is a file's, and would come again
            raise
        except Exception:
            # Our own fault, not the model's: count it as a crash, so that no job comes back for
            # ever.
            _log.exception("a batch could not be served", worker=self.name)
            self._persist(lambda: reap(self._redis, self.name, "died", self._settings))
        finally:
            self._heartbeat.batch = None

    def _serve(self, batch: Batch) -> EndedBatch:
        self._heartbeat.batch = batch
        self._scheduler.took(batch.queue)
        self._unload_dropped()  # under load there is no other moment
        started = time.monotonic()
        with self._watchdog.within(batch.timeout_s):
            served = self._server.serve(batch, self._lease)
        self._scheduler.served(batch.queue, time.monotonic() - started)
        self._note_pace(batch.queue, served)
        self._heartbeat.batch = None  # its end is about to be sent, and with it goes the lease
        return self._lease.ended(batch, served.endings, served.run, served.tally.items())

    def _ahead(self, batch: Batch) -> Sequence[str]:
        """Where to take a batch ahead; nowhere, unless more wait and none will wait long here.

        What is taken now waits for the batch that is served next, which is of one of these queues,
        too. A worker that was told to leave takes nothing more, and a crash suspect runs alone.
        """
        if not batch.has_more or self._is_leaving or batch.jobs[0].crashes:
            return ()
        if not self._scheduler.is_brisk(batch.queue) or time.monotonic() - self._run_since > _RUN_S:
            return ()
        with contextlib.suppress(*OUTAGE):
            queues = self._scheduler.queues()
            return () if self._warmer.waits(queues) else self._scheduler.brisk()
        return ()

    def _settle(self, ended: EndedBatch, written: int | None) -> None:
        """Make sure that a batch is written, however long it takes to reach Redis."""
        done = [] if written is None else [written]
        if not done:
            self._heartbeat.batch = ended.batch
            self._persist(lambda: done.append(self._lease.write(ended)))
            self._heartbeat.batch = None
        self._note_end(ended, done[-1])

    def _note_end(self, ended: EndedBatch, written: int) -> None:
        queue, endings = ended.batch.queue, ended.endings
        if written < len(endings):
            _log.warning(
                "%d of %d jobs were canceled or given to others meanwhile",
                len(endings) - written,
                len(endings),
                worker=self.name,
                queue=queue,
            )
        model, _, version = queue.partition("@")
        for ending in endings:
            if isinstance(ending.outcome, Failure):
                code = ending.outcome.code
                _log.info("job failed", job=ending.id, model=model, version=version, code=code)
        _log.debug("batch", worker=self.name, queue=queue, jobs=len(endings))

    def _note_pace(self, queue: str, served: BatchResult) -> None:
        """Note what a batch kept the worker busy for: for turns, and for how many workers it takes.

        That is the time since the end of the one before it, what went on in Redis meanwhile
        included.
        """
        now = time.monotonic()
        taken_s, self._busy_since = now - self._busy_since, now
        self._scheduler.charge(queue, taken_s, served.load_s)
        self._service_times.add(
            queue, served.jobs, served.rows, taken_s - served.load_s, served.load_s
        )

    def _suspended(self) -> None:
        if not self._is_suspended or self._is_loading:
            self._registration.set_state("suspended")
            self._is_suspended, self._is_loading = True, False
        self._warmer.look(self._scheduler.known)  # no job runs by that
        self._signals.wait(0.2)

    @contextlib.contextmanager
    def _loading(self) -> Iterator[None]:
        """Be seen as busy: the pool, or the alarm, ends a load that hangs as it ends a batch."""
        self._is_loading = True  # until the next step has said otherwise
        self._registration.begin_load()
        with self._watchdog.within(self._settings.timeout_s):
            yield

    def _announce(self, registration: Registration) -> None:
        registration.beat(self._scheduler.known, self._loaded(), self._warmer.failures())

    def _loaded(self) -> dict[str, int]:
        return {str(ref): size for ref, size in self._cache.loaded().items()}

    def _leave(self, threads: Sequence[threading.Thread]) -> None:
        self._stopped.set()
        for thread in threads:
            thread.join(timeout=1.0)
        try:
            self._lease.release()  # what a claim took whose answer was lost, if there is any
            self._registration.death()
        except OUTAGE as error:
            _log.warning("Redis is away, RQ's entry of the worker expires by itself: %s", error)
        _log.info("worker stopped", worker=self.name)

    def _leave_now(self) -> None:
        """In the handler of a second signal: give the batch back and end."""
        try:
            redis: Redis = connections.fast(self._url, self.name)
            Lease(redis, self.name, self._settings).release()
            self._registration.on(redis).death()
        except OUTAGE:
            pass  # the lease runs out by itself
        os._exit(1)


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
