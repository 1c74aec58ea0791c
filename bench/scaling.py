"""The pool under a load that changes: how long jobs wait, and what that costs in workers.

Two loads on a real yard, from nothing to nothing: steps of 0, 200, 2,000 and 0 jobs a second, and a
sawtooth over three versions. What the pool ran is set against an oracle that knew the load.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bench import oracle
from bench.jobs import submitted
from bench.measure import percentile
from bench.paced import Paced
from bench.progress import say
from bench.report import Goal, Section, Table
from bench.timeline import Timeline, draw
from bench.yard import Yard, open_yard
from models.publish.publisher import publish
from models.store.repository import Repository
from yard.cluster.presence import read_presence
from yard.cluster.workload import parse_pace
from yard.contract import keys
from yard.contract.values import Request

_FOLDER = Path(__file__).resolve().parent.parent / "build" / "bench"

_BATCH_S, _ROW_S = 0.002, 0.0015
_STEP_S = 0.02
_LOOK_S = 0.05
_TARGET_WAIT_S, _IDLE_S, _MOST = 1.0, 4.0, 8

#: After a change of the load, so long is not called steady, in seconds.
_SETTLES_S = 10
_SHARES = {"p50_s": 0.5, "p99_s": 0.99}
_WAIT_FACTOR, _COST_FACTOR = 2.0, 1.3

_TEXT = f"""\
A pool of 0 to {_MOST} workers, `MODELYARD_TARGET_WAIT_S` {_TARGET_WAIT_S:g},
`MODELYARD_IDLE_S` {_IDLE_S:g}. The model waits {1000 * _BATCH_S:g} ms for a batch and
{1000 * _ROW_S:g} ms for each row, as one on an accelerator does: what 2,000 jobs a second keep busy
is then more than three workers, of which none needs a core. The wait is from submission to the
start of the batch; the steady part of a phase begins {_SETTLES_S} s after the load has changed. The
oracle knows the load and what a job costs, and has whole workers the second that they are needed,
busy all the time."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a load: from one second to another."""

    name: str
    since: int
    until: int
    is_steady: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """Jobs a second for each version, second by second, and a description."""

    name: str
    rates: Mapping[str, Sequence[float]]
    phases: Sequence[Phase]

    @property
    def seconds(self) -> int:
        return max(len(of) for of in self.rates.values())


@dataclass(frozen=True, slots=True)
class Seen:
    """A pool under a load.

    Attributes:
        load: The load.
        submitted: For each version, the jobs that were submitted in each second.
        waits: For each job the second in which it was submitted, and how long it waited.
        sizes: When the pool had how many workers, from its first second on.
        oracle: The oracle's workers in each second.
    """

    load: Load
    submitted: Mapping[str, Sequence[int]]
    waits: Sequence[tuple[float, float]]
    sizes: Sequence[tuple[float, int]]
    oracle: Sequence[int]

    @property
    def worker_s(self) -> float:
        return sum(size * (after - at) for (at, size), (after, _) in pairwise(self.sizes))

    @property
    def cost(self) -> float:
        return self.worker_s / sum(self.oracle)

    @property
    def starts(self) -> int:
        return sum(max(0, after - size) for (_, size), (_, after) in pairwise(self.sizes))

    @property
    def stops(self) -> int:
        return sum(max(0, size - after) for (_, size), (_, after) in pairwise(self.sizes))

    def wait_s(self, phase: Phase, share: float) -> float:
        found = [wait for at, wait in self.waits if phase.since <= at < phase.until]
        return percentile(found, share) if found else 0.0


