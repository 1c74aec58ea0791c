"""Decides how many workers a pool runs: a pure function of an observation.

The pool observes, calls `decide`, and acts. `yard.cluster.capacity` counts workers in seconds of
work against a target wait. More are started at once; fewer run only when fewer would have done for
``idle_s``, and only idle ones are asked to leave. Pools on one Redis see each other, and split a
lack or a surplus by rules that give the same result in each of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from yard.cluster import KEEP_HEADROOM, Bounds, Work, has_long_batches, workers_wanted

#: Window over which arrivals of jobs are counted, in seconds.
RATE_S = 3.0

#: Start time that is assumed before a worker has started, in seconds; weight of each new figure.
_START_S, _START_WEIGHT = 1.0, 0.5

#: If a job waits for this many times the target, the figures are wrong: one more worker starts.
_FAR_TOO_LONG = 3.0

#: Time for a start to take effect before the next such one, in target waits.
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's settings.

    Attributes:
        least: Workers that are kept even when there is nothing to do.
        most: Workers that run at most.
        idle_s: Seconds for which a worker above ``least`` was not needed before it leaves.
        bounds: The target wait, and what a batch holds.
    """

    least: int
    most: int
    idle_s: float
    bounds: Bounds = field(default_factory=Bounds)


@dataclass(frozen=True, slots=True)
class Peer:
    """Another pool that serves some of the same queues.

    Attributes:
        name: Its name.
        workers: Number of its workers, in any state.
        least: Workers that it keeps.
        most: Workers that it may have.
    """

    name: str
    workers: int
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Observation:
    """The state of the yard as one pool sees it.

    Attributes:
        works: Its queues.
        starting: Workers that have been started and have not registered yet.
        busy: Workers that have a batch.
        idle_since: When each idle worker was first seen idle, by name.
        only: The idle workers that alone have some version loaded.
        started_at: When a worker was started last.
        start_s: Time that a worker takes to start, in seconds.
        kept: Workers that were needed at most in the last ``idle_s``; None where that is not known
            yet, because the pool is younger.
        guard: The worker that keeps off queues with long batches; empty for none.
        unmet: Versions that are to be loaded here before they get traffic (`yard.routing.warmup`).
        names: The workers that have registered and were not asked to leave.
        name: The pool's own name.
        peers: The other pools.
        is_suspended: True if nothing may be claimed now.
    """

    works: Sequence[Work] = ()
    starting: int = 0
    busy: int = 0
    idle_since: Mapping[str, float] = field(default_factory=dict)
    only: frozenset[str] = frozenset()
    started_at: float = float("-inf")
    start_s: float = 0.0
    kept: int | None = None
    guard: str = ""
    unmet: int = 0
    names: Sequence[str] = ()
    name: str = ""
    peers: Sequence[Peer] = ()
    is_suspended: bool = False

    @property
    def workers(self) -> int:
        """Number of this pool's workers, in any state."""
        return self.starting + self.busy + len(self.idle_since)


@dataclass(frozen=True, slots=True)
class Plan:
    """The next step of the pool.

    Attributes:
        start: Number of workers to start.
        leave: The workers to ask to leave.
    """

    start: int = 0
    leave: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Guard:
    """A worker that is kept free for short batches, however many long ones wait.

    Attributes:
        worker: Its name.
        off: The queues that it leaves to others.
    """

    worker: str
    off: tuple[str, ...]


def decide(seen: Observation, policy: Policy, now: float) -> Plan:
    """Return the plan for an observation; ``now`` is by the clock of the observation's moments.

    Idle workers count twice against a start: they exist, and they are free.
    """
    all_workers = seen.workers + sum(peer.workers for peer in seen.peers)
    missing = _wanted(seen, policy, now, all_workers) - all_workers - len(seen.idle_since)
    start = _share_of_missing(missing, seen, policy)
    if seen.unmet and not seen.starting and not seen.idle_since:
        start = max(start, 1)
    start = max(policy.least - seen.workers, min(start, policy.most - seen.workers))
    if start > 0:
        return Plan(start=start)
    if seen.kept is None or seen.unmet:
        return Plan()
    surplus = min(
        _share_of_surplus(all_workers - seen.kept, seen, policy), seen.workers - policy.least
    )
    by_use = sorted(seen.idle_since, key=lambda name: (name in seen.only, seen.idle_since[name]))
    return Plan(leave=tuple(by_use[: max(0, surplus)]))


