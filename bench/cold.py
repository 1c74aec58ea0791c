"""From zero: a pool without a worker and a gateway, and how long the first answer takes.

Forked workers beside spawned ones, turn about: the same pool, the same gateway, one setting apart.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain

import psutil

from bench.contest import Contest, take_turns
from bench.gateways import gateway
from bench.measure import Spread, percentile, ratio
from bench.report import OURS, Chart, Goal, Section, Table
from bench.yard import CLASS, ROW, Process, Yard, open_yard, wait_until
from models.store.repository import Repository
from yard.contract import keys
from yard.contract.values import ModelRef

_MODEL = "iris"
_GOAL_MS = 1000
_MB = 2**20
_IDLE_S = 0.2
_SPAWNED = "spawned"

_TEXT = """\
Nothing runs but Redis, a gateway and a pool with `--min 0`; one `POST .../predict` of one row, by a
new connection; when it is answered, the worker leaves, and the next one is asked. A turn is a pool
of its own, whose first worker does not count. Spawned is `MODELYARD_FORK_SERVER=0`. USS is what the
worker has alone, with the model, when it has answered; the fork server's is counted apart."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Amounts of the measurement."""

    rounds: int
    answers: int


FULL = Sizes(rounds=3, answers=8)
QUICK = Sizes(rounds=1, answers=3)


@dataclass(frozen=True, slots=True)
class Turn:
    """Figures of one pool.

    Attributes:
        ms: Of each first answer.
        uss: Bytes that each worker had alone.
        servers_uss: Bytes that the fork server has alone; 0 without one.
    """

    ms: list[float]
    uss: list[int]
    servers_uss: int


def run(quick: bool) -> Section:
    """Measure and report."""
    sizes = QUICK if quick else FULL
    with open_yard() as yard, gateway(yard) as port:
        repository = Repository(yard.settings.store_path)
        systems = {}
        for ref in _versions(repository):
            name = f"{ref}, {repository.manifest(ref).runtime}"
            systems[name] = partial(_turn, yard, port, ref, True, sizes.answers)
            systems[f"{name}, {_SPAWNED}"] = partial(_turn, yard, port, ref, False, sizes.answers)
        contest = take_turns("cold", sizes.rounds, systems, _told)
    return _section(contest)


def _versions(repository: Repository) -> list[ModelRef]:
    """One version of the model for each runtime, the compiled ones first."""
    by_runtime: dict[str, ModelRef] = {}
    for version in repository.versions(_MODEL):
        ref = ModelRef(_MODEL, version)
        by_runtime.setdefault(repository.manifest(ref).runtime, ref)
    return [by_runtime[runtime] for runtime in sorted(by_runtime, key=lambda r: r == "sklearn")]


def _told(turn: Turn) -> str:
    return f"{percentile(turn.ms, 0.5):.0f} ms"


def _turn(yard: Yard, port: int, ref: ModelRef, forks: bool, answers: int) -> Turn:
    environ = yard.environ(pool_min=0, pool_max=1, idle_s=_IDLE_S, fork_server=forks)
    argv = [sys.executable, "-P", "-m", "modelyard.cli", "pool"]
    with yard.running(argv, environ) as pool:
        _ask(port, ref)  # of the pool's own start
        taken, uss = [], []
        for _ in range(answers):
            wait_until(partial(_is_at_zero, yard, pool, forks), 60)
            taken.append(_ask(port, ref))
            uss += [child.memory_full_info().uss for child in workers_of(yard, pool)]
        wait_until(partial(_is_at_zero, yard, pool, forks), 60)
        servers = [child.memory_full_info().uss for child in psutil.Process(pool.pid).children()]
        return Turn(taken, uss, sum(servers))


def _is_at_zero(yard: Yard, pool: Process, forks: bool) -> bool:
    """True if no worker is there, not even one that leaves: only the fork server, if any."""
    pool.check()
    children = psutil.Process(pool.pid).children()
    return not yard.redis.exists(keys.WORKERS) and len(children) == int(forks)


def workers_of(yard: Yard, pool: Process) -> list[psutil.Process]:
    names: set[bytes] = yard.redis.smembers(keys.WORKERS)  # type: ignore[assignment]  # not decoded
    pids = {int(yard.redis.hget(name.decode(), "pid") or 0) for name in names}
    return [child for child in psutil.Process(pool.pid).children() if child.pid in pids]


def _ask(port: int, ref: ModelRef) -> float:
    """Milliseconds until one prediction is there."""
    body = json.dumps({"instances": [ROW], "version": ref.version})
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        begun = time.perf_counter()
        headers = {"Content-Type": "application/json"}
        connection.request("POST", f"/v1/models/{ref.model}/predict", body, headers)
        answer = json.loads(connection.getresponse().read())
        taken_ms = (time.perf_counter() - begun) * 1000
    if answer.get("result", {}).get("predictions") != [CLASS]:
        raise RuntimeError(f"a wrong answer: {answer}")
    return taken_ms


def _section(contest: Contest[Turn]) -> Section:
    medians = {
        name: Spread.of(percentile(turn.ms, 0.5) for turn in turns)
        for name, turns in contest.turns.items()
    }
    rows = [
        [
            name,
            _beside(medians, name),
            medians[name].show(),
            f"{max(chain.from_iterable(turn.ms for turn in turns)):,.0f}",
            Spread.of(size / _MB for turn in turns for size in turn.uss).show(),
            f"{turns[-1].servers_uss / _MB:.0f}",
        ]
        for name, turns in contest.turns.items()
    ]
    columns = ["worker", "of spawned", "p50 ms", "slowest ms", "USS MB", "fork server's MB"]
    first = next(iter(contest.turns))
    slowest = max(chain.from_iterable(turn.ms for turn in contest.turns[first]))
    goal = Goal(
        f"the first answer from zero workers ({first})",
        f"under {_GOAL_MS / 1000:g} s",
        f"{medians[first].median / 1000:.2f} s, the slowest {slowest / 1000:.2f} s",
        slowest < _GOAL_MS,
    )
    chart = Chart(
        "First answer from zero workers, less is better",
        "ms",
        [(OURS, medians[first].median), (_SPAWNED, medians[f"{first}, {_SPAWNED}"].median)],
    )
    return Section("From zero", _TEXT, [Table(columns, rows)], [goal], [chart])


def _beside(medians: dict[str, Spread], name: str) -> str:
    spawned = f"{name.removesuffix(f', {_SPAWNED}')}, {_SPAWNED}"
    return "1" if name == spawned else f"{ratio(medians[name], medians[spawned]).show(2)} x"
