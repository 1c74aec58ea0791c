"""A simulated yard with its own clock, to see the pool's decisions under a load.

Queues, workers and their batches are simulated. The code under test decides which workers start and
leave, which queue is next, and how fast workers are. A second of the yard takes milliseconds.
"""

from __future__ import annotations

import csv
import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from tests.helpers import ROOT
from worker.inference.throughput import ServiceTimes
from worker.pool.autoscaler import Memory, Observation, Peer, Policy, decide
from worker.queue.fair_queue import FairQueue
from yard.cluster.capacity import Pace, Work

TRACES = ROOT / "tests" / "traces"

_TICK_S = 0.5
_STEP_S = 0.02


@dataclass(frozen=True, slots=True)
class Trace:
    """A load: jobs a second for each version, second by second."""

    rates: Mapping[str, Sequence[float]]

    @property
    def seconds(self) -> int:
        return max(len(rates) for rates in self.rates.values())

    def arrivals(self, seed: int) -> list[tuple[float, str, int]]:
        """Arrivals as (moment in seconds, queue, jobs), random but the same for one seed."""
        rng = np.random.default_rng(seed)
        found = []
        for queue, rates in self.rates.items():
            steps = np.repeat(rates, round(1 / _STEP_S)) * _STEP_S
            for step, jobs in enumerate(rng.poisson(steps)):
                if jobs:
                    found.append((step * _STEP_S, queue, int(jobs)))
        return sorted(found)


