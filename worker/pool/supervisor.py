"""The pool: starts workers, monitors them, gives back what they held when they die, stops them.

One supervisor a machine; pools know of each other only through Redis. Twice a second, and at once
when a child ends, it takes a round: it collects exited workers (their batches go back to the
queues) and ends those whose batch is past its deadline (`worker.pool.monitor`), gives back batches
of any pool whose lease has run out, looks at the routes, and starts or dismisses workers as
`worker.pool.autoscaler` decides.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence

import structlog
from redis import Redis

from worker.pool.autoscaler import Guard, Observation, Policy, decide, guard
from worker.pool.monitor import WorkerMonitor
from worker.pool.observer import Observer, RouteWatch, RuntimeNeeds
from worker.pool.spawner import Spawner
from worker.pool.worker_handle import WorkerHandle
from worker.queue import (
    OUTAGE,
    UNREACHABLE,
    OrphanCollector,
    QueueScheduler,
    enqueue_due,
    keep_off,
    sweep,
)
from yard.broker import connections
from yard.cluster import Bounds, announce_presence, format_problem
from yard.contract import keys
from yard.errors import ConfigurationError
from yard.platform import StopSignals, extras, work_folder
from yard.routing import unmet_warmups
from yard.settings import Settings

_log = structlog.get_logger()

#: Time between two rounds, in seconds.
TICK_S = 0.5

#: Time between two announcements of the pool, in seconds.
_BEAT_S = 2.0

#: Time between two looks at jobs that wait outside of a queue, in seconds.
_DUE_S = 1.0


class Pool:
    """A supervisor of workers; `run` returns when it was asked to stop and all workers have left.

    Args:
        settings: All there is to set.
        url: The Redis to work on.
        pattern: Only models whose name matches are served.
        clock: Seconds, never going back.
    """

    def __init__(
        self,
        settings: Settings,
        url: str,
        pattern: str = "*",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = f"{socket.gethostname()[:40]}-{secrets.token_hex(3)}"
        self._release = extras.version()
        self._settings = settings
        self._pattern = pattern
        self._clock = clock
        self._policy = Policy(
            settings.pool_min,
            settings.pool_max,
            settings.idle_s,
            Bounds(settings.target_wait_s, settings.batch_jobs, settings.batch_rows),
        )
        self._redis: Redis = connections.steady(url, self.name)
        self._scheduler = QueueScheduler(self._redis, pattern)
        self._observer = Observer(self._redis, self.name, self._scheduler.queues, self._policy)
        self._routes = RouteWatch(self._redis, self.name, self._scheduler.queues)
        self._needs = RuntimeNeeds(self._redis, pattern, self._scheduler.queues)
        self._spawner = Spawner(settings, self.name, pattern, clock)
        self._monitor = WorkerMonitor(self._redis, settings, lambda: self._spawner.pids, clock)
        self._started_at = float("-inf")
        self._guard = ""
        self._announced_at = float("-inf")
        self._due_at = float("-inf")
        self._orphans = OrphanCollector(self._redis, settings)
        self._announced = 0
        self._looked_ms = 0.0
        self._outdated = ""
        self._signals = StopSignals(on_second=self._monitor.kill_all)

    def run(self) -> None:
        """Keep workers running until a signal asks to stop, then drain; in the main thread.

        Raises:
            ConfigurationError: The pool has drained because a newer release has changed the format
                of what is in Redis.
        """
        with self._signals, work_folder() as self._spawner.folder:
            self._run()
        if self._outdated:
            raise ConfigurationError(self._outdated)

    def _run(self) -> None:
        _log.info("pool started", pool=self.name)
        if not self._signals.count:
            self._do(self._tend)
            self._start(self._policy.least)
        monitor = self._monitor
        steps = (
            monitor.collect_exited,
            monitor.look,
            monitor.renew_for_running,
            monitor.end_late,
        )
        while not (self._signals.count or self._outdated):
            self._go_round(
                *steps,
                self._sweep,
                self._routes.look,
                self._enqueue_due,
                self._tend,
                self._scale,
            )
            self._pause()
        self._spawner.stop()
        self._drain(steps)
        _log.info("pool stopped", pool=self.name)

    def _go_round(self, *steps: Callable[[], None]) -> None:
        """Take the steps and announce the pool; it counts as having looked if all were done."""
        if self._do(*steps) or not self._looked_ms:  # it has only begun: not stuck yet
            self._looked_ms = self._monitor.now_ms
        self._do(self._announce)

    def _pause(self) -> None:
        """Wait for a signal or the next round; without workers, look for jobs meanwhile."""
        ends = self._clock() + TICK_S
        step_s = TICK_S if self._monitor.workers else min(TICK_S, self._settings.look_s)
        while not self._signals.wait(step_s, self._spawner.descriptors):
            if self._clock() >= ends or self._has_jobs():
                return

    def _has_jobs(self) -> bool:
        try:
            return self._observer.has_jobs()
        except OUTAGE:  # the next round logs it
            return False

    def _do(self, *steps: Callable[[], None]) -> bool:
        """Take the steps. One that fails costs the others nothing, unless Redis is away.

        Returns:
            True if all of them were done.
        """
        done = 0
        for step in steps:
            try:
                step()
                done += 1
            except UNREACHABLE as error:
                _log.warning("Redis is away: %s", error, pool=self.name)
                return False
            except OUTAGE as error:  # it is full, read-only, ...; or no process can be started
                _log.warning("not done: %s", error, pool=self.name, step=step.__name__)
            except Exception:  # over something unforeseen in Redis: no reason to die
                _log.exception("not done", pool=self.name, step=step.__name__)
        return done == len(steps)

    def _sweep(self) -> None:
        """Give back batches whose lease has run out, of any pool."""
        expired, reaped = sweep(self._redis, self._settings)
        if expired:
            _log.info("%d jobs expired before they were started", expired)
        for one in reaped:
            _log.error(
                "a lease ran out; %d jobs given back, %d failed",
                one.given_back,
                one.failed,
                worker=one.worker,
                queue=one.queue,
            )

    def _enqueue_due(self) -> None:
        """Queue jobs that RQ's clients have scheduled, or deferred; end what RQ has let go."""
        now = self._clock()
        if now - self._due_at < _DUE_S:
            return
        self._due_at = now
        enqueue_due(self._redis, self._scheduler.queues(), self._settings)
        orphans = self._orphans.look()
        if orphans:
            _log.warning("%d jobs failed: they were removed from their queue", orphans)

    def _scale(self) -> None:
        now = self._clock()
        seen = self._observe(now)
        plan = decide(seen, self._policy, now)
        if plan.start and now >= self._monitor.start_after and self._start(plan.start):
            self._started_at = now
        for name in plan.leave:
            self._monitor.workers[name].leave()
        self._place_guard(guard(seen, self._policy))

    def _observe(self, now: float) -> Observation:
        staying = self._monitor.staying
        return self._observer.observe(
            now,
            {worker.name: worker.state for worker in staying},
            {c.name: c.idle_since for c in staying if c.idle_since is not None},
            self._started_at,
            self._guard,
            len(unmet_warmups(self._redis, self.name, self._scheduler.known.__contains__)),
        )

    def _place_guard(self, found: Guard | None) -> None:
        """Keep one worker free for short batches; the one before it takes all batches again."""
        if self._guard and (found is None or found.worker != self._guard):
            self._redis.delete(keys.key("off", self._guard))
        self._guard = found.worker if found else ""
        if found:
            keep_off(self._redis, found.worker, found.off)

    def _room(self) -> int:
        """Return how many more workers could be started now."""
        if self._signals.count or self._clock() < self._monitor.start_after:
            return 0
        return max(0, self._policy.most - len(self._monitor.staying))

    def _tend(self) -> None:
        """Keep the fork server, with the runtimes that published versions need."""
        self._spawner.tend(self._needs.runtimes())

    def _start(self, count: int) -> int:
        """Start ``count`` workers; return how many were. The others wait for the fork server."""
        for place in range(count):
            name = f"{self.name}-{secrets.token_hex(3)}"
            process = self._spawner.start(name)
            if process is None:
                return place
            self._monitor.workers[name] = WorkerHandle(name, process, self._clock())
        return count

    def _announce(self) -> None:
        if (
            self._clock() - self._announced_at < _BEAT_S
            and len(self._monitor.workers) == self._announced
        ):
            return  # a change in their number is announced at once, for other pools
        self._announced = len(self._monitor.workers)
        states = Counter(worker.state for worker in self._monitor.workers.values())
        what = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "release": self._release,
            "looked_ms": int(self._looked_ms),
            "workers": dict(states),
            "min": self._policy.least,
            "max": self._policy.most,
            "pattern": self._pattern,
            "warms": not (self._signals.count or self._outdated),  # flips wait for its loads
            "staying": len(self._monitor.staying),
            "room": self._room(),
            "arrivals_s": self._observer.arrivals_s,
            "start_s": round(self._observer.start_s, 3),
        }
        announce_presence(self._redis, "pool", self.name, what)
        self._outdated = format_problem(self._redis)
        self._announced_at = self._clock()

    def _drain(self, steps: Sequence[Callable[[], None]]) -> None:
        """Let all workers end their batch, within the drain time; then kill those that are left."""
        for worker in self._monitor.workers.values():
            worker.leave()
        ends = self._clock() + self._settings.drain_s
        while self._monitor.is_any_alive and self._clock() < ends:
            self._go_round(*steps)
            self._signals.wait(min(TICK_S, max(0.0, ends - self._clock())))
        self._monitor.kill_all()
        for worker in self._monitor.workers.values():
            worker.process.wait()
        self._do(self._monitor.collect_exited, self._withdraw)

    def _withdraw(self) -> None:
        """Remove the pool's own entries."""
        self._redis.delete(keys.key("pool", self.name))
        self._redis.zrem(keys.PRESENCE, f"pool:{self.name}")