def guard(seen: Observation, policy: Policy) -> Guard | None:
    """Return the worker that keeps off long batches; None where none has to, or can.

    While versions with long batches and others both have work, and there are two workers or more,
    one is for the others: the same as before, else one that is idle.
    """
    active = [work for work in seen.works if work.is_active and not work.is_unversioned]
    off = tuple(sorted(work.queue for work in active if has_long_batches(work, policy.bounds)))
    if not off or len(off) == len(active) or len(seen.names) < 2:
        return None
    if seen.guard in seen.names:
        return Guard(seen.guard, off)
    return Guard(min(seen.names, key=lambda name: (name not in seen.idle_since, name)), off)


def _wanted(seen: Observation, policy: Policy, now: float, all_workers: int) -> int:
    """Return the number of workers wanted now, in all pools together."""
    if seen.is_suspended:
        return 0
    bounds = replace(policy.bounds, start_s=seen.start_s)
    total = sum(workers_wanted(seen.works, bounds).values())
    wait_s = policy.bounds.wait_s
    is_late = any(work.depth and work.oldest_s > _FAR_TOO_LONG * wait_s for work in seen.works)
    if is_late and not seen.starting and now - seen.started_at > _PATIENCE * wait_s:
        return max(total, all_workers + 1)
    return total


def _share_of_missing(missing: int, seen: Observation, policy: Policy) -> int:
    """Return how many of the missing workers this pool starts: the emptiest pools go first."""
    pools = {peer.name: [peer.workers, peer.most] for peer in seen.peers}
    pools[seen.name] = [seen.workers, policy.most]
    mine = 0
    for _ in range(missing):
        free = [(workers, name) for name, (workers, most) in pools.items() if workers < most]
        if not free:
            break
        _, name = min(free)
        pools[name][0] += 1
        mine += name == seen.name
    return mine


def _share_of_surplus(surplus: int, seen: Observation, policy: Policy) -> int:
    """Return how many of the surplus workers this pool lets go: the fullest pools go first."""
    pools = {peer.name: [peer.workers, peer.least] for peer in seen.peers}
    pools[seen.name] = [seen.workers, policy.least]
    mine = 0
    for _ in range(surplus):
        over = [(workers, name) for name, (workers, least) in pools.items() if workers > least]
        if not over:
            break
        _, name = max(over)
        pools[name][0] -= 1
        mine += name == seen.name
    return mine


class Memory:
    """The past that decisions need: arrival rates of jobs, workers needed lately, start times.

    Args:
        policy: What the operator has set.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._seen: dict[str, deque[tuple[float, int]]] = {}
        self._needed: deque[tuple[float, int]] = deque()
        self._since: float | None = None
        self._starting: dict[str, float] = {}
        self._start_s = _START_S

    def start_s(self, states: Mapping[str, str], now: float) -> float:
        """Return the time that a worker takes to start, in seconds, as far as it was observed.

        Args:
            states: State of each of the pool's workers, by name.
            now: Seconds, never going back.
        """
        for name, state in states.items():
            if state == "starting":
                self._starting.setdefault(name, now)
            elif (began := self._starting.pop(name, None)) is not None:
                self._start_s += _START_WEIGHT * (now - began - self._start_s)
        self._starting = {name: at for name, at in self._starting.items() if name in states}
        return self._start_s

    def arrivals_s(self, counts: Mapping[str, int], now: float) -> dict[str, float]:
        """Return jobs a second over the last `RATE_S`, by queue.

        Args:
            counts: By queue, number of jobs that it has had: those that wait, run, and ended.
            now: Seconds, never going back.
        """
        for queue in self._seen.keys() - counts.keys():
            del self._seen[queue]
        rates = {}
        for queue, count in counts.items():
            past = self._seen.setdefault(queue, deque())
            if past and count < past[-1][1] // 2:  # Redis has lost its counters: start again
                past.clear()
            past.append((now, count))
            while len(past) > 2 and past[1][0] <= now - RATE_S:
                past.popleft()
            taken_s = now - past[0][0]
            arrived = max(0, count - past[0][1])
            # A pool that has just started, or stood still, must not trust a single look.
            rates[queue] = arrived / max(taken_s, RATE_S / 3) if taken_s > 0 else 0.0
        return rates

    def kept(self, works: Sequence[Work], start_s: float, now: float) -> int | None:
        """Return the most workers needed in the last ``idle_s``, this moment included.

        None while the pool has not observed for that long.
        """
        bounds = replace(self._policy.bounds, start_s=start_s)
        needed = sum(workers_wanted(works, bounds, KEEP_HEADROOM).values())
        self._since = now if self._since is None else self._since
        while self._needed and self._needed[-1][1] <= needed:
            self._needed.pop()
        self._needed.append((now, needed))
        while self._needed[0][0] < now - self._policy.idle_s:
            self._needed.popleft()
        return self._needed[0][1] if now - self._since >= self._policy.idle_s else None
