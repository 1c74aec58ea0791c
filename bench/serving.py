"""Over HTTP: one gateway and one worker against servers that predict by themselves.

Ours serves what publishing has compiled an estimator to, the others the estimator; one row a
request, one process that predicts. Ours has a queue in between that keeps an accepted request
through a crash; the others lose what they are at.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import environments, polls
from bench.contest import Contest, take_turns
from bench.gateways import gateway, wait_until_serving
from bench.load import Load, generator, load
from bench.measure import Spread, ratio
from bench.polls import Waited
from bench.report import OURS, Chart, Goal, Section, Table
from bench.yard import ROW, Yard, free_port, open_yard, worker
from yard.contract.values import ModelRef

_MODEL = ModelRef("iris", "v1")
_CLIENTS = (1, 16, 64)
_MOST = 64
_WARM_S = 1.0
_HEALTHZ_MS, _HANDFUL = 20, 8


_BODY = json.dumps({"instances": [ROW]}).encode()
_INPUT = {"name": "x", "shape": [1, len(ROW)], "datatype": "FP64", "data": [ROW]}
_MLSERVER_BODY = json.dumps({"inputs": [_INPUT]}).encode()

_TEXT = """\
`POST .../predict` for one row of `iris@v1`, over connections that are kept. Ours is one gateway
process and one worker with their default settings, but for the log's level: nobody logs single
requests here. FastAPI runs under uvicorn with uvloop and httptools, one process, predicting on the
event loop or in its threads; MLServer is one process with batches of up to 64 within 2 ms and its
own runtime for scikit-learn. Both serve the estimator, ours what publishing has compiled it to. The
load is on the same cores, by {generator}."""

_TEXT_OF_WAITS = """\
Each waits for a job of its own with `GET /v1/jobs/{id}?wait=30` at one gateway process. /healthz is
asked on a new connection each time. All told: from the moment that the worker begins to the last
client's answer."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Amounts of the measurement."""

    rounds: int
    seconds: float
    waiting: int
    looks: int


FULL = Sizes(rounds=3, seconds=4.0, waiting=1_000, looks=500)
QUICK = Sizes(rounds=1, seconds=1.0, waiting=200, looks=100)

#: For each number of clients, what the server did.
Turn = dict[int, Load]


def run(quick: bool) -> Section:
    """Measure and report."""
    sizes = QUICK if quick else FULL
    with open_yard() as yard:
        systems = {
            OURS: partial(_ours, yard, sizes),
            "FastAPI, on the loop": partial(_fastapi, yard, "loop", sizes),
            "FastAPI, in threads": partial(_fastapi, yard, "threads", sizes),
            "MLServer, adaptive batching": partial(_mlserver, yard, sizes),
        }
        contest = take_turns("http", sizes.rounds, systems, _told)
        waited = polls.measure(yard, sizes.waiting, sizes.looks)
    return _section(contest, waited)


def _told(turn: Turn) -> str:
    return "/".join(f"{turn[clients].answers_s:,.0f}" for clients in _CLIENTS) + "/s"


def _ours(yard: Yard, sizes: Sizes) -> Turn:
    yard.clear()
    with yard.running(worker()), gateway(yard) as port:
        return _under_load(f"http://127.0.0.1:{port}/v1/models/iris/predict", _BODY, sizes)


def _fastapi(yard: Yard, path: str, sizes: Sizes) -> Turn:
    port = free_port()
    python = str(environments.python_of("fastapi"))
    argv = [python, "-P", "-m", "uvicorn", "bench.peers.fastapi_app:app", "--port", str(port)]
    argv += ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    environ = environments.environ(yard.environ())
    environ |= {"BENCH_ARTEFACT": str(yard.artefact(_MODEL))}
    with yard.running([*argv, "--log-level", "warning"], environ) as process:
        wait_until_serving(process, port, "/openapi.json")
        return _under_load(f"http://127.0.0.1:{port}/{path}/predict", _BODY, sizes)


def _mlserver(yard: Yard, sizes: Sizes) -> Turn:
    """MLServer with its own runtime for scikit-learn; what it answers is the probabilities."""
    python, port = environments.python_of("mlserver"), free_port()
    folder = _mlserver_folder(yard, port)
    # Its command is not on the PATH of its own environment's ``-m``.
    argv = [str(python.with_name("mlserver")), "start", str(folder)]
    with yard.running(argv, environments.environ(yard.environ())) as process:
        wait_until_serving(process, port, "/v2/models/iris/ready")
        return _under_load(f"http://127.0.0.1:{port}/v2/models/iris/infer", _MLSERVER_BODY, sizes)


