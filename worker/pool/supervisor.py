"""The pool: starts workers, watches them, returns what they held when they die, and lets them go.

One supervisor a machine. It knows nothing of other pools but what Redis says. Twice a second, and
at once when a child ends, it takes a round: it buries the dead (their batches go back to the
queues) and ends workers whose batch has run past its deadline (`worker.pool.monitor`), returns
batches whose lease has run out anywhere, and starts or dismisses workers as
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
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from worker.pool.autoscaler import Guard, Observation, Policy, decide, guard
from worker.pool.child import WorkerHandle
from worker.pool.monitor import WorkerMonitor
from worker.pool.observer import Needs, Observer
from worker.pool.spawner import Spawner
from worker.queue import OUTAGE, QueueScheduler, keep_off, sweep
from yard.broker import connections
from yard.cluster import Bounds, announce_presence, format_problem
from yard.contract import keys
from yard.errors import ConfigurationError
from yard.platform import StopSignals, extras, work_folder
from yard.routing import unmet_warmups
from yard.settings import Settings

_log = structlog.get_logger()

#: How often the pool looks around, in seconds.
TICK_S = 0.5

#: How often it says that it lives, in seconds.
_BEAT_S = 2.0


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
        self._needs = Needs(self._redis, pattern, self._scheduler.queues)
        self._spawner = Spawner(settings, self.name, pattern, clock)
        self._watch = WorkerMonitor(self._redis, settings, lambda: self._spawner.pids, clock)
        self._started_at = float("-inf")
        self._guard = ""
        self._beaten = float("-inf")
        self._told = 0
        self._looked_ms = 0.0
        self._outdated = ""
        self._signals = StopSignals(on_second=self._watch.kill_all)

    def run(self) -> None:
        """Keep workers running until a signal asks to stop, then drain; in the main thread.

        Raises:
            ConfigurationError: It was drained because a newer release has changed the format of
                what is in Redis.
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
        watch = (self._watch.bury, self._watch.look, self._watch.vouch, self._watch.end_late)
        while not (self._signals.count or self._outdated):
            self._go_round(*watch, self._sweep, self._tend, self._scale)
            self._pause()
        self._spawner.stop()
        self._drain(watch)
        _log.info("pool stopped", pool=self.name)

    def _go_round(self, *steps: Callable[[], None]) -> None:
        """Take the steps, and say that this pool lives; that it looked only if all were done."""
        if self._do(*steps) or not self._looked_ms:  # it has only begun: not stuck yet
            self._looked_ms = self._watch.now_ms
        self._do(self._beat)

    def _pause(self) -> None:
        """Wait for news; also of jobs, while there is no worker to look for them itself."""
        ends = self._clock() + TICK_S
        step_s = TICK_S if self._watch.children else min(TICK_S, self._settings.look_s)
        while not self._signals.wait(step_s, self._spawner.descriptors):
            if self._clock() >= ends or self._has_news():
                return

    def _has_news(self) -> bool:
        try:
            return self._needs.has_jobs()
        except OUTAGE:  # the next round says so
            return False

    def _do(self, *steps: Callable[[], None]) -> bool:
        """Take the steps. One that fails costs the others nothing, unless Redis is away.

        Returns:
            Whether all of them were done.
        """
        done = 0
        for step in steps:
            try:
                step()
                done += 1
            except (RedisConnectionError, RedisTimeoutError) as error:
                _log.warning("Redis is away: %s", error, pool=self.name)
                return False
            except OUTAGE as error:  # it is full, read-only, ...; or no process can be started
                _log.warning("not done: %s", error, pool=self.name, step=step.__name__)
            except Exception:  # of something in Redis that nobody thought of: no reason to die
                _log.exception("not done", pool=self.name, step=step.__name__)
        return done == len(steps)

    def _sweep(self) -> None:
        """Return batches whose lease has run out, of whichever pool."""
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

    def _scale(self) -> None:
        now = self._clock()
        seen = self._observe(now)
        plan = decide(seen, self._policy, now)
        if plan.start and now >= self._watch.start_after and self._start(plan.start):
            self._started_at = now
        for name in plan.leave:
            self._watch.children[name].leave()
        self._place_guard(guard(seen, self._policy))

    def _observe(self, now: float) -> Observation:
        staying = self._watch.staying
        return self._observer.observe(
            now,
            {child.name: child.state for child in staying},
            {c.name: c.idle_since for c in staying if c.idle_since is not None},
            self._started_at,
            self._guard,
            len(unmet_warmups(self._redis, self.name, self._scheduler.known.__contains__)),
        )

    def _place_guard(self, found: Guard | None) -> None:
        """Keep one worker free for short batches; who is no longer told takes all of them again."""
        if self._guard and (found is None or found.worker != self._guard):
            self._redis.delete(keys.key("off", self._guard))
        self._guard = found.worker if found else ""
        if found:
            keep_off(self._redis, found.worker, found.off)

    def _room(self) -> int:
        """How many workers more could be started now."""
        if self._signals.count or self._clock() < self._watch.start_after:
            return 0
        return max(0, self._policy.most - len(self._watch.staying))

    def _tend(self) -> None:
        """Keep the fork server, and tell it what published versions need."""
        self._spawner.tend(self._needs.runtimes())

    def _start(self, count: int) -> int:
        """Start so many workers: how many were. The others have to wait for the fork server."""
        for place in range(count):
            name = f"{self.name}-{secrets.token_hex(3)}"
            process = self._spawner.start(name)
            if process is None:
                return place
            self._watch.children[name] = WorkerHandle(name, process, self._clock())
        return count

    def _beat(self) -> None:
        if self._clock() - self._beaten < _BEAT_S and len(self._watch.children) == self._told:
            return  # other pools are to know at once of a worker more or less
        self._told = len(self._watch.children)
        states = Counter(child.state for child in self._watch.children.values())
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
            "staying": len(self._watch.staying),
            "room": self._room(),
            "arrivals_s": self._observer.arrivals_s,
            "start_s": round(self._observer.start_s, 3),
        }
        announce_presence(self._redis, "pool", self.name, what)
        self._outdated = format_problem(self._redis)
        self._beaten = self._clock()

    def _drain(self, watch: Sequence[Callable[[], None]]) -> None:
        """Let every worker end its batch, within the drain time; then kill what is left."""
        for child in self._watch.children.values():
            child.leave()
        ends = self._clock() + self._settings.drain_s
        while self._watch.is_any_alive and self._clock() < ends:
            self._go_round(*watch)
            self._signals.wait(min(TICK_S, max(0.0, ends - self._clock())))
        self._watch.kill_all()
        for child in self._watch.children.values():
            child.process.wait()
        self._do(self._watch.bury, self._vanish)

    def _vanish(self) -> None:
        """Take the pool's own entries away."""
        self._redis.delete(keys.key("pool", self.name))
        self._redis.zrem(keys.PRESENCE, f"pool:{self.name}")
