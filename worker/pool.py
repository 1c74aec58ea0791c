"""The pool: starts workers, watches them, returns what they held when they die, and lets them go.

One supervisor a machine. It knows nothing of other pools but what Redis says. Twice a second, and
at once when a child ends, it buries the dead (their batches go back to the queues), ends workers
whose batch has run past its deadline, returns batches whose lease has run out anywhere, and starts
or dismisses workers as `worker.autoscaler` decides.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import structlog
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from producer import children, connect, keys, tether
from producer.settings import Settings
from producer.signals import StopSignals
from producer.work import Bounds
from worker.autoscaler import Guard, Observation, Policy, decide, guard
from worker.board import keep_off
from worker.lease import Lease, Reaped, Reason, reap, sweep
from worker.lookout import Lookout
from worker.outage import OUTAGE
from worker.registration import announce, unregister
from worker.tally import count_crash

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


@dataclass(slots=True)
class Child:
    """A worker process of this pool.

    Attributes:
        name: The worker's name.
        process: Its process.
        born: When it was started, by the monotonic clock.
        state: What it said it does; ``starting`` until it has said so.
        idle_since: When it was first seen idle.
        is_leaving: Whether it was asked to leave.
        token: The token of its batch, if it has one.
        deadline_ms: When its batch, which it may have lost since, must be over, by Redis' clock.
        is_late: Whether that time has passed.
        is_overdue: Whether it was told to end for that.
        kill_at: When it is killed, if it has been asked to end and must.
        is_cut: Whether it was killed because the pool's own time was up.
    """

    name: str
    process: subprocess.Popen[bytes]
    born: float
    state: str = "starting"
    idle_since: float | None = None
    is_leaving: bool = False
    token: str | None = None
    deadline_ms: float | None = None
    is_late: bool = False
    is_overdue: bool = False
    kill_at: float | None = None
    is_cut: bool = False


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
        self._lookout = Lookout(self._redis, self.name, pattern, self._policy)
        self._children: dict[str, Child] = {}
        self._backoff_s = 0.0
        self._start_after = 0.0
        self._started_at = float("-inf")
        self._guard = ""
        self._beaten = float("-inf")
        self._told = 0
        self._looked = clock()
        self._spare_until = float("-inf")
        self._signals = StopSignals(on_second=self._kill_all)

    def run(self) -> None:
        """Keep workers running until a signal asks to stop, then drain; in the main thread."""
        with self._signals:
            self._run()

    def _run(self) -> None:
        _log.info("pool started", pool=self.name)
        self._start(self._policy.least)
        watch = (self._bury, self._look, self._vouch, self._enforce_deadlines)
        while not self._signals.count:
            self._do(*watch, self._sweep, self._scale, self._beat)
            self._signals.wait(TICK_S)
        self._drain(watch)
        _log.info("pool stopped", pool=self.name)

    def _do(self, *steps: Callable[[], None]) -> None:
        """Take the steps. One that fails costs the others nothing, unless Redis is away."""
        for step in steps:
            try:
                step()
            except (RedisConnectionError, RedisTimeoutError) as error:
                _log.warning("Redis is away: %s", error, pool=self.name)
                return
            except OUTAGE as error:  # it is full, read-only, ...; or no process can be started
                _log.warning("not done: %s", error, pool=self.name, step=step.__name__)
            except Exception:  # of something in Redis that nobody thought of: no reason to die
                _log.exception("not done", pool=self.name, step=step.__name__)

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

    def _note_crash(self, child: Child, status: int, reaped: Reaped | None) -> None:
        queue = reaped.queue if reaped else ""
        _log.error(
            "a worker died (status %d); %d jobs given back, %d failed",
            status,
            reaped.given_back if reaped else 0,
            reaped.failed if reaped else 0,
            worker=child.name,
            queue=queue,
        )
        if self._clock() - child.born > _LONG_LIFE_S or reaped is not None:
            self._backoff_s = 0.0  # it did work, and died of a job: the next one may start at once
        else:
            self._backoff_s = min(_LAST_BACKOFF_S, max(_FIRST_BACKOFF_S, self._backoff_s * 2))
            self._start_after = self._clock() + self._backoff_s
        count_crash(self._redis, queue)

    def _look(self) -> None:
        """See what each worker does, and with which batch."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.time()
        for name in self._children:
            pipe.hget(keys.key("worker", name), "state")
            pipe.hmget(keys.key("batch", name), "token", "deadline_ms")
        (seconds, micros), *found = pipe.execute()
        now_ms = seconds * 1000 + micros / 1000
        self._note_gap()
        for child, state, batch in zip(
            self._children.values(), found[::2], found[1::2], strict=True
        ):
            self._note_state(child, state)
            self._note_batch(child, batch, now_ms)

    def _note_gap(self) -> None:
        """After a time without Redis, let workers first write what they have: deadlines wait."""
        now = self._clock()
        if now - self._looked > 3 * TICK_S:
            self._spare_until = now + self._settings.lease_s
        self._looked = now

    def _note_state(self, child: Child, state: bytes | None) -> None:
        child.state = state.decode("utf-8", "replace") if state else "starting"
        if child.state != "idle":
            child.idle_since = None
        elif child.idle_since is None:
            child.idle_since = self._clock()

    def _note_batch(self, child: Child, batch: list[bytes | None], now_ms: float) -> None:
        """Keep the deadline in mind while the worker is busy, also when it has lost its batch."""
        token, deadline = batch
        child.token = token.decode("utf-8", "replace") if token else None
        if deadline is not None:
            child.deadline_ms = _number(deadline)
        elif child.state != "busy":
            child.deadline_ms = None
        if child.deadline_ms is None and child.state == "busy":
            child.deadline_ms = now_ms + 1000 * self._settings.timeout_s
        child.is_late = child.deadline_ms is not None and now_ms > child.deadline_ms

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
        if plan.start and now >= self._start_after:
            self._start(plan.start)
            self._started_at = now
        for name in plan.leave:
            self._dismiss(self._children[name])
        self._place_guard(guard(seen, self._policy))

    def _observe(self, now: float) -> Observation:
        staying = self._staying()
        return self._lookout.observe(
            now,
            {child.name: child.state for child in staying},
            {c.name: c.idle_since for c in staying if c.idle_since is not None},
            self._started_at,
            self._guard,
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

    def _start(self, count: int) -> None:
        for _ in range(count):
            name = f"{self.name}-{secrets.token_hex(3)}"
            # -P: a folder `models` or `worker` where the user stands is not ours.
            argv = [sys.executable, "-P", "-m", "worker.process", name, self.name, self._pattern]
            process = subprocess.Popen(
                tether.command(argv, signal.SIGTERM),
                stdin=subprocess.DEVNULL,
                env=children.environ(self._settings.environ()),
                process_group=0,  # a Ctrl-C at the terminal reaches the pool, and it drains them
            )
            self._children[name] = Child(name, process, self._clock())

    def _dismiss(self, child: Child) -> None:
        child.is_leaving = True
        child.process.terminate()

    def _beat(self) -> None:
        if self._clock() - self._beaten < _BEAT_S and len(self._children) == self._told:
            return  # other pools are to know at once of a worker more or less
        self._told = len(self._children)
        states = Counter(child.state for child in self._children.values())
        what = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "workers": dict(states),
            "min": self._policy.least,
            "max": self._policy.most,
            "pattern": self._pattern,
            "staying": len(self._staying()),
            "room": self._room(),
            "arrivals_s": self._lookout.arrivals_s,
            "start_s": round(self._lookout.start_s, 3),
        }
        announce(self._redis, "pool", self.name, what)
        self._beaten = self._clock()

    def _drain(self, watch: Sequence[Callable[[], None]]) -> None:
        """Let every worker end its batch, within the drain time; then kill what is left."""
        for child in self._children.values():
            self._dismiss(child)
        ends = self._clock() + self._settings.drain_s
        while self._alive() and self._clock() < ends:
            self._do(*watch, self._beat)
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


def _number(raw: bytes) -> float | None:
    try:
        return float(raw)
    except ValueError:
        return None
