"""Submitting from one process: one by one, many at once, from threads, and as RQ's client does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from redis.connection import AbstractConnection
from rq import Queue

from bench.contest import Contest, take_turns
from bench.jobs import one_row, submitted
from bench.measure import Spread, ratio
from bench.report import OURS, Goal, Section, Table
from bench.yard import ROW, Yard, open_yard
from producer.submission import CHUNK
from yard.contract import keys
from yard.contract.values import TASK_NAME

_QUEUE = "iris@v1"
_THREADS = 16
_MANY_S = 15_000

_MANY = f"{OURS}, `submit_many`"
_EACH = f"{OURS}, `submit`"
_AT_ONCE = f"{OURS}, `submit` from {_THREADS} threads"
_MANY_STOCK = f"RQ, `enqueue_many` of {CHUNK}"
_EACH_STOCK = "RQ, `enqueue`"

_TEXT = """\
One-row jobs from one process to an otherwise idle Redis. Ours are checked against the version's
signature, routed and bounded on the way. A round trip is a write to a socket whose answer the
client waits for; what threads submit at the same time shares one."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Amounts of the measurement."""

    rounds: int
    each: int
    many: int


FULL = Sizes(rounds=5, each=4_000, many=30_000)
QUICK = Sizes(rounds=1, each=500, many=5_000)


@dataclass(frozen=True, slots=True)
class Turn:
    """One measurement: jobs a second, and round trips for a job."""

    jobs_s: float
    trips: float


def run(quick: bool) -> Section:
    """Measure and report."""
    sizes = QUICK if quick else FULL
    with open_yard() as yard:
        systems = {
            _MANY: lambda: _timed(yard, sizes.many, lambda count: _many(yard, count)),
            _EACH: lambda: _timed(yard, sizes.each, lambda count: _each(yard, count)),
            _AT_ONCE: lambda: _timed(yard, sizes.each, lambda count: _threads(yard, count)),
            _MANY_STOCK: lambda: _timed(yard, sizes.each, lambda count: _stock_many(yard, count)),
            _EACH_STOCK: lambda: _timed(yard, sizes.each, lambda count: _stock(yard, count)),
        }
        contest = take_turns("submit", sizes.rounds, systems, lambda turn: f"{turn.jobs_s:,.0f}/s")
    return _section(contest)


def _timed(yard: Yard, count: int, submit: Callable[[int], None]) -> Turn:
    yard.clear()
    submit(1)  # connections are made, scripts loaded
    with counted_sends() as sends:
        started = time.perf_counter()
        submit(count)
        taken_s = time.perf_counter() - started
    queued = yard.redis.llen(keys.key("queue", _QUEUE))
    if queued != count + 1:
        raise RuntimeError(f"{queued} jobs are queued, not {count + 1}")
    return Turn(count / taken_s, len(sends) / count)


@contextmanager
def counted_sends() -> Iterator[list[None]]:
    """One element for each time that redis-py writes to a socket and then waits for the answer."""
    sends: list[None] = []
    send: Callable[..., Any] = AbstractConnection.send_packed_command

    def counted(self: AbstractConnection, *arguments: Any, **options: Any) -> Any:
        sends.append(None)
        return send(self, *arguments, **options)

    with mock.patch.object(AbstractConnection, "send_packed_command", counted):
        yield sends


def _many(yard: Yard, count: int) -> None:
    submitted(yard, [one_row()] * count)


def _each(yard: Yard, count: int) -> None:
    for _ in range(count):
        yard.client.submit("iris", instances=[ROW])


def _threads(yard: Yard, count: int) -> None:
    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(lambda _: yard.client.submit("iris", instances=[ROW]), range(count)))


def _stock(yard: Yard, count: int) -> None:
    queue = _stock_queue(yard)
    for _ in range(count):
        queue.enqueue(TASK_NAME, instances=[ROW])


def _stock_many(yard: Yard, count: int) -> None:
    """As many at once as ours takes."""
    queue = _stock_queue(yard)
    for start in range(0, count, CHUNK):
        job = Queue.prepare_data(TASK_NAME, kwargs={"instances": [ROW]})
        queue.enqueue_many([job] * min(CHUNK, count - start))


def _stock_queue(yard: Yard) -> Queue:
    return Queue(_QUEUE, connection=yard.redis, serializer="json")


def _section(contest: Contest[Turn]) -> Section:
    speeds = {name: Spread.of(t.jobs_s for t in turns) for name, turns in contest.turns.items()}
    trips = {name: turns[-1].trips for name, turns in contest.turns.items()}
    rows = [
        [
            name,
            "1" if name == _EACH_STOCK else f"{ratio(speed, speeds[_EACH_STOCK]).show(1)} x",
            speed.show(),
            f"{trips[name]:.3f}",
        ]
        for name, speed in speeds.items()
    ]
    columns = ["one process", "of RQ's `enqueue`", "jobs/s", "round trips a job"]
    many_s = speeds[_MANY].median
    goals = [
        Goal("submission", "1 round trip", f"{trips[_EACH]:.3f}", round(trips[_EACH], 3) <= 1),
        Goal(
            "`submit_many` from one process",
            f"at least {_MANY_S:,} jobs/s",
            f"{many_s:,.0f} jobs/s",
            many_s >= _MANY_S,
        ),
    ]
    return Section("Submitting", _TEXT, [Table(columns, rows, contest.note())], goals)
