"""One worker: against RQ's own on the same jobs, and against the floor under every queue.

Also what it costs Redis, in processor time, in round trips, and in how long one script holds it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from statistics import median

from bench.jobs import Drained, drain, one_row
from bench.measure import Spread, log_calls, percentile, ratio, script_times
from bench.progress import say
from bench.report import Goal, Section, Table
from bench.yard import Yard, open_yard, stock_worker, worker
from worker.queue.lease import MOST_CLAIMED
from worker.queue.outcomes import CHUNK
from yard.broker.lua import Script
from yard.contract.values import ModelRef

_MODEL = ModelRef("iris", "v1")
_QUEUE = str(_MODEL)
_BATCHES = (16, 64, 128)
_OUR_SCRIPTS = ("claim", "more", "finish")
#: The default: what stock RQ and peers are compared with.
_USUAL = 64

_STOCK_RATIO, _FLOOR_RATIO, _REDIS_US, _SCRIPT_MS = 100, 0.65, 40, 2.0

_TEXT = f"""\
One worker process, one-row jobs for `{_QUEUE}` (a scaler and a logistic regression, compiled), all
queued before it starts. RQ's SimpleWorker runs the very same jobs with the same version. The floor
is one process that pops as many jobs as the batch holds, predicts once with the same compiled model
and writes the same results in one pipeline: no claim, no lease, no check, so that a crash loses
what it has popped."""

_SCRIPTS = """\
How long one call holds Redis, from its log of slow calls, in rounds that are not timed. It is time
on the clock: the longest may be a call during which the machine gave the core to somebody else."""


_COLUMNS = ("Modelyard, jobs/s", "floor, jobs/s", "Redis, us a job", "scripts a batch")
_CALLS = """\
Redis' time is all processor time of its process. Scripts a batch: a claim for each {claimed} jobs,
a finish for each {chunk}; the rest is leases renewed, and a look when nothing is left."""

#: For each size of batch and each script, round by round, the milliseconds that its calls took.
_Held = Mapping[int, Mapping[str, list[list[float]]]]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Amounts of the measurement.

    Attributes:
        rounds: Number of drains of each worker.
        ours: Jobs of ours, and of the floor.
        stock: Jobs of RQ's worker.
        held: Number of looks at the time that scripts take.
    """

    rounds: int
    ours: int
    stock: int
    held: int


FULL = Sizes(rounds=7, ours=30_000, stock=1_000, held=5)
QUICK = Sizes(rounds=1, ours=4_000, stock=200, held=1)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Figures of one size of batch: our drains and the floor's jobs a second."""

    ours: list[Drained]
    floor: list[float]

    @property
    def speed(self) -> Spread:
        return Spread.of(drained.jobs_s for drained in self.ours)

    @property
    def of_floor(self) -> Spread:
        return ratio(self.speed, Spread.of(self.floor))

    @property
    def redis_us(self) -> Spread:
        return Spread.of(drained.redis_us for drained in self.ours)


def run(quick: bool) -> Section:
    """Measure and report."""
    sizes = QUICK if quick else FULL
    batches = {size: _Batch([], []) for size in _BATCHES}
    stock: list[float] = []
    with open_yard() as yard:
        for number in range(sizes.rounds):
            stock.append(drain_stock(yard, sizes.stock).jobs_s)
            for size, batch in batches.items():
                batch.ours.append(drain_ours(yard, sizes.ours, size))
                batch.floor.append(drain_floor(yard, sizes.ours, size))
            say(_progress(number + 1, sizes.rounds, stock[-1], batches))
        held = {size: held_by_scripts(yard, sizes.ours, size, sizes.held) for size in _BATCHES}
    trips = {
        size: batch.ours[-1].calls["evalsha"] / ceil(sizes.ours / size)
        for size, batch in batches.items()
    }
    return _section(batches, Spread.of(stock), held, trips)


def drain_ours(yard: Yard, count: int, batch: int = _USUAL) -> Drained:
    """One worker of ours with batches of up to ``batch`` jobs."""
    running = yard.running(worker(), yard.environ(batch_jobs=batch))
    return drain(yard, [running], [one_row()] * count)


def drain_stock(yard: Yard, count: int) -> Drained:
    """RQ's SimpleWorker."""
    return drain(yard, [yard.running(stock_worker(yard.url, _QUEUE))], [one_row()] * count)


def drain_floor(yard: Yard, count: int, batch: int) -> float:
    """Jobs a second of the floor."""
    yard.clear()
    compiled = str(yard.artefact(_MODEL).with_name("model.onnx"))
    argv = [sys.executable, "-P", "-m", "bench.floor", yard.peers_url, compiled]
    said = subprocess.run(
        [*argv, str(batch), str(count)],
        env=yard.environ(),
        check=True,
        capture_output=True,
        text=True,
    )
    return float(said.stdout)


