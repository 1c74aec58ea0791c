"""The peers that queue jobs, and how they are driven: their own worker, their own client."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bench.environments import environ, python_of
from bench.yard import Process, Yard, stock_worker
from modelyard.up.log_tail import last_line
from yard.contract.values import ModelRef
from yard.platform import pdeathsig

_MODEL = ModelRef("iris", "v1")


@dataclass(frozen=True, slots=True)
class Peer:
    """A queue of tasks, in one way to run its worker.

    Attributes:
        name: As the tables call it.
        home: Its environment, pinned in ``bench/peers/{home}.txt``; empty for ours.
        command: What starts its worker, behind ``python -m``.
        queue: The key of the list or sorted set that its jobs wait in.
    """

    name: str
    home: str
    command: tuple[str, ...] = ()
    queue: str = ""

    @property
    def python(self) -> Path:
        """The interpreter of its environment, which is made if need be.

        Raises:
            NotInstalled: It cannot be made.
        """
        return python_of(self.home) if self.home else Path(sys.executable)

    @contextmanager
    def worker(self, yard: Yard) -> Iterator[Process]:
        """One worker of it, not yet warm."""
        argv = [str(self.python), "-P", "-m", *self.command]
        if not self.home:
            argv = stock_worker(yard.url, str(_MODEL))
        with yard.running(argv, self._environ(yard)) as process:
            yield process

    @contextmanager
    def driver(self, yard: Yard) -> Iterator[Driver]:
        """A client of it, in a process of its own."""
        app = f"bench.peers.{self.home or 'rq'}_app"
        argv = [str(self.python), "-P", "-m", "bench.peers.driver", app]
        said = yard.log()
        with (
            said.open("wb") as errors,
            subprocess.Popen(
                pdeathsig.command(argv, signal.SIGKILL),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self._environ(yard),
            ) as process,
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                yield Driver(process.stdin, process.stdout, said)
            finally:
                process.kill()

    def _environ(self, yard: Yard) -> dict[str, str]:
        artefact = str(yard.artefact(_MODEL))
        url = yard.peers_url if self.home else yard.url
        return environ(yard.environ()) | {"BENCH_ARTEFACT": artefact, "BENCH_REDIS": url}


class Driver:
    """Passes orders on to `bench.peers.driver`."""

    def __init__(self, orders: IO[bytes], answers: IO[bytes], said: Path) -> None:
        self._orders = orders
        self._answers = answers
        self._said = said

    def submit(self, count: int) -> float:
        """Seconds that so many submissions took, one by one."""
        return float(self._order("submit", count))

    def collect(self) -> float:
        """When the last of what was submitted was ready, in seconds since the epoch."""
        return float(self._order("collect"))

    def round_trips(self, count: int) -> list[float]:
        """Milliseconds from submission to result, one job after the other."""
        return list(self._order("round_trips", count))

    def _order(self, *words: Any) -> Any:
        self._orders.write(json.dumps(words).encode() + b"\n")
        self._orders.flush()
        answer = self._answers.readline()
        if not answer:
            raise RuntimeError(f"its client ended at {words[0]}: {last_line(self._said)}")
        return json.loads(answer)


_QUIET = ("--loglevel", "ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat")
_TASKIQ = ("bench.peers.taskiq_app:broker", "--workers", "1", "--log-level", "ERROR")


def _celery(pool: str, threads: int = 1, app: str = "celery") -> tuple[str, ...]:
    where = ("celery", "--app", f"bench.peers.{app}_app", "worker", *_QUIET)
    return (*where, "--pool", pool, "--concurrency", str(threads))


def _dramatiq(threads: int) -> tuple[str, ...]:
    return ("dramatiq", "bench.peers.dramatiq_app", "--processes", "1", "--threads", str(threads))


def _huey(threads: int) -> tuple[str, ...]:
    where = "bench.peers.huey_app.huey"
    return ("huey.bin.huey_consumer", where, "--quiet", "--workers", str(threads))


RQ = Peer("RQ SimpleWorker", "")

#: Each with one process that predicts.
PEERS = (
    Peer("Celery, prefork", "celery", _celery("prefork"), "celery"),
    Peer("Celery, solo", "celery", _celery("solo"), "celery"),
    Peer("Celery, 8 threads", "celery", _celery("threads", 8), "celery"),
    Peer("Dramatiq, 8 threads", "dramatiq", _dramatiq(8), "dramatiq:default"),
    Peer("huey, 1 thread", "huey", _huey(1), "huey.redis.bench"),
    Peer("huey, 8 threads", "huey", _huey(8), "huey.redis.bench"),
    Peer("taskiq", "taskiq", ("taskiq", "worker", *_TASKIQ), "taskiq"),
    Peer("saq", "saq", ("saq", "bench.peers.saq_app.settings", "--quiet"), "saq:bench:queued"),
    Peer("arq", "arq", ("arq", "bench.peers.arq_app.Worker"), "arq:queue"),
)

#: It batches as ours does, which the others do not.
BATCHES = Peer(
    "Celery, celery-batches of 64",
    "celery_batches",
    _celery("solo", app="celery_batches"),
    "celery",
)
