"""The workers of a pool, watched: the dead are buried, the late are ended, the others vouched for.

`worker.pool.supervisor` takes these steps in each of its rounds, beside its own, which are about
how many workers there should be. All that is known of a worker is in its `WorkerHandle`: what it
says in Redis, and what its process does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import psutil
import structlog
from redis import Redis

from worker.pool.child import WorkerHandle, WorkerView
from worker.pool.processes import collect_strays
from worker.process import unregister
from worker.queue import Lease, Reaped, Reason, reap
from yard.cluster import count_crash, record_crash
from yard.contract import keys
from yard.platform import exit_cause
from yard.settings import Settings

_log = structlog.get_logger()

#: After so long without a look, Redis has been away, in seconds.
_GAP_S = 1.5

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


class WorkerMonitor:
    """The watch over one pool's workers.

    Args:
        redis: Where workers say what they do.
        settings: All there is to set.
        others: Tells the processes that are collected elsewhere.
        clock: Seconds, never going back.

    Attributes:
        children: The workers by name, from their start until they are buried.
        now_ms: When they were looked at last, by Redis' clock; 0.0 before the first look.
        start_after: When another may be started, by ``clock``: later after one that died at once.
    """

    def __init__(
        self,
        redis: Redis,
        settings: Settings,
        others: Callable[[], Collection[int]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._settings = settings
        self._others = others
        self._clock = clock
        self.children: dict[str, WorkerHandle] = {}
        self.now_ms = 0.0
        self.start_after = 0.0
        self._backoff_s = 0.0
        self._looked = clock()
        self._spare_until = float("-inf")

    @property
    def staying(self) -> list[WorkerHandle]:
        """Those that were not asked to leave."""
        return [child for child in self.children.values() if not child.is_leaving]

    @property
    def is_any_alive(self) -> bool:
        """Whether a process of theirs still runs."""
        return any(child.process.poll() is None for child in self.children.values())

    def bury(self) -> None:
        """Return what dead workers held, and take their entries away."""
        for child in [c for c in self.children.values() if c.process.poll() is not None]:
            status = child.process.returncode
            reaped = self._reap(child)
            unregister(self._redis, child.name)
            del self.children[child.name]
            if child.is_cut or (status == 0 and reaped is None):
                _log.info("worker left", worker=child.name)
            else:
                self._note_crash(child, status, reaped)
        collect_strays({*self._others(), *(c.process.pid for c in self.children.values())})

    def _reap(self, child: WorkerHandle) -> Reaped | None:
        why: Reason = "timeout" if child.overdue else "died"
        why = "released" if child.is_cut else why
        return reap(self._redis, child.name, why, self._settings, child.overdue or "")

    def _note_crash(self, child: WorkerHandle, status: int | None, reaped: Reaped | None) -> None:
        queue = reaped.queue if reaped and reaped.is_charged else ""
        _log.error(
            "a worker died (%s); %d jobs given back, %d failed",
            exit_cause(status or 0),
            reaped.given_back if reaped else 0,
            reaped.failed if reaped else 0,
            worker=child.name,
            queue=queue,
        )
        if self._clock() - child.born > _LONG_LIFE_S or reaped is not None:
            self._backoff_s = 0.0  # it died of a job: the next one may start at once
        else:
            self._backoff_s = min(_LAST_BACKOFF_S, max(_FIRST_BACKOFF_S, self._backoff_s * 2))
            self.start_after = self._clock() + self._backoff_s
        count_crash(self._redis, queue)
        row, held_s = record_crash(self._redis, queue, status or 0)
        if held_s:
            _log.error("%d workers in a row died; held back for %g s", row, held_s, queue=queue)

    def look(self) -> None:
        """See what each worker does, and with which batch."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.time()
        for name in self.children:
            pipe.hmget(keys.key("worker", name), "state", "my_load")
            pipe.hmget(keys.key("batch", name), "token", "deadline_ms")
        (seconds, micros), *found = pipe.execute()
        now, passed_s = self._clock(), self._note_look()
        before_ms, self.now_ms = self.now_ms, seconds * 1000 + micros / 1000
        # A batch that is seen for the first time was claimed after the last look. Where Redis'
        # clock has gone ahead of ours since, it may have been claimed before that step.
        step_ms = max(0.0, self.now_ms - before_ms - 1000 * passed_s) if before_ms else 0.0
        for child, entry, batch in zip(
            self.children.values(), found[::2], found[1::2], strict=True
        ):
            view = WorkerView(*entry, *batch)
            child.note(view, now, self.now_ms - step_ms, self._settings.timeout_s)

    def _note_look(self) -> float:
        """Seconds since the last look; after a gap, workers first write what they have."""
        now = self._clock()
        passed_s, self._looked = now - self._looked, now
        if passed_s > _GAP_S:
            self._spare_until = now + self._settings.lease_s
        return passed_s

    def vouch(self) -> None:
        """Renew for workers that run: code that keeps Python's lock keeps their own thread from it.

        Whoever is stopped does not run, and loses its lease; whoever hangs has its deadline, and is
        this pool's to end.
        """
        for child in self.children.values():
            if child.token is not None and _runs(child.process.pid):
                Lease(self._redis, child.name, self._settings).renew(child.token)

    def end_late(self) -> None:
        """End workers whose batch has run past its deadline: first asked, a second later killed."""
        now = self._clock()
        for child in self.children.values():
            if child.is_late and now >= self._spare_until and child.overdue is None:
                _log.error("a batch ran past its deadline; its worker ends", worker=child.name)
                child.end_overdue(now + _GRACE_S)
            if child.kill_at is not None and now >= child.kill_at:
                child.process.kill()

    def kill_all(self) -> None:
        """Kill all that run; also called in the handler of a second signal."""
        for child in list(self.children.values()):
            if child.process.poll() is None:
                child.is_cut = True
                child.process.kill()


def _runs(pid: int) -> bool:
    """Whether a process could do something, if it wanted to: it is there, and not stopped."""
    try:
        return psutil.Process(pid).status() not in _STILL
    except psutil.Error:
        return False
