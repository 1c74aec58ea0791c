"""Monitors a pool's workers: reaps those that exited, ends overdue ones, renews for the rest.

`worker.pool.supervisor` takes these steps in each of its rounds, beside its own, which are about
the number of workers. All that is known of a worker, from Redis and of its process, is in its
`WorkerHandle`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import psutil
import structlog
from redis import Redis

from worker.pool.processes import collect_strays
from worker.pool.worker_handle import WorkerHandle, WorkerView
from worker.process import unregister
from worker.queue import Lease, Reaped, Reason, reap
from yard.cluster import count_crash, record_crash
from yard.contract import keys
from yard.platform import exit_cause
from yard.settings import Settings

_log = structlog.get_logger()

#: Redis, or this pool, was away if two looks are further apart than this, in seconds.
_GAP_S = 1.5

#: Time between SIGTERM and SIGKILL for a worker whose batch is overdue, in seconds.
_GRACE_S = 1.0

#: Backoff before the next start after a worker that died at once, doubling, in seconds.
_FIRST_BACKOFF_S = 0.5
_LAST_BACKOFF_S = 30.0

#: States of processes that do not run.
_STILL = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_ZOMBIE)

#: A worker that lived this long, in seconds, died of something new.
_LONG_LIFE_S = 30.0


class WorkerMonitor:
    """Monitors the workers of one pool.

    Args:
        redis: Where workers write their state.
        settings: All there is to set.
        others: Returns the worker processes that other parts of the pool collect.
        clock: Seconds, never going back.

    Attributes:
        workers: The workers by name, from their start until they are collected.
        now_ms: Time of the last look, by Redis' clock; 0.0 before the first.
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
        self.workers: dict[str, WorkerHandle] = {}
        self.now_ms = 0.0
        self.start_after = 0.0
        self._backoff_s = 0.0
        self._looked = clock()
        self._spare_until = float("-inf")

    @property
    def staying(self) -> list[WorkerHandle]:
        """Workers that were not asked to leave."""
        return [worker for worker in self.workers.values() if not worker.is_leaving]

    @property
    def is_any_alive(self) -> bool:
        """True if a worker's process still runs."""
        return any(worker.process.poll() is None for worker in self.workers.values())

    def collect_exited(self) -> None:
        """Give back what exited workers held, and remove their entries."""
        for worker in [c for c in self.workers.values() if c.process.poll() is not None]:
            status = worker.process.returncode
            reaped = self._reap(worker)
            unregister(self._redis, worker.name)
            del self.workers[worker.name]
            if worker.is_cut or (status == 0 and reaped is None):
                _log.info("worker left", worker=worker.name)
            else:
                self._record_crash(worker, status, reaped)
        collect_strays({*self._others(), *(c.process.pid for c in self.workers.values())})

    def _reap(self, worker: WorkerHandle) -> Reaped | None:
        why: Reason = "timeout" if worker.overdue else "died"
        why = "released" if worker.is_cut else why
        return reap(self._redis, worker.name, why, self._settings, worker.overdue or "")

    def _record_crash(
        self, worker: WorkerHandle, status: int | None, reaped: Reaped | None
    ) -> None:
        queue = reaped.queue if reaped and reaped.is_charged else ""
        _log.error(
            "a worker died (%s); %d jobs given back, %d failed",
            exit_cause(status or 0),
            reaped.given_back if reaped else 0,
            reaped.failed if reaped else 0,
            worker=worker.name,
            queue=queue,
        )
        if self._clock() - worker.born > _LONG_LIFE_S or reaped is not None:
            self._backoff_s = 0.0  # it died of a job: the next one may start at once
        else:
            self._backoff_s = min(_LAST_BACKOFF_S, max(_FIRST_BACKOFF_S, self._backoff_s * 2))
            self.start_after = self._clock() + self._backoff_s
        count_crash(self._redis, queue)
        row, held_s = record_crash(self._redis, queue, status or 0)
        if held_s:
            _log.error("%d workers in a row died; held back for %g s", row, held_s, queue=queue)

    def look(self) -> None:
        """Read each worker's state and batch."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.time()
        for name in self.workers:
            pipe.hmget(keys.key("worker", name), "state", "my_load")
            pipe.hmget(keys.key("batch", name), "token", "deadline_ms")
        (seconds, micros), *found = pipe.execute()
        now, passed_s = self._clock(), self._record_look()
        before_ms, self.now_ms = self.now_ms, seconds * 1000 + micros / 1000
        # A batch that is seen for the first time was claimed after the last look. Where Redis'
        # clock has gone ahead of ours since, it may have been claimed before that step.
        step_ms = max(0.0, self.now_ms - before_ms - 1000 * passed_s) if before_ms else 0.0
        for worker, entry, batch in zip(
            self.workers.values(), found[::2], found[1::2], strict=True
        ):
            view = WorkerView(*entry, *batch)
            worker.update(view, now, self.now_ms - step_ms, self._settings.timeout_s)

    def _record_look(self) -> float:
        """Return seconds since the last look; after a gap, spare late workers: they write first."""
        now = self._clock()
        passed_s, self._looked = now - self._looked, now
        if passed_s > _GAP_S:
            self._spare_until = now + self._settings.lease_s
        return passed_s

    def renew_for_running(self) -> None:
        """Renew leases for running workers: code that holds Python's lock stops their own thread.

        A worker that is stopped (SIGSTOP) loses its lease. One that hangs has its deadline, and
        this pool ends it.
        """
        for worker in self.workers.values():
            if worker.token is not None and _runs(worker.process.pid):
                Lease(self._redis, worker.name, self._settings).renew(worker.token)

    def end_late(self) -> None:
        """End workers whose batch is past its deadline: SIGTERM, and SIGKILL a second later."""
        now = self._clock()
        for worker in self.workers.values():
            if worker.is_late and now >= self._spare_until and worker.overdue is None:
                _log.error("a batch ran past its deadline; its worker ends", worker=worker.name)
                worker.end_overdue(now + _GRACE_S)
            if worker.kill_at is not None and now >= worker.kill_at:
                worker.process.kill()

    def kill_all(self) -> None:
        """Kill all workers that run; also called in the handler of a second signal."""
        for worker in list(self.workers.values()):
            if worker.process.poll() is None:
                worker.is_cut = True
                worker.process.kill()


def _runs(pid: int) -> bool:
    """Return whether a process is there and not stopped."""
    try:
        return psutil.Process(pid).status() not in _STILL
    except psutil.Error:
        return False
