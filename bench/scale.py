"""More workers, and more versions: what a second worker adds, and what a hundred versions take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.bare import rows_s
from bench.contest import Contest, take_turns
from bench.estimators import iris_forest
from bench.jobs import Drained, drain, one_row
from bench.measure import Spread, ratio
from bench.progress import say
from bench.report import Goal, Section, Table
from bench.second import Case, Measured, workers_goal, workers_table
from bench.yard import Yard, open_yard, worker
from models.publish.publisher import publish
from models.store.repository import Repository
from yard.contract.values import ModelRef

_SPREAD = 0.30
_VERSIONS = (1, 10, 100)
_JOBS_OF_VERSIONS = 40_000
_COPIES = "copies"
_REGRESSION, _COMPILED_FOREST = ModelRef("iris", "v1"), ModelRef("iris", "v2")
_FOREST, _LARGE_FOREST = ModelRef("forest", "v1"), ModelRef("forest", "v2")
_LARGE = 1_000

_FORESTS = (
    Case("100 trees", _FOREST, batch=1, jobs=1_200),
    Case("100 trees", _FOREST, batch=16, jobs=12_000),
    Case("100 trees", _FOREST, batch=64, jobs=40_000),
    Case(f"{_LARGE:,} trees", _LARGE_FOREST, batch=64, jobs=8_000),
)
_CASES = (*_FORESTS, Case("regression", _REGRESSION, batch=64, jobs=60_000))

_TEXT = f"""\
One-row jobs, queued beforehand. The forests, of 100 and of {_LARGE:,} trees, are not compiled: the
more trees, and the fewer jobs in a batch, the more a predict costs each job. The regression is
`{_REGRESSION}`, whose predict costs next to nothing in a batch."""

_TEXT_OF_VERSIONS = f"""\
The same number of jobs for 1, 10 and 100 versions, which are copies of `{_REGRESSION}`, in turn;
one worker, which has loaded them all."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Amounts of the measurement: rounds, and the part of all jobs."""

    rounds: int
    part: float


FULL = Sizes(rounds=5, part=1.0)
QUICK = Sizes(rounds=1, part=0.15)


def run(quick: bool) -> Section:
    """Measure and report."""
    sizes = QUICK if quick else FULL
    with open_yard() as yard:
        say("scale: publishing copies")
        _publish_all(yard)
        systems = {
            case.turn(count): partial(_of_workers, yard, case, count, int(case.jobs * sizes.part))
            for case in _CASES
            for count in (1, 2)
        }
        systems |= {
            case.bare(count): partial(_of_bare, yard, case, count)
            for case in _FORESTS
            for count in (1, 2)
        }
        systems |= {
            _of(count): partial(_of_versions, yard, count, int(_JOBS_OF_VERSIONS * sizes.part))
            for count in _VERSIONS
        }
        contest = take_turns("scale", sizes.rounds, systems, lambda one: f"{one.jobs_s:,.0f}/s")
    return _section(contest)


def _publish_all(yard: Yard) -> None:
    """The forests, and as many versions of one model as are asked, all with one estimator."""
    for number in range(max(_VERSIONS)):
        copy = ModelRef(_COPIES, f"v{number}")
        _publish_like(yard, _REGRESSION, copy, yard.artefact(_REGRESSION))
    for ref, forest in (
        (_FOREST, yard.artefact(_COMPILED_FOREST)),
        (_LARGE_FOREST, iris_forest(_LARGE)),
    ):
        _publish_like(yard, _COMPILED_FOREST, ref, forest, compile=False)


def _publish_like(
    yard: Yard, like: ModelRef, ref: ModelRef, estimator_or_path: Any, *, compile: bool = True
) -> None:
    """Publish an estimator that is asked as a known version is."""
    repository = Repository(yard.settings.store_path)
    known = repository.manifest(like)
    publish(
        repository,
        yard.redis,
        estimator_or_path,
        ref.model,
        ref.version,
        known.example,
        feature_names=[column.name for column in known.signature.inputs],
        compile=compile,
    )


def _of(versions: int) -> str:
    return f"{versions} versions"


def _of_workers(yard: Yard, case: Case, workers: int, count: int) -> Drained:
    environ = yard.environ(batch_jobs=case.batch)
    running = [yard.running(worker(), environ) for _ in range(workers)]
    return drain(yard, running, [one_row(case.ref.model, case.ref.version)] * count)


def _of_bare(yard: Yard, case: Case, processes: int) -> Drained:
    return Drained(rows_s(yard.artefact(case.ref), processes, case.batch), 0.0, {})


def _of_versions(yard: Yard, versions: int, count: int) -> Drained:
    requests = [one_row(_COPIES, f"v{number}") for number in range(versions)]
    return drain(yard, [yard.running(worker())], requests * (count // versions))


def _section(contest: Contest[Drained]) -> Section:
    turns = contest.turns
    measured = {
        case: Measured(
            case,
            turns[case.turn(1)],
            turns[case.turn(2)],
            turns.get(case.bare(1), ()),
            turns.get(case.bare(2), ()),
        )
        for case in _CASES
    }
    speeds = {name: Spread.of(turn.jobs_s for turn in of) for name, of in turns.items()}
    of_one = {count: ratio(speeds[_of(count)], speeds[_of(1)]) for count in _VERSIONS}
    versions = [[str(n), of_one[n].show(2), speeds[_of(n)].show()] for n in _VERSIONS]
    tables = [
        workers_table(list(measured.values())),
        Table(["versions", "of one version", "jobs/s"], versions, _TEXT_OF_VERSIONS),
    ]
    goals = [
        workers_goal([measured[case] for case in _FORESTS]),
        _goal_of_versions([spread.median for spread in of_one.values()]),
    ]
    return Section("More workers, more versions", _TEXT, tables, goals)


def _goal_of_versions(medians: list[float]) -> Goal:
    apart = 1 - min(medians) / max(medians)
    return Goal(
        "the same work over 1, 10, 100 versions",
        f"within {_SPREAD:.0%}",
        f"{apart:.0%} apart",
        apart <= _SPREAD,
    )
