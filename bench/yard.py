"""The ground of every benchmark: a Redis of its own, a store, and processes that end with it.

A measurement of draining goes like this for all systems: the worker starts and answers one job, so
that it has loaded the model; it is frozen (SIGSTOP); jobs are queued; it is thawed, and that moment
is the start. So nobody's start-up, and nobody's submission, is in the figure.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from redis import Redis
from redis.exceptions import RedisError

from modelyard.up.redis_server import RESULT_NODE_BYTES, find_server
from producer.client import Client
from yard.broker import connections
from yard.contract import keys
from yard.contract.values import ModelRef
from yard.platform import pdeathsig
from yard.platform.environment import child_environment
from yard.settings import Settings

#: The row that every job of every benchmark asks about, and what the model must say of it.
ROW = [5.1, 3.5, 1.4, 0.2]
CLASS = "setosa"

#: One core a worker is one core: libraries for arrays start no threads in anybody's process.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

#: Peers get a database of their own, which is emptied when they have had their turn.
PEERS_DB = 1


class Process:
    """A command that runs, with all that it starts, in a process group of its own."""

    def __init__(self, argv: Sequence[str], log: Path, environ: Mapping[str, str]) -> None:
        self.log = log
        with log.open("ab") as output:
            # Children of the command are not tied; a SIGTERM lets it end them.
            self._popen = subprocess.Popen(
                pdeathsig.command(list(argv), signal.SIGTERM),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environ),
                process_group=0,
            )
        self.pid = self._popen.pid

    def freeze(self) -> None:
        """Stop the whole group where it is."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> float:
        """Let it go on; the moment, in seconds since the epoch."""
        moment = time.time()
        os.killpg(self.pid, signal.SIGCONT)
        return moment

    def cpu_s(self) -> float:
        """Processor time of the command itself up to now, in seconds, without what it started."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def check(self) -> None:
        """Nothing, while it runs.

        Raises:
            RuntimeError: It has ended; the message is the end of its log.
        """
        if self._popen.poll() is not None:
            said = self.log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"ended with status {self._popen.returncode}:\n{said}")

    def stop(self, patience_s: float = 10.0) -> None:
        """Ask it to end, then end what is left of the group."""
        self._popen.terminate()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGCONT)  # a frozen process heeds no SIGTERM
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(patience_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()


@dataclass(frozen=True, slots=True)
class Yard:
    """A running Redis without persistence, with the example models published.

    Attributes:
        folder: Holds everything, and goes with it.
        url: The Redis.
        settings: With that Redis and a store in the folder.
        redis: A connection to it.
        client: Submits and waits.
    """

    folder: Path
    url: str
    settings: Settings
    redis: Redis
    client: Client

    @property
    def peers_url(self) -> str:
        """The database of the peers."""
        return self.url.removesuffix("/0") + f"/{PEERS_DB}"

    def artefact(self, ref: ModelRef) -> Path:
        """The file of a published estimator, which others load with joblib."""
        return self.settings.store_path / ref.model / ref.version / "model.joblib"

    def environ(self, **more: object) -> dict[str, str]:
        """The environment of a command of ours; ``more`` are settings that differ."""
        settings = Settings.load({}, **(self.settings.model_dump(exclude_none=True) | more))
        return child_environment(settings.environ()) | _ONE_THREAD

    @contextmanager
    def running(
        self, argv: Sequence[str], environ: Mapping[str, str] | None = None
    ) -> Iterator[Process]:
        """The process, ended when the block ends."""
        process = Process(argv, self.log(), environ or self.environ())
        try:
            yield process
        finally:
            process.stop()

    def log(self) -> Path:
        """A new file for what a process says."""
        path = self.folder / f"{len(list(self.folder.glob('*.log')))}.log"
        path.touch()
        return path

    def clear(self) -> None:
        """Delete jobs, results and queues, and what peers have left; the catalogue stays."""
        for pattern in ("rq:*", f"{keys.PREFIXES['bell']}*"):
            found = list(self.redis.scan_iter(pattern, count=5_000))
            for start in range(0, len(found), 5_000):
                self.redis.unlink(*found[start : start + 5_000])
        with Redis.from_url(self.peers_url) as peers:
            peers.flushdb()


@contextmanager
def open_yard(*, has_examples: bool = True, **settings: object) -> Iterator[Yard]:
    """A yard in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-") as name:
        folder = Path(name)
        port = free_port()
        argv = [str(find_server().path), "--port", str(port), "--bind", "127.0.0.1"]
        argv += ["--save", "", "--dir", name, "--logfile", str(folder / "redis.log")]
        argv += ["--stream-node-max-bytes", str(RESULT_NODE_BYTES)]  # RQ's results are streams, too
        server = subprocess.Popen(pdeathsig.command(argv, signal.SIGKILL))
        url = f"redis://127.0.0.1:{port}/0"
        own = {"redis_url": url, "store": str(folder / "store"), "log_level": "warning"}
        try:
            loaded = Settings.load({}, **(own | settings))
            redis = connections.steady(url)
            wait_until(lambda: answers(redis), 10)
            if has_examples:
                publish_examples(loaded, redis)
            client = Client(url, settings=loaded)
            yield Yard(folder, url, loaded, redis, client)
            client.close()
            redis.close()
        finally:
            server.kill()
            server.wait()


def worker(python: Path | str = sys.executable) -> list[str]:
    """The command of one worker of ours."""
    return [str(python), "-P", "-m", "worker.process.worker", "", "", "*"]


def stock_worker(url: str, queue: str) -> list[str]:
    """The command of RQ's own SimpleWorker on the same jobs."""
    rq = [sys.executable, "-P", "-m", "rq.cli", "worker", "--quiet", "--url", url]
    return [*rq, "--worker-class", "rq.worker.SimpleWorker", "--serializer", "json", queue]


def publish_examples(settings: Settings, redis: Redis) -> None:
    """Put the example models into the store and the catalogue."""
    from models.examples.examples import publish_examples as publish
    from models.store.repository import Repository

    publish(Repository(settings.store_path), redis)


def free_port() -> int:
    """A loopback port that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(redis: Redis) -> bool:
    """True if the server is up."""
    try:
        return bool(redis.ping())
    except RedisError:
        return False


def wait_until(condition: Callable[[], object], timeout_s: float, look_s: float = 0.02) -> None:
    """Return when ``condition`` is true.

    Raises:
        TimeoutError: It is not, in time.
    """
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"not within {timeout_s:g} s")
        time.sleep(look_s)
