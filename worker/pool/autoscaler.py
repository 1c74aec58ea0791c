"""How many workers there should be: a pure decision from what was observed.

The pool observes, asks `decide`, and acts. Workers are counted by `yard.cluster.capacity`, in
seconds of work against a target wait. More are started at once; fewer only when fewer would have
done for ``idle_s``, and only idle ones are asked to leave. Pools on one Redis see each other, and
share what is missing or too much by rules that each of them works out alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from yard.cluster import KEEP_HEADROOM, Bounds, Work, has_long_batches, workers_wanted

#: Jobs' arrivals are counted over so long, in seconds.
RATE_S = 3.0

#: How long a worker takes to start, before one has, in seconds; and the weight of each new figure.
_START_S, _START_WEIGHT = 1.0, 0.5

#: Jobs that wait for so many times the target tell that the figures are wrong: one more starts.
_FAR_TOO_LONG = 3.0

#: How long such a start, or any other, is given to show, in target waits.
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator has set.

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
        workers: Its workers, whatever they do.
        least: How many it keeps.
        most: How many it may have.
    """

    name: str
    workers: int
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Observation:
    """What the pool sees at one moment.

    Attributes:
        works: Its queues.
        starting: Workers that have been started and have not reported yet.
        busy: Workers that have a batch.
        idle_since: When each idle worker was first seen idle, by name.
        only: The idle workers that alone have some version loaded.
        started_at: When a worker was started last.
        start_s: How long a worker takes to start, in seconds.
        kept: Workers that were needed at most in the last ``idle_s``; None where that is not known
            yet, because the pool is younger.
        guard: The worker that was told to keep off queues with long batches; empty for none.
        unmet: Versions that are to be loaded here before they get traffic (`yard.routing.warmup`).
        names: The workers that have reported and were not asked to leave.
        name: The pool's own name.
        peers: The other pools.
        is_suspended: Whether nothing may be claimed now.
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
        """All workers of this pool, whatever they do."""
        return self.starting + self.busy + len(self.idle_since)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the pool is to do.

    Attributes:
        start: How many workers to start.
        leave: The workers to ask to leave.
    """

    start: int = 0
    leave: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Guard:
    """A worker that is kept free for short batches, however many long ones wait.

    Attributes:
        worker: Its name.
        off: The queues that it is to leave to others.
    """

    worker: str
    off: tuple[str, ...]


def decide(seen: Observation, policy: Policy, now: float) -> Plan:
    """The plan for what was seen; ``now`` is of the clock that the observation's moments are of.

    Idle workers count twice against a start: they are there, and they are free.
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
    """The worker that is to keep off long batches; None where nobody need do so, or can.

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
    """Workers that there should be now, in all pools together."""
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
    """How many of the missing workers are this pool's to start: the emptiest pools go first."""
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
    """How many of the workers too many are this pool's to let go: the fullest pools go first."""
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
    """What decisions need of the past: how fast jobs arrive, and what was needed lately.

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
        """How long a worker takes to start, in seconds, as far as it has been seen.

        Args:
            states: What each of the pool's workers does, by name.
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
        """Jobs a second over the last `RATE_S`, by queue.

        Args:
            counts: By queue, how many jobs it has had up to now: those that wait, run, and ended.
            now: Seconds, never going back.
        """
        for queue in self._seen.keys() - counts.keys():
            del self._seen[queue]
        rates = {}
        for queue, count in counts.items():
            past = self._seen.setdefault(queue, deque())
            if past and count < past[-1][1] // 2:  # Redis has lost its counters: begin anew
                past.clear()
            past.append((now, count))
            while len(past) > 2 and past[1][0] <= now - RATE_S:
                past.popleft()
            taken_s = now - past[0][0]
            arrived = max(0, count - past[0][1])
            # A pool that has just started, or stood still, must not take one look for the truth.
            rates[queue] = arrived / max(taken_s, RATE_S / 3) if taken_s > 0 else 0.0
        return rates

    def kept(self, works: Sequence[Work], start_s: float, now: float) -> int | None:
        """Workers that were needed at most in the last ``idle_s``, this moment included.

        None while the pool has not looked for that long.
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
