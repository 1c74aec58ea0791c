"""Loading: what workers of one machine share of a large version, and what a light worker saves."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from bench.jobs import submitted
from bench.measure import Spread, ratio
from bench.progress import say
from bench.report import Goal, Section, Table
from bench.yard import Process, Yard, open_yard, wait_until
from yard.cluster.presence import read_presence
from yard.contract.values import Request

_MB = 10**6
_COUNTS = (1, 4)
_FORMS = {"joblib": False, "onnx": True}
_INPUTS = 1_000

_TEXT = """\
A network whose weights fill a file of about 100 MB is loaded by one worker and by four, from a copy
that they map (as by default) and read into each one's own memory (`MODELYARD_MAP_BYTES=0`). USS is
memory that a process has to itself: of a single worker it counts mapped pages, too, since nobody
shares them yet. PSS charges each process with its part of what is shared; its sum is what the
machine pays."""

_TEXT_OF_LIGHT = """\
A worker of nothing but a compiled version beside one of the scikit-learn original of the same
estimator, turn about: from its start to the first answer of a job that waits, and what it holds
then."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Amounts of the measurement: hidden units of 8 kB each, and rounds of starting."""

    hidden: int
    rounds: int


FULL = Sizes(hidden=12_500, rounds=7)
QUICK = Sizes(hidden=3_000, rounds=2)


@dataclass(frozen=True, slots=True)
class Held:
    """Memory of the workers of one run.

    Attributes:
        uss: Bytes that each has to itself, in the middle.
        pss: Bytes of all together, what is shared counted once.
        load_ms: Time of the slowest load, in milliseconds.
    """

    uss: float
    pss: float
    load_ms: float


def run(quick: bool) -> Section:
    """Measure and report."""
    sizes = QUICK if quick else FULL
    with open_yard(lease_s=10.0) as yard:
        published = {form: _publish(yard, form, sizes.hidden) for form in _FORMS}
        say("sharing: published")
        base = {
            (form, count): _held(yard, f"{form}-iris", count)
            for form in _FORMS
            for count in _COUNTS
        }
        held = {
            (form, count, maps): _held(yard, form, count, maps=maps)
            for form in _FORMS
            for count in _COUNTS
            for maps in (False, True)
        }
        say("sharing: memory measured")
        light = [
            (_start(yard, "onnx-iris"), _start(yard, "joblib-iris")) for _ in range(sizes.rounds)
        ]
    return _section(published, base, held, light)


def _publish(yard: Yard, form: str, hidden: int) -> int:
    """A network and a small estimator in one form each; the bytes of the network's file."""
    from skl2onnx import to_onnx
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    from models.publish.publisher import publish
    from models.store.repository import Repository

    iris = load_iris()
    small = LogisticRegression(max_iter=500).fit(iris.data, iris.target)
    store, redis, compiles = Repository(yard.settings.store_path), yard.redis, _FORMS[form]
    rows = np.random.default_rng(0).normal(size=(4, _INPUTS))
    net: Any = _network(rows, hidden * 2 if compiles else hidden)  # single precision, or double
    if compiles:  # by hand: a network this wide gains no speed by it, so publishing would not
        path = yard.folder / "network.onnx"
        path.write_bytes(to_onnx(net, rows[:1].astype(np.float32)).SerializeToString())
        net = path
    known = publish(store, redis, net, form, "v1", rows[:2].tolist(), activate=True, compile=False)
    example = iris.data[:2].tolist()
    publish(store, redis, small, f"{form}-iris", "v1", example, activate=True, compile=compiles)
    return known.file("model.onnx" if compiles else "model.joblib").size_bytes


