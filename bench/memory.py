"""Memory: what a worker takes above its model, whether it grows, and what a job takes in Redis."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from bench.cold import workers_of
from bench.environments import environ, own_python
from bench.jobs import one_row, submitted
from bench.measure import Spread
from bench.progress import say
from bench.report import Goal, Section, Table
from bench.yard import Process, Yard, open_yard, wait_until, worker
from yard.contract import keys
from yard.contract.values import ModelRef
from yard.platform import pdeathsig

_MODEL = ModelRef("iris", "v1")
_MB = 2**20
_OVERHEAD_MB, _GROWTH_MB, _JOB_BYTES, _LEFT = 15, 1, 2048, 0.05
_TTL_S = 2
_SERVED = 5_000
_CHUNK = 25_000
_KINDS = ("uss", "rss")

#: An interpreter with the model: what a worker needs at the very least.
_BARE = """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options)
session.run(None, {session.get_inputs()[0].name: numpy.array([[5.1, 3.5, 1.4, 0.2]])})
print(flush=True)
sys.stdin.read()
"""

_TEXT = f"""\
The bare interpreter has imported numpy and onnxruntime, loaded the compiled `{_MODEL}` and
predicted once. A worker has served {_SERVED:,} jobs: one that its pool has forked, as they come, or
one that was started alone. USS is memory that is the process' alone, RSS counts shared pages too;
what a forked worker shares with the fork server is there once a pool. All run in an environment of
what Modelyard needs and no more: development tools bring modules that other libraries import when
they find them. Then one worker serves many jobs whose results live for {_TTL_S} s."""

_TEXT_OF_REDIS = """\
Redis' memory, without the buffers of connections, for one-row jobs: waiting, ended with their
results, and when those have expired and one further job has ended. RQ keeps a result in a stream of
its own, for which Redis, as it is set here, sets 512 bytes aside (4 KiB by default)."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Amounts of the measurement."""

    rounds: int
    served: int
    waiting: int


FULL = Sizes(rounds=3, served=500_000, waiting=50_000)
QUICK = Sizes(rounds=1, served=75_000, waiting=10_000)


@dataclass(frozen=True, slots=True)
class Held:
    """Memory of a process, in bytes."""

    uss: int
    rss: int

    @classmethod
    def by(cls, pid: int) -> Held:
        """The memory of the process now."""
        info = psutil.Process(pid).memory_full_info()
        return cls(info.uss, info.rss)


@dataclass(frozen=True, slots=True)
class Stored:
    """Memory of Redis.

    Attributes:
        waiting: Bytes for each waiting job.
        ended: Bytes for each ended job, with its result.
        left: Memory that is left when results have expired, as a part of that of the waiting jobs.
    """

    waiting: float
    ended: float
    left: float


def run(quick: bool) -> Section:
    """Measure and report."""
    sizes = QUICK if quick else FULL
    with open_yard(result_ttl_s=_TTL_S) as yard:
        stored = in_redis(yard, sizes.waiting)
        held = [(bare(yard), forked(yard), serving(yard)) for _ in range(sizes.rounds)]
        say("memory: overhead measured")
        grown = growth(yard, sizes.served)
        say(f"memory: {sizes.served:,} jobs served")
    return _section(held, grown, stored, sizes)


