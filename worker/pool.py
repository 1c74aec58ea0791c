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
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from redis import Redis

from producer import children, connect, keys, tether
from producer.settings import Settings
from producer.signals import StopSignals
from worker.autoscaler import Observation, Policy, decide
from worker.board import Board
from worker.lease import Reaped, Reason, reap, sweep
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
        is_overdue: Whether its batch ran past the deadline.
        kill_at: When it is killed, if it has been asked to end and must.
    """

    name: str
    process: subprocess.Popen[bytes]
    born: float
    state: str = "starting"
    idle_since: float | None = None
    is_leaving: bool = False
    is_overdue: bool = False
    kill_at: float | None = None


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
        self._policy = Policy(settings.pool_min, settings.pool_max, settings.idle_s)
        self._redis: Redis = connect.steady(url, self.name)
        self._board = Board(self._redis, pattern)
        self._children: dict[str, Child] = {}
        self._backoff_s = 0.0
        self._start_after = 0.0
        self._beaten = float("-inf")
        self._swept = clock()
        self._spare_until = float("-inf")
        self._signals = StopSignals(on_second=self._kill_all)

    def run(self) -> None:
        """Keep workers running until a signal asks to stop, then drain; in the main thread."""
        with self._signals:
            self._run()

    def _run(self) -> None:
        _log.info("pool started", pool=self.name)
        self._start(self._policy.least)
        while not self._signals.count:
            try:
                self._tick()
            except OUTAGE as error:
                _log.warning("Redis is away: %s", error, pool=self.name)
            self._signals.wait(TICK_S)
        self._drain()
        _log.info("pool stopped", pool=self.name)

    def _tick(self) -> None:
        self._bury()
        self._look()
        self._enforce_deadlines()
        self._sweep()
        self._scale()
        self._beat()

    def _bury(self) -> None:
        """Return what dead workers held, and take their entries away."""
        for child in [c for c in self._children.values() if c.process.poll() is not None]:
            status = child.process.returncode
            why: Reason = "timeout" if child.is_overdue else "died"
            reaped = reap(self._redis, child.name, why, self._settings)
            unregister(self._redis, child.name)
            del self._children[child.name]
            if status == 0 and reaped is None:
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
        count_crash(self._redis, queue)
        if self._clock() - child.born > _LONG_LIFE_S or reaped is not None:
            self._backoff_s = 0.0  # it did work, and died of a job: the next one may start at once
        else:
            self._backoff_s = min(_LAST_BACKOFF_S, max(_FIRST_BACKOFF_S, self._backoff_s * 2))
            self._start_after = self._clock() + self._backoff_s

    def _look(self) -> None:
        """See what each worker does."""
        if not self._children:
            return
        pipe = self._redis.pipeline(transaction=False)
        for name in self._children:
            pipe.hget(keys.key("worker", name), "state")
        now = self._clock()
        for child, state in zip(self._children.values(), pipe.execute(), strict=True):
            child.state = state.decode("utf-8", "replace") if state else "starting"
            if child.state != "idle":
                child.idle_since = None
            elif child.idle_since is None:
                child.idle_since = now

    def _enforce_deadlines(self) -> None:
        """End workers whose batch has run past its deadline: first asked, a second later killed."""
        busy = [child for child in self._children.values() if child.state == "busy"]
        if busy:
            pipe = self._redis.pipeline(transaction=False)
            pipe.time()
            for child in busy:
                pipe.hget(keys.key("batch", child.name), "deadline_ms")
            (seconds, micros), *deadlines = pipe.execute()
            now_ms = seconds * 1000 + micros / 1000
            for child, deadline_ms in zip(busy, deadlines, strict=True):
                if deadline_ms is not None and now_ms > float(deadline_ms):
                    self._end_overdue(child)
        now = self._clock()
        for child in self._children.values():
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
        """Return batches whose lease has run out, of whichever pool.

        After a time in which Redis was away, or this process stood still, live workers get a
        lease's time to renew before anything is taken from them.
        """
        now = self._clock()
        was_away = now - self._swept > max(4 * TICK_S, self._settings.lease_s)
        if was_away:
            self._spare_until = now + self._settings.lease_s
        expired, reaped = sweep(self._redis, self._settings, leases=now >= self._spare_until)
        self._swept = now
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
        plan = decide(self._observe(now), self._policy)
        if plan.start and now >= self._start_after:
            self._start(plan.start)
        for name in plan.leave:
            self._dismiss(self._children[name])

    def _observe(self, now: float) -> Observation:
        staying = [child for child in self._children.values() if not child.is_leaving]
        return Observation(
            queued=self._queued(),
            starting=sum(child.state == "starting" for child in staying),
            busy=sum(child.state not in ("starting", "idle") for child in staying),
            idle_for={
                child.name: now - child.idle_since
                for child in staying
                if child.idle_since is not None
            },
        )

    def _queued(self) -> int:
        pipe = self._redis.pipeline(transaction=False)
        for queue in self._board.queues():
            pipe.llen(keys.key("queue", queue))
        return sum(n for n in pipe.execute(raise_on_error=False) if isinstance(n, int))

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
        if self._clock() - self._beaten < _BEAT_S:
            return
        states = Counter(child.state for child in self._children.values())
        what = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "workers": dict(states),
            "min": self._policy.least,
            "max": self._policy.most,
            "pattern": self._pattern,
        }
        announce(self._redis, "pool", self.name, what)
        self._beaten = self._clock()

    def _drain(self) -> None:
        """Let every worker end its batch, within the drain time; then kill what is left."""
        for child in self._children.values():
            self._dismiss(child)
        ends = self._clock() + self._settings.drain_s
        while self._alive() and self._clock() < ends:
            self._signals.wait(min(TICK_S, max(0.0, ends - self._clock())))
        self._kill_all()
        for child in self._children.values():
            child.process.wait()
        try:
            self._bury()
            self._redis.delete(keys.key("pool", self.name))
            self._redis.zrem(keys.PRESENCE, f"pool:{self.name}")
        except OUTAGE as error:
            _log.warning("Redis is away, leases run out by themselves: %s", error)

    def _alive(self) -> bool:
        return any(child.process.poll() is None for child in self._children.values())

    def _kill_all(self) -> None:
        """Also called in the handler of a second signal."""
        for child in list(self._children.values()):
            if child.process.poll() is None:
                child.process.kill()