def _network(rows: Any, hidden: int) -> Any:
    from sklearn.neural_network import MLPRegressor

    net = MLPRegressor(hidden_layer_sizes=(hidden,), max_iter=1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net.fit(rows, [0.0, 1.0, 2.0, 3.0])
    for name in ("_optimizer", "_best_coefs"):  # as large as the weights, for training only
        vars(net).pop(name, None)
    return net


@contextmanager
def _worker(yard: Yard, pattern: str, **settings: object) -> Iterator[Process]:
    argv = [sys.executable, "-P", "-m", "worker.process.worker", "", "", pattern]
    home = str(yard.folder / "cache")
    with yard.running(argv, yard.environ(store_cache=home, **settings)) as process:
        yield process


def _held(yard: Yard, model: str, count: int, *, maps: bool = True) -> Held:
    """The memory of workers that have all loaded version v1 of a model."""
    settings = {"batch_jobs": 1} | ({} if maps else {"map_bytes": 0})
    with ExitStack() as stack:
        processes = [stack.enter_context(_worker(yard, model, **settings)) for _ in range(count)]
        request = _request(yard, model)
        load_ms = 0.0

        def all_have_it() -> bool:
            nonlocal load_ms
            for handle in submitted(yard, [request] * 2 * count):
                timings = handle.wait(120).timings
                load_ms = max(load_ms, timings.load if timings else 0.0)
            return len(read_presence(yard.redis).holders(f"{model}@v1")) >= count

        wait_until(all_have_it, 180)
        infos = [psutil.Process(process.pid).memory_full_info() for process in processes]
    wait_until(lambda: not read_presence(yard.redis).workers, 30)
    uss = Spread.of(info.uss for info in infos).median
    return Held(uss, sum(info.pss for info in infos), load_ms)


def _request(yard: Yard, model: str) -> Request:
    from models.store.repository import Repository
    from yard.contract.values import ModelRef

    manifest = Repository(yard.settings.store_path).manifest(ModelRef(model, "v1"))
    return Request(model, instances=manifest.rows[:1])


def _start(yard: Yard, model: str) -> tuple[float, int]:
    """Seconds from a worker's start to the first answer, and its own bytes then."""
    request = _request(yard, model)
    (handle,) = submitted(yard, [request])
    started = time.monotonic()
    with _worker(yard, model) as process:
        handle.wait(60)
        taken_s = time.monotonic() - started
        uss = int(psutil.Process(process.pid).memory_full_info().uss)
    return taken_s, uss


def _section(
    published: dict[str, int],
    base: dict[tuple[str, int], Held],
    held: dict[tuple[str, int, bool], Held],
    light: Sequence[tuple[tuple[float, int], tuple[float, int]]],
) -> Section:
    rows = [
        [
            f"{form}, {published[form] / _MB:.0f} MB",
            str(count),
            "mapped" if maps else "read",
            f"{one.uss / _MB:.0f}",
            f"{(one.uss - base[form, count].uss) / _MB:.0f}",
            f"{one.pss / _MB:.0f}",
            f"{one.load_ms:.0f}",
        ]
        for (form, count, maps), one in held.items()
    ]
    columns = [
        "version",
        "workers",
        "file",
        "USS, MB each",
        "of it the version's",
        "PSS, MB all",
        "load, ms",
    ]
    starts = [Spread.of(pair[side][0] for pair in light) for side in (0, 1)]
    sizes = [Spread.of(pair[side][1] / _MB for pair in light) for side in (0, 1)]
    table = Table(
        ["worker of", "start to first answer, s", "USS, MB"],
        [
            ["a compiled version", starts[0].show(2), sizes[0].show(0)],
            ["its scikit-learn original", starts[1].show(2), sizes[1].show(0)],
            ["times", ratio(*starts).show(1), ratio(*sizes).show(1)],
        ],
        _TEXT_OF_LIGHT,
    )
    return Section("Loading", _TEXT, [Table(columns, rows), table], _goals(base, held))


def _goals(
    base: dict[tuple[str, int], Held], held: dict[tuple[str, int, bool], Held]
) -> list[Goal]:
    goals = []
    for form in _FORMS:
        own, read = (held[form, 4, maps].uss - base[form, 4].uss for maps in (True, False))
        goals.append(
            Goal(
                f"private memory of each of 4 workers for a large {form} version",
                "under a fifth of what reading takes",
                f"{own / _MB:.0f} of {read / _MB:.0f} MB (USS)",
                own < read / 5,
            )
        )
    return goals