def _mlserver_folder(yard: Yard, port: int) -> Path:
    """Its settings, as its manual has them: no metrics, no debugging, no other process."""
    folder = yard.folder / f"mlserver-{port}"
    folder.mkdir()
    server = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": free_port(),
        "debug": False,
        "metrics_endpoint": None,
        "parallel_workers": 0,
        "gzip_enabled": False,
    }
    model = {
        "name": "iris",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "max_batch_size": _MOST,
        "max_batch_time": 0.002,
        "parameters": {
            "uri": str(yard.artefact(_MODEL)),
            "extra": {"predict_fn": "predict_proba"},
        },
    }
    (folder / "settings.json").write_text(json.dumps(server))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return folder


def _under_load(url: str, body: bytes, sizes: Sizes) -> Turn:
    load(url, body, _MOST, _WARM_S)
    return {clients: load(url, body, clients, sizes.seconds) for clients in _CLIENTS}


def _section(contest: Contest[Turn], waited: Waited) -> Section:
    ours = contest.turns[OURS]
    ordered = sorted(contest.turns, key=lambda n: _speed(contest.turns[n], _MOST).median)
    rows = [
        [str(clients), *_cells(name, contest.turns[name], ours, clients)]
        for clients in _CLIENTS
        for name in reversed(ordered)
    ]
    tables = [
        Table(
            ["clients", "server", "Modelyard/it", "answers/s", "p50 ms", "p99 ms"],
            rows,
            contest.note(),
        ),
        _waited_table(waited),
    ]
    bars = [(name, _speed(contest.turns[name], _MOST).median) for name in reversed(ordered)]
    chart = Chart(f"Answers over HTTP to {_MOST} clients, more is better", "answers/s", bars)
    text = _TEXT.format(generator=generator())
    return Section("Over HTTP", text, tables, [*_goals(contest), *_waited_goals(waited)], [chart])


def _cells(name: str, turns: Sequence[Turn], ours: Sequence[Turn], clients: int) -> list[str]:
    times = ratio(_speed(ours, clients), _speed(turns, clients))
    return [
        name,
        "1" if name == OURS else f"{times.show(2)} x",
        _speed(turns, clients).show(),
        Spread.of(turn[clients].p50_ms for turn in turns).show(1),
        _p99(turns, clients).show(1),
    ]


def _waited_table(waited: Waited) -> Table:
    columns = ["clients that wait", "Redis connections", "/healthz p50 ms", "p99 ms", "all told"]
    row = [
        f"{waited.clients:,}",
        str(waited.connections),
        f"{waited.p50_ms:.1f}",
        f"{waited.p99_ms:.1f}",
        f"{waited.told_ms:,.0f} ms",
    ]
    return Table(columns, [row], _TEXT_OF_WAITS)


def _goals(contest: Contest[Turn]) -> list[Goal]:
    """As many answers as each of the others, at a lower p99, with the most clients."""
    ours = contest.turns[OURS]
    goals = []
    for name in contest.turns.keys() - {OURS}:
        turns = contest.turns[name]
        times = ratio(_speed(ours, _MOST), _speed(turns, _MOST)).median
        own, other = _p99(ours, _MOST).median, _p99(turns, _MOST).median
        goals.append(
            Goal(
                f"{_MOST} clients against {name}",
                "as many answers, lower p99",
                f"{times:.2f} x, p99 {own:.0f} to {other:.0f} ms",
                times >= 1 and own < other,
            )
        )
    return sorted(goals, key=lambda goal: goal.what)


def _waited_goals(waited: Waited) -> list[Goal]:
    return [
        Goal(
            f"/healthz while {waited.clients:,} clients wait",
            f"under {_HEALTHZ_MS} ms",
            f"p99 {waited.p99_ms:.1f} ms",
            waited.p99_ms < _HEALTHZ_MS,
        ),
        Goal(
            f"Redis connections for {waited.clients:,} waiting clients",
            f"at most {_HANDFUL}",
            str(waited.connections),
            waited.connections <= _HANDFUL,
        ),
    ]


def _speed(turns: Sequence[Turn], clients: int) -> Spread:
    return Spread.of(turn[clients].answers_s for turn in turns)


def _p99(turns: Sequence[Turn], clients: int) -> Spread:
    return Spread.of(turn[clients].p99_ms for turn in turns)