def steps(scale: float) -> Load:
    """0 -> 200 -> 2,000 -> 0; each part so many times as long."""
    lengths = [round(scale * seconds) for seconds in (5, 30, 40, 15)]
    rates: list[float] = []
    phases = []
    for rate, seconds in zip((0, 200, 2000, 0), lengths, strict=True):
        since = len(rates)
        rates += [float(rate)] * seconds
        if rate:
            settled = since + min(_SETTLES_S, seconds // 2)
            phases.append(Phase(f"{rate:,}/s, all of it", since, len(rates)))
            phases.append(Phase(f"{rate:,}/s, steady", settled, len(rates), is_steady=True))
    return Load("steps", {"paced@v1": rates}, phases)


def sawtooth(scale: float) -> Load:
    """Three versions, each rising from nothing to 1,000 jobs a second, out of step."""
    period, peak = round(75 * scale), 1000.0
    seconds, tail = round(100 * scale), 10
    rates = {
        f"paced@v{number + 1}": [
            peak * ((second + number * period / 3) % period) / period for second in range(seconds)
        ]
        + [0.0] * tail
        for number in range(3)
    }
    settled = min(_SETTLES_S, seconds // 2)
    return Load("sawtooth", rates, [Phase("after the start", settled, seconds, is_steady=True)])


def run(quick: bool) -> Section:
    """Measure and report; the observations are left as JSON and as a picture."""
    scale = 0.4 if quick else 1.0
    seen = []
    for load in (steps(scale), sawtooth(scale)):
        with open_yard(target_wait_s=_TARGET_WAIT_S, idle_s=_IDLE_S) as yard:
            seen.append(_serve(yard, load))
        say(f"scaling: {load.name}: {seen[-1].cost:.2f} of the oracle's worker-seconds")
    _FOLDER.mkdir(parents=True, exist_ok=True)
    told = [_told(one) for one in seen]
    (_FOLDER / "scaling.json").write_text(json.dumps(told) + "\n", encoding="utf-8")
    (_FOLDER / "scaling.svg").write_text(draw(_timelines(told)), encoding="utf-8")
    return _section(seen)


def _serve(yard: Yard, load: Load) -> Seen:
    """Put the load on a pool that has nothing running."""
    for queue in load.rates:
        model, _, version = queue.partition("@")
        estimator = Paced(_BATCH_S, _ROW_S).fit([[1.0]])
        publish(
            Repository(yard.settings.store_path), yard.redis, estimator, model, version, [[1.0]]
        )
    argv = [sys.executable, "-P", "-m", "modelyard.cli", "pool"]
    environ = yard.environ(pool_min=0, pool_max=_MOST)
    environ["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    sizes: list[tuple[float, int]] = []
    is_over = threading.Event()
    with yard.running(argv, environ) as pool:
        _wait_for_pool(yard)
        began = time.time()
        watch = threading.Thread(target=_watch, args=(yard, began, sizes, is_over))
        watch.start()
        try:
            ids, counts = _submit(yard, load, began)
            pool.check()
        finally:
            is_over.set()
            watch.join()
        waits = _waits(yard, ids, began)
    paces = {queue: parse_pace(yard.redis.get(keys.key("pace", queue))) for queue in load.rates}
    known = {queue: pace for queue, pace in paces.items() if pace is not None}
    return Seen(load, counts, waits, sizes, oracle.workers(counts, known, yard.settings.batch_jobs))


def _wait_for_pool(yard: Yard) -> None:
    until = time.monotonic() + 30
    while not read_presence(yard.redis).pools:
        if time.monotonic() > until:
            raise TimeoutError("the pool does not start")
        time.sleep(_LOOK_S)


def _submit(yard: Yard, load: Load, began: float) -> tuple[list[str], dict[str, list[int]]]:
    """Submit at random moments with the load's rates; the jobs, and how many in each second."""
    rng = np.random.default_rng(1)
    ids: list[str] = []
    counts = {queue: [0] * load.seconds for queue in load.rates}
    value = 0.0
    for step in range(round(load.seconds / _STEP_S)):
        time.sleep(max(0.0, began + step * _STEP_S - time.time()))
        requests = []
        for queue, rates in load.rates.items():
            jobs = int(rng.poisson(rates[int(step * _STEP_S)] * _STEP_S))
            counts[queue][int(step * _STEP_S)] += jobs
            model, _, version = queue.partition("@")
            for _ in range(jobs):
                value += 1.0
                requests.append(Request(model, instances=[[value]], version=version))
        if requests:
            ids += [handle.id for handle in submitted(yard, requests)]
    return ids, counts


def _watch(
    yard: Yard, began: float, sizes: list[tuple[float, int]], is_over: threading.Event
) -> None:
    """Note how many workers the pool has, those that are starting or leaving included."""
    while True:
        pools = read_presence(yard.redis).pools
        sizes.append((time.time() - began, sum(sum(pool.workers.values()) for pool in pools)))
        if is_over.wait(_LOOK_S):
            return


def _waits(yard: Yard, ids: Sequence[str], began: float) -> list[tuple[float, float]]:
    """When each job was submitted, since the beginning, and how long it waited; in seconds.

    Raises:
        RuntimeError: A job has not ended well.
    """
    found = []
    for start in range(0, len(ids), 2_000):
        pipe = yard.redis.pipeline(transaction=False)
        for job_id in ids[start : start + 2_000]:
            pipe.hmget(keys.key("job", job_id), "status", "created_at", "started_at")
        for status, created_at, started_at in pipe.execute():
            if status != b"finished":
                raise RuntimeError(f"a job is {status}")
            at, started = (_moment(text) for text in (created_at, started_at))
            found.append((at - began, max(0.0, started - at)))
    return found


def _moment(text: bytes) -> float:
    return datetime.fromisoformat(text.decode()).timestamp()


def _told(seen: Seen) -> dict[str, Any]:
    """The JSON that is left: second by second, and the figures."""
    by_second: dict[int, list[float]] = {}
    for at, wait in seen.waits:
        by_second.setdefault(int(at), []).append(wait)
    return {
        "load": seen.load.name,
        "submitted": seen.submitted,
        "wait_p99_s": [
            round(percentile(by_second[second], 0.99), 4) if second in by_second else None
            for second in range(seen.load.seconds)
        ],
        "sizes": [(round(at, 2), size) for at, size in _changes(seen.sizes)],
        "oracle": seen.oracle,
        "worker_s": round(seen.worker_s, 1),
        "cost": round(seen.cost, 3),
        "starts": seen.starts,
        "stops": seen.stops,
        "phases": [
            asdict(phase)
            | {name: round(seen.wait_s(phase, share), 4) for name, share in _SHARES.items()}
            for phase in seen.load.phases
        ],
    }


def _changes(sizes: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """The first, the last, and each at which something has changed."""
    middle = [after for before, after in pairwise(sizes) if before[1] != after[1]]
    return [sizes[0], *middle, sizes[-1]]


def _timelines(told: Sequence[Mapping[str, Any]]) -> list[Timeline]:
    return [Timeline.of(one, _TARGET_WAIT_S) for one in told]


def _section(seen: Sequence[Seen]) -> Section:
    waits = [
        [
            one.load.name,
            phase.name,
            f"{1000 * one.wait_s(phase, 0.5):,.0f}",
            f"{1000 * one.wait_s(phase, 0.99):,.0f}",
        ]
        for one in seen
        for phase in one.load.phases
    ]
    costs = [
        [
            one.load.name,
            f"{one.cost:.2f} x",
            f"{one.worker_s:,.0f}",
            f"{sum(one.oracle):,}",
            str(one.starts),
            str(one.stops),
        ]
        for one in seen
    ]
    columns = ["load", "of the oracle", "worker-seconds", "the oracle's", "starts", "stops"]
    return Section(
        "Workers that follow the load",
        _TEXT,
        [
            Table(["load", "phase", "wait p50, ms", "wait p99, ms"], waits),
            Table(columns, costs),
        ],
        [goal for one in seen for goal in _goals(one)],
    )


def _goals(seen: Seen) -> list[Goal]:
    longest = max(seen.wait_s(phase, 0.99) for phase in seen.load.phases if phase.is_steady)
    return [
        Goal(
            f"scaling, {seen.load.name}: wait p99 in steady parts",
            f"under {_WAIT_FACTOR:g} x the target wait",
            f"{longest / _TARGET_WAIT_S:.2f} x",
            longest < _WAIT_FACTOR * _TARGET_WAIT_S,
        ),
        Goal(
            f"scaling, {seen.load.name}: worker-seconds",
            f"at most {_COST_FACTOR} x the oracle's",
            f"{seen.cost:.2f} x",
            seen.cost <= _COST_FACTOR,
        ),
    ]
