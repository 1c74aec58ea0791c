"""Compiled versions against the originals that they were made of, bare and through a worker.

Also how long a new version takes to its first answer, and a worker from nothing to its first.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import joblib

from bench.estimators import ESTIMATORS, FEW, FOREST, Fitted
from bench.jobs import drain
from bench.measure import Spread, ratio
from bench.progress import say
from bench.report import OURS, Chart, Goal, Section, Table
from bench.yard import Yard, open_yard, stock_worker, worker
from models.manifest import Manifest
from models.optimize.equivalence import measure_speeds
from models.publish.publisher import publish
from models.runtimes import load
from models.store.repository import open_repository
from yard.contract.values import ModelRef, Request

_SIZES = (1, 64)
_ORIGINAL, _COMPILED = "v1", "v2"
#: Rows of a published example.
_SHOWN = 5
_FOREST_RATIO = 20
#: A drain takes about so many seconds, by the bare speed, within these bounds of jobs.
_DRAIN_S, _LEAST_JOBS, _MOST_JOBS = 1.5, 300, 8_000

_TEXT = """\
Each estimator is published twice, as it is and compiled; the compiled one answers some thousand
rows the same, or it would not be used. Bare is the call that a worker makes, with one thread,
from rows as lists to answers as lists. Through a worker are one-row jobs, queued before it starts,
taken one at a time or 64 at a time; what is left of the gain there is what the queue costs. Predict
alone is the time that the same jobs say their batch was predicted in."""

_COLD = """\
A version from file to first answer: `publish` (opened in a process that was started before, as in
a notebook, or by the first call), then the first job's own time in an idle worker that has not
loaded it. A worker from nothing: from its start as a process to the first answer, against
`rq worker` with the same job and the same file."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Amounts of the measurement."""

    rounds: int
    names: Sequence[str]


FULL = Sizes(rounds=3, names=tuple(ESTIMATORS))
QUICK = Sizes(rounds=1, names=FEW)

#: Rows a second by the rows in a call, a value for each round.
_Rates = dict[int, list[float]]


def _rates() -> _Rates:
    return {size: [] for size in _SIZES}


@dataclass(slots=True)
class _Measured:
    """One estimator: bare and through a worker, the original and the compiled form."""

    manifest: Manifest
    bare: Mapping[str, _Rates] = field(
        default_factory=lambda: {_ORIGINAL: _rates(), _COMPILED: _rates()}
    )
    served: Mapping[str, _Rates] = field(
        default_factory=lambda: {_ORIGINAL: _rates(), _COMPILED: _rates()}
    )
    predicted: Mapping[str, _Rates] = field(
        default_factory=lambda: {_ORIGINAL: _rates(), _COMPILED: _rates()}
    )


@dataclass(slots=True)
class _Cold:
    """Seconds, a value for each round."""

    publish: dict[str, list[float]] = field(default_factory=dict)
    first_answer: dict[str, list[float]] = field(default_factory=dict)
    load: dict[str, list[float]] = field(default_factory=dict)
    from_nothing: dict[str, list[float]] = field(default_factory=dict)


def run(quick: bool) -> Section:
    """Measure and report."""
    sizes = QUICK if quick else FULL
    measured: dict[str, _Measured] = {}
    with open_yard(has_examples=False) as yard:
        fitted = {name: ESTIMATORS[name]() for name in sizes.names}
        for name, model in fitted.items():
            measured[name] = _Measured(_published(yard, name, model))
        for number in range(sizes.rounds):
            for name, model in fitted.items():
                _round(yard, name, model, measured[name])
            say(f"models {number + 1}/{sizes.rounds}: forest {_told(measured[FOREST])}")
    cold = _Cold()
    for _ in range(sizes.rounds):
        _cold_starts(fitted[FOREST], cold)
    return _section(measured, cold)


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _published(yard: Yard, name: str, model: Fitted) -> Manifest:
    """Both versions; the compiled one's manifest."""
    repository = open_repository(yard.settings)
    example = model.rows[:_SHOWN]
    for version in (_ORIGINAL, _COMPILED):
        manifest = publish(
            repository,
            yard.redis,
            model.estimator,
            _slug(name),
            version,
            example,
            compile=version == _COMPILED,
        )
    return manifest


def _round(yard: Yard, name: str, model: Fitted, measured: _Measured) -> None:
    """One value each, bare and through a worker, the two versions taking turns."""
    repository = open_repository(yard.settings)
    refs = {version: ModelRef(_slug(name), version) for version in (_ORIGINAL, _COMPILED)}
    loaded = {
        role: load(repository.manifest(refs[version]), repository)
        for role, version in (("original", _ORIGINAL), ("candidate", _COMPILED))
    }
    rows = [row if isinstance(row, list) else [row] for row in model.rows[:256]]
    rates = measure_speeds(loaded, rows)
    for role, version in (("original", _ORIGINAL), ("candidate", _COMPILED)):
        for size in _SIZES:
            measured.bare[version][size].append(rates[role][str(size)])
    for size in _SIZES:
        for version, ref in refs.items():
            bare = measured.bare[version][size][-1]
            jobs = int(min(max(bare * _DRAIN_S, _LEAST_JOBS), _MOST_JOBS))
            jobs_s, predicted_s = _drained(yard, ref, rows, jobs, size)
            measured.served[version][size].append(jobs_s)
            measured.predicted[version][size].append(predicted_s)


