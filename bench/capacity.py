"""Capacity of one Redis: its processor time, commands, memory and disk for each job.

Redis runs commands on one core, so what a job costs it is how many jobs a second a yard can have at
most, however many gateways and pools there are. A job that travels with 63 others shares calls with
them; one that travels alone does not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from bench.contest import Contest, take_turns
from bench.jobs import drain, one_row, round_trips, submitted
from bench.measure import Spread, Work
from bench.memory import Stored, in_redis
from bench.progress import say
from bench.report import Section, Table
from bench.yard import Yard, open_yard, wait_until, worker

#: Persistence of Redis: `appendonly` and `appendfsync`.
_PERSISTENCE = {
    "no file": ("no", "no"),
    "everysec": ("yes", "everysec"),
    "always": ("yes", "always"),
}

#: Commands that our clients, workers and pools send themselves; scripts run all others.
_FROM_CLIENTS = ("evalsha", "eval", "blpop", "subscribe", "ping", "xread", "script|load")
_TTL_S = 2
_CORE_US = 1e6

_TEXT = """\
One-row jobs for `iris@v1` from one process, one worker, and the processor time that Redis' process
takes for them. *Together*: 64 jobs share a call of submission, a claim and a finish, as they do
when work waits; their results are not read. *Alone*: submitted, waited for and read one after the
other, as they are when little is to do; an idle worker's looks are in it. A core's jobs a second
are a million over the microseconds: a bound, not a promise. With `always`, Redis also stands still
while the disk writes, which is no processor time."""

_CALLS_TEXT = """\
Calls are what clients send, scripts included; commands are what those scripts run."""

_MEMORY_TEXT = """\
Without the buffers of connections; an ended job with its result, until that expires."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Amounts of the measurement."""

    rounds: int
    together: int
    alone: int
    stored: int


FULL = Sizes(rounds=3, together=20_000, alone=1_000, stored=20_000)
QUICK = Sizes(rounds=1, together=4_000, alone=200, stored=5_000)


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one job to Redis, for jobs that travel one way.

    Attributes:
        redis_us: Processor time, in microseconds.
        calls: Calls that clients sent.
        commands: Commands that scripts ran.
        file_bytes: By how much the append-only file grew.
        took_ms: Median time of one submission, in milliseconds, where they go one by one.
    """

    redis_us: float
    calls: float
    commands: float
    file_bytes: float
    took_ms: float = 0.0

    @property
    def jobs_s(self) -> float:
        """Jobs a second that one core of Redis carries."""
        return _CORE_US / self.redis_us


@dataclass(frozen=True, slots=True)
class Turn:
    """Both ways on one setting of Redis."""

    together: Cost
    alone: Cost


def run(quick: bool) -> Section:
    """Measure and report."""
    sizes = QUICK if quick else FULL
    with open_yard() as yard:
        systems = {name: partial(_turn, yard, name, sizes) for name in _PERSISTENCE}
        contest = take_turns("redis", sizes.rounds, systems, _told)
    with open_yard(result_ttl_s=_TTL_S) as yard:
        stored = in_redis(yard, sizes.stored)
    say("redis: memory measured")
    return _section(contest, stored)


def _told(turn: Turn) -> str:
    return f"{turn.together.redis_us:.0f} us together, {turn.alone.redis_us:.0f} us alone"


def _turn(yard: Yard, name: str, sizes: Sizes) -> Turn:
    appendonly, appendfsync = _PERSISTENCE[name]
    yard.redis.config_set("appendonly", appendonly)
    yard.redis.config_set("appendfsync", appendfsync)
    yard.redis.config_set("auto-aof-rewrite-percentage", 0)  # the file only grows
    _wait_until_written(yard)
    together = _together(yard, sizes.together)
    with yard.running(worker()):
        round_trips(yard, 20)
        alone = _cost(yard, sizes.alone, lambda: round_trips(yard, sizes.alone))
    yard.clear()
    took_ms = _submission_ms(yard, sizes.alone)
    return Turn(together, replace(alone, took_ms=took_ms))


def _together(yard: Yard, count: int) -> Cost:
    """Submitting and draining are measured apart: what the benchmark does in between is not."""
    yard.clear()
    requests = [one_row()] * count
    queued = _cost(yard, count, lambda: submitted(yard, requests))
    yard.clear()
    size = _file_bytes(yard)
    drained = drain(yard, [yard.running(worker())], requests)
    file_bytes = max(0, _file_bytes(yard) - size) / count
    calls, commands = _counted(drained.calls, count)
    return Cost(
        queued.redis_us + drained.redis_us,
        queued.calls + calls,
        queued.commands + commands,
        file_bytes,
    )


def _submission_ms(yard: Yard, count: int) -> float:
    taken = []
    for _ in range(count):
        started = time.perf_counter()
        yard.client.submit_request(one_row())
        taken.append((time.perf_counter() - started) * 1000)
    return statistics.median(taken)


def _cost(yard: Yard, count: int, act: Callable[[], object]) -> Cost:
    before, size = Work.of(yard.redis), _file_bytes(yard)
    act()
    work = Work.of(yard.redis).since(before)
    calls, commands = _counted(work.calls, count)
    grown = max(0, _file_bytes(yard) - size)
    return Cost(work.cpu_s / count * _CORE_US, calls, commands, grown / count)


def _counted(calls: Mapping[str, int], count: int) -> tuple[float, float]:
    """For each job, calls that clients sent, and commands that scripts ran: Redis adds them up."""
    sent = sum(calls.get(name, 0) for name in _FROM_CLIENTS)
    return sent / count, (sum(calls.values()) - sent) / count


def _file_bytes(yard: Yard) -> int:
    known: Any = yard.redis.info("persistence")
    return int(known.get("aof_current_size", 0))


def _wait_until_written(yard: Yard) -> None:
    def is_written() -> bool:
        known: Any = yard.redis.info("persistence")
        return not (known["aof_rewrite_in_progress"] or known.get("aof_rewrite_scheduled"))

    wait_until(is_written, 30)


def _section(contest: Contest[Turn], stored: Stored) -> Section:
    tables = []
    for way in ("together", "alone"):
        rows = [
            _row(name, [getattr(turn, way) for turn in turns])
            for name, turns in contest.turns.items()
        ]
        columns = [f"jobs {way}", "Redis, us a job", "a core's jobs/s", "calls a job"]
        tables.append(Table([*columns, "commands a job", "file, bytes a job"], rows, _CALLS_TEXT))
    rows = [
        [name, Spread.of(turn.alone.took_ms for turn in turns).show(2)]
        for name, turns in contest.turns.items()
    ]
    tables.append(Table(["one submission alone", "median ms"], rows))
    memory = [["one-row jobs", f"{stored.waiting:,.0f}", f"{stored.ended:,.0f}"]]
    columns = ["Redis' memory", "waiting, bytes a job", "ended, bytes a job"]
    tables.append(Table(columns, memory, _MEMORY_TEXT))
    return Section("How far one Redis carries", _TEXT, tables)


def _row(name: str, costs: Sequence[Cost]) -> list[str]:
    return [
        name,
        Spread.of(cost.redis_us for cost in costs).show(1),
        Spread.of(cost.jobs_s for cost in costs).show(),
        f"{costs[-1].calls:.2f}",
        f"{costs[-1].commands:.1f}",
        f"{costs[-1].file_bytes:,.0f}",
    ]