def bare(yard: Yard) -> Held:
    """An interpreter with the model loaded."""
    argv = [
        str(own_python()),
        "-P",
        "-c",
        _BARE,
        str(yard.artefact(_MODEL).with_name("model.onnx")),
    ]
    with subprocess.Popen(
        pdeathsig.command(argv, signal.SIGKILL),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=yard.environ(),
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        held = Held.by(process.pid)
        process.kill()
    return held


def forked(yard: Yard) -> Held:
    """A worker that a pool has forked and that has served jobs."""
    argv = [str(own_python()), "-P", "-m", "modelyard.cli", "pool"]
    settings = environ(yard.environ(pool_min=1, pool_max=1))
    with yard.running(argv, settings) as pool:
        submitted(yard, [one_row()])[0].wait(60)
        _serve(yard, _SERVED)
        (process,) = workers_of(yard, pool)
        return Held.by(process.pid)


def serving(yard: Yard) -> Held:
    """A worker of ours, started alone, that has served jobs."""
    with _worker(yard) as process:
        _serve(yard, _SERVED)
        return Held.by(process.pid)


def growth(yard: Yard, count: int) -> list[Held]:
    """The memory of a worker after each chunk of jobs."""
    with _worker(yard) as process:
        held = []
        for _ in range(0, count, _CHUNK):
            _serve(yard, _CHUNK)
            held.append(Held.by(process.pid))
    return held


def in_redis(yard: Yard, count: int) -> Stored:
    """The memory that jobs take in Redis in the course of their lives."""
    with _worker(yard) as process:
        _forget(yard)
        base = _used(yard)
        process.freeze()
        submitted(yard, [one_row()] * count)
        waiting = _used(yard) - base
        process.thaw()
        _wait_until_served(yard)
        ended = _used(yard) - base
        _forget(yard)
        left = _used(yard) - base
    return Stored(waiting / count, ended / count, left / waiting)


def _used(yard: Yard) -> int:
    """Bytes that Redis has in use, without the buffers of connections."""
    memory: Any = yard.redis.info("memory")
    return int(memory["used_memory"]) - int(memory["mem_clients_normal"])


def _forget(yard: Yard) -> None:
    """Let all results expire; the end of one more job takes them out of RQ's registry."""
    _wait_until_expired(yard)
    _serve(yard, 1)
    _wait_until_expired(yard)


def _wait_until_expired(yard: Yard) -> None:
    """Until no job and no result is left."""
    prefixes = [keys.PREFIXES["job"], keys.PREFIXES["results"]]

    def is_empty() -> bool:
        found = (next(yard.redis.scan_iter(f"{p}*", count=1_000), None) for p in prefixes)
        return all(key is None for key in found)

    wait_until(is_empty, 120, look_s=0.2)


@contextmanager
def _worker(yard: Yard) -> Iterator[Process]:
    """A worker that has loaded the model."""
    with yard.running(worker(own_python()), environ(yard.environ())) as process:
        submitted(yard, [one_row()])[0].wait(60)
        yield process


def _serve(yard: Yard, count: int) -> None:
    """Submit so many jobs and wait until none is left."""
    submitted(yard, [one_row()] * count)
    _wait_until_served(yard)


def _wait_until_served(yard: Yard) -> None:
    queue = keys.key("queue", str(_MODEL))
    wait_until(lambda: not yard.redis.exists(queue, keys.LEASES), 300)


def _section(
    held: Sequence[tuple[Held, Held, Held]], grown: Sequence[Held], stored: Stored, sizes: Sizes
) -> Section:
    rows = [_row(name, held) for name in _KINDS]
    first, last = grown[1], grown[-1]
    growth_rows = [
        [name.upper(), *(f"{getattr(one, name) / _MB:.1f}" for one in (first, last))]
        for name in _KINDS
    ]
    tables = [
        Table(["MB", "bare interpreter", "forked", "above it", "alone", "above it"], rows),
        Table(["MB", f"after {2 * _CHUNK:,} jobs", f"after {sizes.served:,} jobs"], growth_rows),
        Table(
            ["Redis", "waiting, bytes a job", "ended, bytes a job", "left when expired"],
            [
                [
                    "one-row jobs",
                    f"{stored.waiting:,.0f}",
                    f"{stored.ended:,.0f}",
                    f"{stored.left:.1%}",
                ]
            ],
            _TEXT_OF_REDIS,
        ),
    ]
    return Section("Memory", _TEXT, tables, _goals(held, last.rss - first.rss, stored, sizes))


def _row(name: str, held: Sequence[tuple[Held, Held, Held]]) -> list[str]:
    sizes = [[getattr(one, name) / _MB for one in turn] for turn in held]
    columns = [
        Spread.of(bare for bare, _, _ in sizes),
        Spread.of(forked for _, forked, _ in sizes),
        Spread.of(forked - bare for bare, forked, _ in sizes),
        Spread.of(alone for _, _, alone in sizes),
        Spread.of(alone - bare for bare, _, alone in sizes),
    ]
    return [name.upper(), *(column.show(1) for column in columns)]


def _goals(
    held: Sequence[tuple[Held, Held, Held]], growth_bytes: int, stored: Stored, sizes: Sizes
) -> list[Goal]:
    over = Spread.of((worker.uss - bare.uss) / _MB for bare, worker, _ in held).median
    grown = growth_bytes / _MB
    return [
        Goal(
            "a worker above an interpreter with its model",
            f"under {_OVERHEAD_MB} MB",
            f"{over:.1f} MB (USS)",
            over < _OVERHEAD_MB,
        ),
        Goal(
            f"a worker over {sizes.served:,} jobs", "flat", f"{grown:+.1f} MB", grown <= _GROWTH_MB
        ),
        Goal(
            "Redis for a waiting one-row job",
            f"under {_JOB_BYTES:,} bytes",
            f"{stored.waiting:,.0f} bytes",
            stored.waiting < _JOB_BYTES,
        ),
        Goal(
            "Redis when results have expired",
            "back to its base",
            f"{stored.left:+.1%} of what waiting jobs took",
            stored.left <= _LEFT,
        ),
    ]