def _drained(
    yard: Yard, ref: ModelRef, rows: list[Any], jobs: int, size: int
) -> tuple[float, float]:
    """Rows a second of one worker that takes up to ``size`` one-row jobs at a time.

    Returns:
        In all, and of the time that the worker spent on predicting, by the timings of its jobs.
    """
    requests = [
        Request(ref.model, instances=[rows[place % len(rows)]], version=ref.version)
        for place in range(jobs)
    ]
    running = yard.running(worker(), yard.environ(batch_jobs=size))
    drained = drain(yard, [running], requests, expected=None)
    return drained.jobs_s, 1e6 / statistics.median(drained.predicts_us)


def _cold_starts(model: Fitted, cold: _Cold) -> None:
    """The forest as a file: published, and answered by workers that do not know it."""
    for version, compiles in ((_ORIGINAL, False), (_COMPILED, True)):
        with open_yard(has_examples=False) as yard:
            path = yard.folder / "forest.joblib"
            joblib.dump(model.estimator, path)
            example = model.rows[:_SHOWN]
            repository = open_repository(yard.settings)
            # Something to serve, so that the worker is idle and has imported what it needs.
            publish(
                repository, yard.redis, model.estimator, "warm", "v1", example, compile=compiles
            )
            with yard.running(worker()):
                _asked(yard, "warm", model)
                started = time.perf_counter()
                publish(repository, yard.redis, path, "cold", "v1", example, compile=compiles)
                cold.publish.setdefault(version, []).append(time.perf_counter() - started)
                load_s = _asked(yard, "cold", model)
                cold.first_answer.setdefault(version, []).append(time.perf_counter() - started)
                cold.load.setdefault(version, []).append(load_s)
            _from_nothing(yard, version, worker(), model, cold)
            if not compiles:
                _from_nothing(yard, "rq", stock_worker(yard.url, "cold@v1"), model, cold)


def _from_nothing(yard: Yard, name: str, argv: Sequence[str], model: Fitted, cold: _Cold) -> None:
    yard.clear()
    handle = yard.client.submit_request(Request("cold", instances=[model.rows[0]], version="v1"))
    started = time.perf_counter()
    with yard.running(argv):
        handle.wait(60)
        cold.from_nothing.setdefault(name, []).append(time.perf_counter() - started)


def _asked(yard: Yard, name: str, model: Fitted) -> float:
    """Seconds that the worker spent on loading for one answer."""
    handle = yard.client.submit_request(Request(name, instances=[model.rows[0]], version="v1"))
    handle.wait(60)
    timings = yard.client.get(handle.id).timings
    return 0.0 if timings is None else timings.load / 1000


def _section(measured: Mapping[str, _Measured], cold: _Cold) -> Section:
    tables = [
        _speed_table("bare", {name: of.bare for name, of in measured.items()}),
        _speed_table("through a worker", {name: of.served for name, of in measured.items()}),
        _speed_table("predict alone", {name: of.predicted for name, of in measured.items()}),
        _decision_table(measured),
        _cold_table(cold),
    ]
    forest = measured[FOREST]
    times = _times(forest.served, 1)
    goal = Goal(
        "the compiled forest at one row, through a worker",
        f"at least {_FOREST_RATIO} x the original",
        f"{times.median:.0f} x (its predict alone {_times(forest.predicted, 1).median:.0f} x)",
        times.median >= _FOREST_RATIO,
    )
    bars = [
        (OURS, Spread.of(forest.served[_COMPILED][1]).median),
        ("the original", Spread.of(forest.served[_ORIGINAL][1]).median),
    ]
    chart = Chart("A forest through a worker, row by row, more is better", "rows/s", bars)
    return Section("Compiled models", _TEXT, tables, [goal], [chart])


def _speed_table(where: str, rates: Mapping[str, Mapping[str, _Rates]]) -> Table:
    columns = ["model", f"1 row, {where}", "compiled, rows/s", "original, rows/s"]
    columns += [f"64 rows, {where}", "compiled, rows/s", "original, rows/s"]
    rows = []
    for name, of in rates.items():
        row = [name]
        for size in _SIZES:
            row += [
                f"{_times(of, size).show(1)} x",
                Spread.of(of[_COMPILED][size]).show(),
                Spread.of(of[_ORIGINAL][size]).show(),
            ]
        rows.append(row)
    return Table(columns, rows)


def _decision_table(measured: Mapping[str, _Measured]) -> Table:
    """The decision of publishing; where it is no, both columns above are the original."""
    rows = []
    for name, of in measured.items():
        compiled = of.manifest.compiled
        assert compiled is not None
        rows.append(
            [
                name,
                of.manifest.runtime,
                f"{compiled.rows:,}",
                str(compiled.disagreements),
                f"{compiled.max_difference:.1e}",
                " + ".join(f"{file.size_bytes:,}" for file in of.manifest.files),
            ]
        )
    columns = ["model", "served by", "rows compared", "otherwise", "greatest difference", "bytes"]
    return Table(columns, rows)


def _cold_table(cold: _Cold) -> Table:
    names = {
        _ORIGINAL: "forest, original",
        _COMPILED: "forest, compiled",
        "rq": "RQ, the same file",
    }
    rows = [
        [
            said,
            *(
                f"{Spread.of(values[name]).show(2)} s" if name in values else ""
                for values in (cold.publish, cold.first_answer, cold.load, cold.from_nothing)
            ),
        ]
        for name, said in names.items()
    ]
    columns = ["cold start", "publish", "to first answer", "of it loading", "worker from nothing"]
    return Table(columns, rows, _COLD)


def _times(of: Mapping[str, _Rates], size: int) -> Spread:
    return ratio(Spread.of(of[_COMPILED][size]), Spread.of(of[_ORIGINAL][size]))


def _told(of: _Measured) -> str:
    return ", ".join(
        f"{_times(rates, size).values[-1]:.0f} x at {size} {where}"
        for where, rates in (("bare", of.bare), ("through a worker", of.served))
        for size in _SIZES
    )
