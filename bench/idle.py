"""An idle system, one job at a time: how long from submission to result, through each client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

from bench.contest import Contest, take_turns
from bench.drivers import PEERS, RQ, Peer
from bench.jobs import round_trips
from bench.measure import Spread, percentile, ratio
from bench.report import OURS, Chart, Goal, Section, Table
from bench.yard import Yard, open_yard, worker

_WARM = 20
_TO_BEAT = "huey, 1 thread"
#: The slowest in a hundred is at most so many times the median.
_TAIL = 4

_TEXT = """\
One worker and one client, each by its own means; the next job is submitted when the result of the
last is there. taskiq's and arq's clients can only poll, here every millisecond, which costs half a
core while nothing happens; Dramatiq's worker polls, too."""

#: One way each: more threads make nothing faster here.
_PEERS = [peer for peer in PEERS if "8 threads" not in peer.name or "Dramatiq" in peer.name]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Amounts of the measurement."""

    rounds: int
    jobs: int


FULL = Sizes(rounds=5, jobs=500)
QUICK = Sizes(rounds=1, jobs=100)


def run(quick: bool) -> Section:
    """Measure and report."""
    sizes = QUICK if quick else FULL
    with open_yard() as yard:
        systems = {OURS: lambda: _ours(yard, sizes.jobs)}
        systems |= {peer.name: partial(_of, yard, peer, sizes.jobs) for peer in (*_PEERS, RQ)}
        contest = take_turns(
            "idle", sizes.rounds, systems, lambda taken: f"{percentile(taken, 0.5):.2f} ms"
        )
    return _section(contest)


def _ours(yard: Yard, count: int) -> list[float]:
    """Milliseconds of each of so many round trips."""
    yard.clear()
    with yard.running(worker()):
        round_trips(yard, _WARM)
        return round_trips(yard, count)


def _of(yard: Yard, peer: Peer, count: int) -> list[float]:
    yard.clear()
    with peer.worker(yard), peer.driver(yard) as driver:
        driver.round_trips(_WARM)
        return driver.round_trips(count)


def _section(contest: Contest[list[float]]) -> Section:
    medians = {name: _medians(turns) for name, turns in contest.turns.items()}
    ordered = sorted(medians, key=lambda name: medians[name].median)
    rows = [
        [
            name,
            "1" if name == OURS else f"{ratio(medians[name], medians[OURS]).show(2)} x",
            medians[name].show(2),
            f"{_p99(contest.turns[name]):.2f}",
        ]
        for name in ordered
    ]
    bars = [(name, medians[name].median) for name in ordered]
    columns = ["one job at a time", "of Modelyard", "p50 ms", "p99 ms"]
    return Section(
        "An idle system",
        _TEXT,
        [Table(columns, rows, contest.note())],
        _goals(contest),
        [Chart("One job on an idle system, less is better", "ms", bars)],
    )


def _goals(contest: Contest[list[float]]) -> list[Goal]:
    ours = contest.turns[OURS]
    p50, p99 = _medians(ours).median, _p99(ours)
    goals = [
        Goal(
            "idle: slowest in a hundred",
            f"under {_TAIL} x the median",
            f"{p99 / p50:.1f} x",
            p99 < _TAIL * p50,
        )
    ]
    if _TO_BEAT in contest.turns:
        of_huey = ratio(_medians(ours), _medians(contest.turns[_TO_BEAT])).median
        measured = f"{of_huey:.2f} of huey's"
        goals.insert(0, Goal("idle: median", "at most huey's", measured, of_huey <= 1.0))
    return goals


def _medians(turns: Sequence[Sequence[float]]) -> Spread:
    return Spread.of(percentile(taken, 0.5) for taken in turns)


def _p99(turns: Sequence[Sequence[float]]) -> float:
    """Over all rounds together."""
    return percentile(list(chain.from_iterable(turns)), 0.99)