def held_by_scripts(
    yard: Yard, count: int, batch: int, rounds: int
) -> dict[str, list[list[float]]]:
    """Milliseconds that each call of the worker's scripts held Redis, round by round."""
    scripts = [Script("worker", name) for name in _OUR_SCRIPTS]
    held: dict[str, list[list[float]]] = {script.name: [] for script in scripts}
    for _ in range(rounds):
        log_calls(yard.redis, True)
        drain_ours(yard, count, batch)
        for name, taken in script_times(yard.redis, *scripts).items():
            if taken:
                held[name].append(taken)
        log_calls(yard.redis, False)
    return {name: taken for name, taken in held.items() if taken}


def _slowest_in_a_hundred(rounds: list[list[float]]) -> Spread:
    return Spread.of(percentile(calls, 0.99) for calls in rounds)


def _progress(number: int, rounds: int, stock: float, batches: Mapping[int, _Batch]) -> str:
    parts = [f"{size}: {b.ours[-1].jobs_s:,.0f}/{b.floor[-1]:,.0f}" for size, b in batches.items()]
    return f"engine {number}/{rounds}: RQ {stock:,.0f} jobs/s; ours/floor {', '.join(parts)}"


def _section(
    batches: Mapping[int, _Batch], stock: Spread, held: _Held, trips: Mapping[int, float]
) -> Section:
    times_stock = ratio(batches[_USUAL].speed, stock)
    workers = [["Modelyard", f"{times_stock.show()} x", batches[_USUAL].speed.show()]]
    workers += [["RQ SimpleWorker", "1", stock.show()]]
    tables = [
        Table(["worker", "ratio", "jobs/s"], workers),
        Table(
            ["batch", "of the floor", *_COLUMNS],
            [
                [
                    str(size),
                    batch.of_floor.show(2),
                    batch.speed.show(),
                    Spread.of(batch.floor).show(),
                    batch.redis_us.show(1),
                    f"{trips[size]:.2f}",
                ]
                for size, batch in batches.items()
            ],
            _CALLS.format(claimed=MOST_CLAIMED, chunk=CHUNK),
        ),
        _script_table(held),
    ]
    return Section("One worker", _TEXT, tables, _goals(batches, times_stock, held, trips))


def _script_table(held: _Held) -> Table:
    rows = [
        [
            str(size),
            name,
            Spread.of(map(median, rounds)).show(2),
            _slowest_in_a_hundred(rounds).show(2),
            f"{max(map(max, rounds)):.2f}",
        ]
        for size, scripts in held.items()
        for name, rounds in scripts.items()
    ]
    columns = ["batch", "script", "median ms", "p99 ms", "longest ms"]
    return Table(columns, rows, _SCRIPTS)


def _goals(
    batches: Mapping[int, _Batch],
    times_stock: Spread,
    held: _Held,
    trips: Mapping[int, float],
) -> list[Goal]:
    scripts = [rounds for scripts in held.values() for rounds in scripts.values()]
    usually = max(_slowest_in_a_hundred(rounds).median for rounds in scripts)
    longest = max(max(map(max, rounds)) for rounds in scripts)
    return [
        Goal(
            "one worker against RQ's SimpleWorker",
            f"at least {_STOCK_RATIO} x",
            f"{times_stock.median:.0f} x",
            times_stock.median >= _STOCK_RATIO,
        ),
        Goal(
            "one worker against the floor, same batch",
            f"at least {_FLOOR_RATIO} with the default, {_USUAL}",
            _by_batch({size: batch.of_floor.median for size, batch in batches.items()}, 2),
            batches[_USUAL].of_floor.median >= _FLOOR_RATIO,
        ),
        Goal(
            f"Redis' processor time a job, batch {_USUAL}",
            f"at most {_REDIS_US} us",
            _by_batch({size: batch.redis_us.median for size, batch in batches.items()}, 0, " us"),
            batches[_USUAL].redis_us.median <= _REDIS_US,
        ),
        Goal(
            "scripts for a batch, sent in one go",
            f"a claim for each {MOST_CLAIMED} jobs, a finish for each {CHUNK}",
            _by_batch(trips, 2),
            all(count < 1.1 * _scripts(size) for size, count in trips.items()),
        ),
        Goal(
            "how long a script holds Redis, p99",
            f"at most {_SCRIPT_MS:g} ms",
            f"{usually:.2f} ms, longest {longest:.2f} ms",
            usually <= _SCRIPT_MS,
        ),
    ]


def _scripts(batch: int) -> int:
    """Number of scripts that claim and end a batch."""
    return ceil(batch / MOST_CLAIMED) + ceil(batch / CHUNK)


def _by_batch(values: Mapping[int, float], digits: int, unit: str = "") -> str:
    """Each value with its size of batch."""
    return ", ".join(f"{value:.{digits}f}{unit} ({size})" for size, value in values.items())
