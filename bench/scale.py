"""More workers, and more versions: what a second worker adds, and what a hundred versions take.

A second worker adds most where the model is the cost. Where it is not, the workers' Python and then
Redis' one core are the limit; the table has Redis' share of a core beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from bench.bare import rows_s
from bench.contest import Contest, take_turns
from bench.jobs import Drained, drain, one_row
from bench.measure import Spread, ratio
from bench.progress import say
from bench.report import Goal, Section, Table
from bench.yard import Yard, open_yard, worker
from models.publish import publish
from models.repository import Repository
from producer.contract import ModelRef

_WORKERS_RATIO = 1.7
_SPREAD = 0.30
_VERSIONS = (1, 10, 100)
_COPIES = "copies"
_FOREST, _REGRESSION = ModelRef("forest", "v1"), ModelRef("iris", "v1")
_COMPILED_FOREST = ModelRef("iris", "v2")

_TEXT = """\
One-row jobs, queued beforehand. `forest@v1` is a forest of 100 trees, not compiled, whose predict
is the cost; `iris@v1` is a logistic regression, whose predict costs next to nothing in a batch.
Redis' share is of one core, its limit: where it nears 1, no worker adds anything. "Bare" are
processes that do nothing but predict the same rows: what a second one of these adds is all that a
second worker could, if the queue cost nothing."""

_TEXT_OF_VERSIONS = """\
The same number of jobs for 1, 10 and 100 versions, which are copies of `iris@v1`, in turn; one
worker, which has loaded them all."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    rounds: int
    forest: int
    regression: int


FULL = Sizes(rounds=3, forest=15_000, regression=40_000)
QUICK = Sizes(rounds=1, forest=2_000, regression=6_000)


def run(quick: bool) -> Section:
    """Measure and tell."""
    sizes = QUICK if quick else FULL
    with open_yard() as yard:
        say("scale: publishing copies")
        publish_copies(yard, max(_VERSIONS))
        publish_copy(yard, _COMPILED_FOREST, _FOREST, compile=False)
        systems = {
            f"{ref}, {count}": partial(_of_workers, yard, ref, count, _jobs(sizes, ref))
            for ref in (_FOREST, _REGRESSION)
            for count in (1, 2)
        }
        systems |= {f"bare, {count}": partial(_of_bare, yard, count) for count in (1, 2)}
        systems |= {
            f"{count} versions": partial(_of_versions, yard, count, sizes.regression)
            for count in _VERSIONS
        }
        contest = take_turns("scale", sizes.rounds, systems, lambda one: f"{one.jobs_s:,.0f}/s")
    return _section(contest)


def publish_copies(yard: Yard, count: int) -> None:
    """As many versions of one model, all with the estimator of ``iris`` v1."""
    for number in range(count):
        publish_copy(yard, _REGRESSION, ModelRef(_COPIES, f"v{number}"))


def publish_copy(yard: Yard, original: ModelRef, copy: ModelRef, *, compile: bool = True) -> None:
    """Publish the estimator of a version as another."""
    repository = Repository(yard.settings.store_path)
    known = repository.manifest(original)
    publish(
        repository,
        yard.redis,
        yard.artefact(original),
        copy.model,
        copy.version,
        known.example,
        feature_names=[column.name for column in known.signature.inputs],
        compile=compile,
    )


def _jobs(sizes: Sizes, ref: ModelRef) -> int:
    return sizes.forest if ref == _FOREST else sizes.regression


def _of_workers(yard: Yard, ref: ModelRef, workers: int, count: int) -> Drained:
    running = [yard.running(worker()) for _ in range(workers)]
    return drain(yard, running, [one_row(ref.model, ref.version)] * count)


def _of_bare(yard: Yard, processes: int) -> Drained:
    return Drained(rows_s(yard.artefact(_COMPILED_FOREST), processes), 0.0, {})


def _of_versions(yard: Yard, versions: int, count: int) -> Drained:
    requests = [one_row(_COPIES, f"v{number}") for number in range(versions)]
    return drain(yard, [yard.running(worker())], requests * (count // versions))


def _section(contest: Contest[Drained]) -> Section:
    speeds = {name: Spread.of(d.jobs_s for d in of) for name, of in contest.turns.items()}
    workers = [
        _worker_row(contest, name, count)
        for name in (str(_FOREST), "bare", str(_REGRESSION))
        for count in (1, 2)
    ]
    base = speeds[f"{_VERSIONS[0]} versions"]
    relative = {count: ratio(speeds[f"{count} versions"], base) for count in _VERSIONS}
    versions = [
        [str(count), relative[count].show(2), speeds[f"{count} versions"].show()]
        for count in _VERSIONS
    ]
    tables = [
        Table(["model", "workers", "of one", "jobs/s", "Redis, of a core"], workers),
        Table(["versions", "of one version", "jobs/s"], versions, _TEXT_OF_VERSIONS),
    ]
    second = ratio(speeds[f"{_FOREST}, 2"], speeds[f"{_FOREST}, 1"]).median
    ceiling = ratio(speeds["bare, 2"], speeds["bare, 1"]).median
    medians = [relative[count].median for count in _VERSIONS]
    apart = 1 - min(medians) / max(medians)
    goals = [
        Goal(
            "two workers, where the model is the cost",
            f"at least {_WORKERS_RATIO} x one",
            f"{second:.2f} x (bare predicts {ceiling:.2f} x)",
            second >= _WORKERS_RATIO,
        ),
        Goal(
            "the same work over 1, 10, 100 versions",
            f"within {_SPREAD:.0%}",
            f"{apart:.0%} apart",
            apart <= _SPREAD,
        ),
    ]
    return Section("More workers, more versions", _TEXT, tables, goals)


def _worker_row(contest: Contest[Drained], name: str, count: int) -> list[str]:
    turns = contest.turns[f"{name}, {count}"]
    alone = Spread.of(one.jobs_s for one in contest.turns[f"{name}, 1"])
    speed = Spread.of(one.jobs_s for one in turns)
    share = Spread.of(one.redis_us * one.jobs_s / 1e6 for one in turns)
    of_one = "1" if count == 1 else f"{ratio(speed, alone).show(2)} x"
    return [name, str(count), of_one, speed.show(), share.show(2)]