def read_trace(name: str) -> Trace:
    """``tests/traces/{name}.csv``: a column for each version, a line for each second."""
    with (TRACES / f"{name}.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return Trace({queue: [float(row[queue]) for row in rows] for queue in rows[0]})


@dataclass
class Worker:
    name: str
    loaded: set[str] = field(default_factory=set)
    fair_queue: FairQueue = field(default_factory=FairQueue)
    state: str = "starting"
    idle_since: float | None = None
    is_leaving: bool = False


@dataclass
class Pool:
    """One pool of the simulated yard, and its starts and stops."""

    name: str
    policy: Policy
    memory: Memory
    workers: dict[str, Worker] = field(default_factory=dict)
    started_at: float = float("-inf")
    starts: list[float] = field(default_factory=list)
    stops: list[float] = field(default_factory=list)

    def staying(self) -> list[Worker]:
        return [worker for worker in self.workers.values() if not worker.is_leaving]


@dataclass
class Outcome:
    """The outcome of a load.

    Attributes:
        waits: Moment of arrival, version, wait in seconds and jobs, of each batch's parts.
        sizes: Workers at each tick.
        worker_s: Seconds of all workers, from their start to their end.
        starts: Moments at which workers were started, with those of the minimum at the start.
        stops: Moments at which workers left.
        dismissed_busy: Workers that had a batch when they were asked to leave.
        left: Jobs that were not served.
    """

    waits: list[tuple[float, str, float, int]] = field(default_factory=list)
    sizes: list[tuple[float, int]] = field(default_factory=list)
    worker_s: float = 0.0
    starts: list[float] = field(default_factory=list)
    stops: list[float] = field(default_factory=list)
    dismissed_busy: int = 0
    left: int = 0
    loads: Counter[str] = field(default_factory=Counter)

    def wait_s(self, share: float, since: float, until: float, queue: str = "") -> float:
        """The quantile ``share`` of the waits of jobs that arrived in a span, in seconds."""
        found = sorted(
            (wait, jobs)
            for at, name, wait, jobs in self.waits
            if since <= at < until and queue in ("", name)
        )
        total, so_far = sum(jobs for _, jobs in found), 0
        for wait, jobs in found:
            so_far += jobs
            if so_far >= share * total:
                return wait
        return 0.0

    def size(self, since: float, until: float) -> set[int]:
        return {workers for at, workers in self.sizes if since <= at < until}


class Yard:
    """A simulated yard.

    Args:
        paces: True costs of batches, by version.
        start_s: Seconds that a worker takes to start.
        batch_jobs: Jobs in a batch.
        knows: True if the paces are known from the first moment on.
        keeps: Versions that one worker has loaded, at most.
    """

    def __init__(
        self,
        paces: Mapping[str, Pace],
        start_s: float = 1.5,
        batch_jobs: int = 64,
        knows: bool = False,
        keeps: int = 100,
    ) -> None:
        self._paces = paces
        self._start_s = start_s
        self._batch_jobs = batch_jobs
        self._keeps = keeps
        self._queues: dict[str, deque[tuple[float, int]]] = {queue: deque() for queue in paces}
        self._running: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()
        self._watch = ServiceTimes()
        self._known: dict[str, Pace] = dict(paces) if knows else {}
        self._events: list[tuple[float, int, str, tuple[object, ...]]] = []
        self._numbers = count()
        self._names = count(1)
        self._now = 0.0
        self._pools: list[Pool] = []
        self.outcome = Outcome()

    def run(self, trace: Trace, *policies: Policy, seed: int = 1, more_s: float = 0.0) -> Outcome:
        """Serve a load with one pool for each policy."""
        self._pools = [
            Pool(f"pool{place}", policy, Memory(policy)) for place, policy in enumerate(policies)
        ]
        for at, queue, jobs in trace.arrivals(seed):
            self._at(at, "arrive", queue, jobs)
        for place, pool in enumerate(self._pools):
            self._start(pool, pool.policy.least)
            ticks = np.arange(0.01 + place * 0.17, trace.seconds + more_s, _TICK_S)
            for at in ticks:
                self._at(float(at), "tick", pool)
        end = trace.seconds + more_s
        while self._events and self._events[0][0] <= end:
            self._now, _, what, about = heapq.heappop(self._events)
            getattr(self, f"_{what}")(*about)
        self._now = end
        for pool in self._pools:
            self.outcome.starts += pool.starts
            self.outcome.stops += pool.stops
        self.outcome.worker_s = (
            end * len(self.outcome.starts)
            - sum(self.outcome.starts)
            - sum(end - at for at in self.outcome.stops)
        )
        self.outcome.left = sum(self._depth(queue) for queue in self._queues)
        return self.outcome

    def _at(self, when: float, what: str, *about: object) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), what, about))

    def _depth(self, queue: str) -> int:
        return sum(jobs for _, jobs in self._queues[queue])

    def _arrive(self, queue: str, jobs: int) -> None:
        self._queues[queue].append((self._now, jobs))
        idle = [
            (worker.idle_since or 0.0, worker.name, pool)
            for pool in self._pools
            for worker in pool.staying()
            if worker.state == "idle"
        ]
        if idle:
            _, name, pool = min(idle, key=lambda found: found[:2])
            self._take(pool, pool.workers[name])

    def _start(self, pool: Pool, workers: int) -> None:
        for _ in range(workers):
            worker = Worker(f"{pool.name}-{next(self._names)}")
            pool.workers[worker.name] = worker
            pool.starts.append(self._now)
            self._at(self._now + self._start_s, "take", pool, worker)

    def _take(self, pool: Pool, worker: Worker) -> None:
        """Let a free worker leave, take a batch, or be idle."""
        if worker.is_leaving:
            pool.workers.pop(worker.name, None)
            pool.stops.append(self._now)
            return
        waits = {q: self._now - found[0][0] for q, found in self._queues.items() if found}
        order = worker.fair_queue.order(list(self._queues), worker.loaded, waits)
        queue = next((queue for queue in order if self._queues[queue]), None)
        if queue is None:
            worker.state, worker.idle_since = "idle", self._now
            return
        worker.state, worker.idle_since = "busy", None
        worker.fair_queue.begin(queue)
        jobs = self._batch(queue)
        pace = self._paces[queue]
        load_s = 0.0 if queue in worker.loaded else pace.load_s
        if load_s:
            self.outcome.loads[queue] += 1
            while len(worker.loaded) >= self._keeps:
                worker.loaded.pop()
            worker.loaded.add(queue)
        taken_s = pace.batch_s + jobs * pace.rows * pace.row_s
        self._at(self._now + load_s + taken_s, "finish", pool, worker, queue, jobs, taken_s, load_s)

    def _batch(self, queue: str) -> int:
        """Take a batch from a queue and return the number of its jobs."""
        waiting, taken = self._queues[queue], 0
        while waiting and taken < self._batch_jobs:
            at, jobs = waiting.popleft()
            part = min(jobs, self._batch_jobs - taken)
            if jobs > part:
                waiting.appendleft((at, jobs - part))
            taken += part
            self.outcome.waits.append((at, queue, self._now - at, part))
        self._running[queue] += taken
        return taken

    def _finish(
        self, pool: Pool, worker: Worker, queue: str, jobs: int, taken_s: float, load_s: float
    ) -> None:
        self._running[queue] -= jobs
        self._ended[queue] += jobs
        worker.fair_queue.charge(queue, taken_s + load_s, load_s)
        self._watch.add(queue, jobs, round(jobs * self._paces[queue].rows), taken_s, load_s)
        self._take(pool, worker)

    def _tick(self, pool: Pool) -> None:
        self._known |= self._watch.unwritten()
        seen = self._observe(pool)
        self.outcome.sizes.append((self._now, sum(len(p.workers) for p in self._pools)))
        plan = decide(seen, pool.policy, self._now)
        if plan.start:
            pool.started_at = self._now
            self._start(pool, plan.start)
        for name in plan.leave:
            worker = pool.workers[name]
            self.outcome.dismissed_busy += worker.state != "idle"
            worker.is_leaving = True
            self._take(pool, worker)

    def _observe(self, pool: Pool) -> Observation:
        staying = pool.staying()
        holders: defaultdict[str, list[str]] = defaultdict(list)
        for each in self._pools:
            for worker in each.workers.values():
                for queue in worker.loaded:
                    holders[queue].append(worker.name)
        totals = {q: self._depth(q) + self._running[q] + self._ended[q] for q in self._queues}
        start_s = pool.memory.start_s({w.name: w.state for w in staying}, self._now)
        rates = pool.memory.arrivals_s(totals, self._now)
        works = [
            Work(
                queue=queue,
                depth=self._depth(queue),
                rows=self._depth(queue) * self._paces[queue].rows,
                running=self._running[queue],
                arrivals_s=rates[queue],
                holders=len(holders[queue]),
                pace=self._known.get(queue),
                oldest_s=self._now - waiting[0][0] if waiting else 0.0,
            )
            for queue, waiting in self._queues.items()
        ]
        return Observation(
            works=works,
            starting=sum(worker.state == "starting" for worker in staying),
            busy=sum(worker.state == "busy" for worker in staying),
            idle_since={w.name: w.idle_since for w in staying if w.idle_since is not None},
            only=frozenset(names[0] for names in holders.values() if len(names) == 1),
            started_at=pool.started_at,
            start_s=start_s,
            kept=pool.memory.kept(works, start_s, self._now),
            name=pool.name,
            peers=[
                Peer(p.name, len(p.staying()), p.policy.least, p.policy.most)
                for p in self._pools
                if p is not pool
            ],
        )
