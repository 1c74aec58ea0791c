"""The pool: starts workers, watches them, returns what they held when they die, and lets them go.

One supervisor a machine. It knows nothing of other pools but what Redis says. Twice a second, and
at once when a child ends, it buries the dead (their batches go back to the queues), ends workers
whose batch has run past its deadline, returns batches whose lease has run out anywhere, and starts
or dismisses workers as `worker.autoscaler` decides.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence

import psutil
import structlog
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from producer import connect, extras, keys
from producer.errors import ConfigurationError
from producer.format import format_problem
from producer.settings import Settings
from producer.signals import StopSignals, cause_of
from producer.warming import unmet
from producer.work import Bounds
from worker.autoscaler import Guard, Observation, Policy, decide, guard
from worker.board import Board, keep_off
from worker.child import Child
from worker.lease import Lease, Reaped, Reason, reap, sweep
from worker.lookout import Lookout
from worker.needs import Needs
from worker.outage import OUTAGE
from worker.processes import collect_strays
from worker.registration import announce, unregister
from worker.starter import Starter
from worker.tally import count_crash, note_crash

_log = structlog.get_logger()

#: How often the pool looks around, in seconds.
TICK_S = 0.5

#: How often it says that it lives, in seconds.
_BEAT_S = 2.0

#: How long a worker has between SIGTERM and SIGKILL once its batch is over its deadline, in
#: seconds.
_GRACE_S = 1.0

#: After a worker that died at once, the next is started this much later, doubling, in seconds.
_FIRST_BACKOFF_S = 0.5
_LAST_BACKOFF_S = 30.0

#: What processes are doing that do nothing.
_STILL = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_ZOMBIE)

#: A worker that lived this long died of something new, in seconds.
_LONG_LIFE_S = 30.0


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
        self._url = url
        self._pattern = pattern
        self._clock = clock
        self._policy = Policy(
            settings.pool_min,
            settings.pool_max,
            settings.idle_s,
            Bounds(settings.target_wait_s, settings.batch_jobs, settings.batch_rows),
        )
        self._redis: Redis = connect.steady(url, self.name)
        self._board = Board(self._redis, pattern)
        self._lookout = Lookout(self._redis, self.name, self._board.queues, self._policy)
        self._needs = Needs(self._redis, pattern, self._board.queues)
        self._starter = Starter(settings, self.name, pattern, clock)
        self._children: dict[str, Child] = {}
        self._backoff_s = 0.0
        self._start_after = 0.0
        self._started_at = float("-inf")
        self._guard = ""
        self._beaten = float("-inf")
        self._told = 0
        self._looked = clock()
        self._spare_until = float("-inf")
        self._now_ms = 0.0
        self._looked_ms = 0.0
        self._outdated = ""
        self._signals = StopSignals(on_second=self._kill_all)

    def run(self) -> None:
        """Keep workers running until a signal asks to stop, then drain; in the main thread.

        Raises:
            ConfigurationError: It was drained because a newer release has changed the format of
                what is in Redis.
        """
        with self._signals:
            self._run()
        if self._outdated:
            raise ConfigurationError(self._outdated)

    def _run(self) -> None:
        _log.info("pool started", pool=self.name)
        if not self._signals.count:
            self._do(self._tend)
            self._start(self._policy.least)
        watch = (self._bury, self._look, self._vouch, self._enforce_deadlines)
        while not (self._signals.count or self._outdated):
            self._go_round(*watch, self._sweep, self._tend, self._scale)
            self._pause()
        self._starter.stop()
        self._drain(watch)
        _log.info("pool stopped", pool=self.name)

    def _go_round(self, *steps: Callable[[], None]) -> None:
        """Take the steps, and say that this pool lives; that it looked only if all were done."""
        if self._do(*steps):
            self._looked_ms = self._now_ms
        self._do(self._beat)

    def _pause(self) -> None:
        """Wait for news; also of jobs, while there is no worker to look for them itself."""
        ends = self._clock() + TICK_S
        step_s = TICK_S if self._children else min(TICK_S, self._settings.look_s)
        while not self._signals.wait(step_s, self._starter.descriptors):
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

    def _bury(self) -> None:
        """Return what dead workers held, and take their entries away."""
        for child in [c for c in self._children.values() if c.process.poll() is not None]:
            status = child.process.returncode
            why: Reason = "timeout" if child.is_overdue else "died"
            reaped = reap(
                self._redis, child.name, "released" if child.is_cut else why, self._settings
            )
            unregister(self._redis, child.name)
            del self._children[child.name]
            if child.is_cut or (status == 0 and reaped is None):
                _log.info("worker left", worker=child.name)
            else:
                self._note_crash(child, status, reaped)
        collect_strays({*self._starter.pids, *(c.process.pid for c in self._children.values())})

    def _note_crash(self, child: Child, status: int | None, reaped: Reaped | None) -> None:
        queue = reaped.queue if reaped else ""
        _log.error(
            "a worker died (%s); %d jobs given back, %d failed",
            cause_of(status or 0),
            reaped.given_back if reaped else 0,
            reaped.failed if reaped else 0,
            worker=child.name,
            queue=queue,
        )
        if self._clock() - child.born > _LONG_LIFE_S or reaped is not None:
            self._backoff_s = 0.0  # it died of a job: the next one may start at once
        else:
            self._backoff_s = min(_LAST_BACKOFF_S, max(_FIRST_BACKOFF_S, self._backoff_s * 2))
            self._start_after = self._clock() + self._backoff_s
        count_crash(self._redis, queue)
        row, held_s = note_crash(self._redis, queue, status or 0)
        if held_s:
            _log.error("%d workers in a row died; held back for %g s", row, held_s, queue=queue)

    def _look(self) -> None:
        """See what each worker does, and with which batch."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.time()
        for name in self._children:
            pipe.hget(keys.key("worker", name), "state")
            pipe.hmget(keys.key("batch", name), "token", "deadline_ms")
        (seconds, micros), *found = pipe.execute()
        self._now_ms = seconds * 1000 + micros / 1000
        self._looked_ms = self._looked_ms or self._now_ms  # it has only begun: not stuck yet
        self._note_gap()
        for child, state, (token, deadline) in zip(
            self._children.values(), found[::2], found[1::2], strict=True
        ):
            child.note_state(state, self._clock())
            child.note_batch(token, deadline, self._now_ms, self._settings.timeout_s)

    def _note_gap(self) -> None:
        """After a time without Redis, let workers first write what they have: deadlines wait."""
        now = self._clock()
        if now - self._looked > 3 * TICK_S:
            self._spare_until = now + self._settings.lease_s
        self._looked = now

    def _vouch(self) -> None:
        """Renew for workers that run: code that keeps Python's lock keeps their own thread from it.

        Whoever is stopped does not run, and loses its lease; whoever hangs has its deadline, and is
        this pool's to end.
        """
        for child in self._children.values():
            if child.token is not None and _runs(child.process.pid):
                Lease(self._redis, child.name, self._settings).renew(child.token)

    def _enforce_deadlines(self) -> None:
        """End workers whose batch has run past its deadline: first asked, a second later killed."""
        now = self._clock()
        for child in self._children.values():
            if child.is_late and now >= self._spare_until:
                self._end_overdue(child)
            if child.kill_at is not None and now >= child.kill_at:
                child.process.kill()

    def _end_overdue(self, child: Child) -> None:
        if child.is_overdue:
            return
        child.is_overdue = True
        child.kill_at = self._clock() + _GRACE_S
        _log.error("a batch ran past its deadline; its worker ends", worker=child.name)
        child.process.terminate()

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
        if plan.start and now >= self._start_after and self._start(plan.start):
            self._started_at = now
        for name in plan.leave:
            self._children[name].leave()
        self._place_guard(guard(seen, self._policy))

    def _observe(self, now: float) -> Observation:
        staying = self._staying()
        return self._lookout.observe(
            now,
            {child.name: child.state for child in staying},
            {c.name: c.idle_since for c in staying if c.idle_since is not None},
            self._started_at,
            self._guard,
            len(unmet(self._redis, self.name, self._board.known.__contains__)),
        )

    def _place_guard(self, found: Guard | None) -> None:
        """Keep one worker free for short batches; who is no longer told takes all of them again."""
        if self._guard and (found is None or found.worker != self._guard):
            self._redis.delete(keys.key("off", self._guard))
        self._guard = found.worker if found else ""
        if found:
            keep_off(self._redis, found.worker, found.off)

    def _staying(self) -> list[Child]:
        return [child for child in self._children.values() if not child.is_leaving]

    def _room(self) -> int:
        """How many workers more could be started now."""
        if self._signals.count or self._clock() < self._start_after:
            return 0
        return max(0, self._policy.most - len(self._staying()))

    def _tend(self) -> None:
        """Keep the fork server, and tell it what published versions need."""
        self._starter.tend(self._needs.runtimes())

    def _start(self, count: int) -> int:
        """Start so many workers: how many were. The others have to wait for the fork server."""
        for place in range(count):
            name = f"{self.name}-{secrets.token_hex(3)}"
            process = self._starter.start(name)
            if process is None:
                return place
            self._children[name] = Child(name, process, self._clock())
        return count

    def _beat(self) -> None:
        if self._clock() - self._beaten < _BEAT_S and len(self._children) == self._told:
            return  # other pools are to know at once of a worker more or less
        self._told = len(self._children)
        states = Counter(child.state for child in self._children.values())
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
            "staying": len(self._staying()),
            "room": self._room(),
            "arrivals_s": self._lookout.arrivals_s,
            "start_s": round(self._lookout.start_s, 3),
        }
        announce(self._redis, "pool", self.name, what)
        self._outdated = format_problem(self._redis)
        self._beaten = self._clock()

    def _drain(self, watch: Sequence[Callable[[], None]]) -> None:
        """Let every worker end its batch, within the drain time; then kill what is left."""
        for child in self._children.values():
            child.leave()
        ends = self._clock() + self._settings.drain_s
        while self._alive() and self._clock() < ends:
            self._go_round(*watch)
            self._signals.wait(min(TICK_S, max(0.0, ends - self._clock())))
        self._kill_all()
        for child in self._children.values():
            child.process.wait()
        self._do(self._bury, self._vanish)

    def _vanish(self) -> None:
        """Take the pool's own entries away."""
        self._redis.delete(keys.key("pool", self.name))
        self._redis.zrem(keys.PRESENCE, f"pool:{self.name}")

    def _alive(self) -> bool:
        return any(child.process.poll() is None for child in self._children.values())

    def _kill_all(self) -> None:
        """Also called in the handler of a second signal."""
        for child in list(self._children.values()):
            if child.process.poll() is None:
                child.is_cut = True
                child.process.kill()


def _runs(pid: int) -> bool:
    """Whether a process could do something, if it wanted to: it is there, and not stopped."""
    try:
        return psutil.Process(pid).status() not in _STILL
    except psutil.Error:
        return False
