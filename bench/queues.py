"""One worker against other queues of tasks: the same jobs, the same model, their own fast settings.

Each peer's worker is one process that predicts, started by the peer's own command; jobs are
submitted and results read by the peer's own client.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from redis import Redis

from bench.contest import Contest, take_turns
from bench.drivers import BATCHES, PEERS, RQ, Peer
from bench.engine import drain_ours, drain_stock
from bench.jobs import Drained
from bench.measure import Spread, Work, ratio
from bench.report import OURS, Chart, Goal, Section, Table
from bench.yard import Yard, open_yard, wait_until

_RATIO = 20
_MOST_S = 300.0
#: Seconds that suffice for the jobs that a worker still has when its queue is empty.
_HANDS_S = 0.3

_TEXT = """\
One worker process of each, one-row jobs for the same estimator, all queued before it starts, all
results read back and compared. Ours serves what publishing has compiled the estimator to. Peers
have the settings that their manuals advise for speed (see `bench/peers`), and run one job at a
time, as they are made to. celery-batches is an add-on by others that does predict in batches; it is
shown for comparison. Peers submit one job at a time. Commands are those that Redis carried out for
a job, in scripts or not."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Amounts of the measurement."""

    rounds: int
    ours: int
    stock: int
    peers: int


FULL = Sizes(rounds=3, ours=30_000, stock=1_000, peers=1_500)
QUICK = Sizes(rounds=1, ours=4_000, stock=200, peers=300)


@dataclass(frozen=True, slots=True)
class Turn:
    """Figures of one system in one round.

    Attributes:
        jobs_s: Jobs drained a second.
        commands: Redis' commands for each job.
        submitted_s: Jobs submitted a second, one by one; 0.0 where `bench.submit` has them.
    """

    jobs_s: float
    commands: float
    submitted_s: float = 0.0


def run(quick: bool) -> Section:
    """Measure and report."""
    sizes = QUICK if quick else FULL
    with open_yard() as yard:
        systems = {OURS: lambda: _turn_of(drain_ours(yard, sizes.ours), sizes.ours)}
        systems |= {peer.name: partial(_turn, yard, peer, sizes) for peer in (*PEERS, BATCHES, RQ)}
        contest = take_turns("peers", sizes.rounds, systems, lambda turn: f"{turn.jobs_s:,.0f}/s")
    return _section(contest)


def _turn_of(drained: Drained, count: int) -> Turn:
    return Turn(drained.jobs_s, sum(drained.calls.values()) / count)


def _turn(yard: Yard, peer: Peer, sizes: Sizes) -> Turn:
    """One drain by a peer; RQ takes the very jobs that ours takes."""
    if peer is RQ:
        return _turn_of(drain_stock(yard, sizes.stock), sizes.stock)
    yard.clear()
    count = sizes.peers
    with peer.worker(yard) as process, peer.driver(yard) as driver:
        driver.submit(1)
        driver.collect()
        process.freeze()
        submit_s = driver.submit(count)
        before = Work.of(yard.redis)
        started = process.thaw()
        _wait_until_empty(yard, peer)
        work = Work.of(yard.redis).since(before)
        taken_s = driver.collect() - started
    return Turn(count / taken_s, sum(work.calls.values()) / count, count / submit_s)


def _wait_until_empty(yard: Yard, peer: Peer) -> None:
    """Until nothing waits: a client that waits meanwhile would cost the worker time."""
    with Redis.from_url(yard.peers_url) as redis:
        wait_until(lambda: not redis.exists(peer.queue), _MOST_S, look_s=0.1)
    time.sleep(_HANDS_S)


def _section(contest: Contest[Turn]) -> Section:
    speeds = {name: _speed(turns) for name, turns in contest.turns.items()}
    ordered = sorted(speeds, key=lambda name: speeds[name].median, reverse=True)
    rows = [_row(name, contest.turns[name], speeds[OURS]) for name in ordered]
    columns = ["one worker", "Modelyard/it", "jobs/s", "submitted/s", "commands a job"]
    bars = [(name, speeds[name].median) for name in ordered]
    return Section(
        "Other queues of tasks",
        _TEXT,
        [Table(columns, rows, contest.note())],
        _goals(contest),
        [Chart("Jobs that one worker drains, more is better", "jobs/s", bars, RQ.name)],
    )


def _row(name: str, turns: Sequence[Turn], ours: Spread) -> list[str]:
    submitted = Spread.of(turn.submitted_s for turn in turns)
    return [
        name,
        "1" if name == OURS else f"{ratio(ours, _speed(turns)).show()} x",
        _speed(turns).show(),
        submitted.show() if submitted.median else "",
        f"{Spread.of(turn.commands for turn in turns).median:.1f}",
    ]


def _goals(contest: Contest[Turn]) -> list[Goal]:
    """Against the fastest of the peers as their makers ship them."""
    rivals = [peer.name for peer in PEERS if peer.name in contest.turns]
    if not rivals:
        return []
    best = max(rivals, key=lambda name: _speed(contest.turns[name]).median)
    times = ratio(_speed(contest.turns[OURS]), _speed(contest.turns[best])).median
    measured = f"{times:.0f} x ({best})"
    return [
        Goal("one worker against the best peer", f"at least {_RATIO} x", measured, times >= _RATIO)
    ]


def _speed(turns: Sequence[Turn]) -> Spread:
    return Spread.of(turn.jobs_s for turn in turns)
