"""What every benchmark stands on: a Redis of its own, a store, and processes that go with it."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from producer import children, connect, keys, tether
from producer.embedded import find_server
from producer.settings import Settings


@dataclass(frozen=True, slots=True)
class Yard:
    """A running Redis without persistence, with the example models published.

    Attributes:
        folder: Holds everything, and goes with it.
        url: The Redis.
        settings: With that Redis and a store in the folder.
        redis: A connection to it.
    """

    folder: Path
    url: str
    settings: Settings
    redis: Redis

    def spawn(self, argv: Sequence[str], name: str) -> subprocess.Popen[bytes]:
        """Start a process that ends with this one; its output goes to a file named after it."""
        log = (self.folder / f"{name}.log").open("ab")
        return subprocess.Popen(
            tether.command(list(argv), signal.SIGKILL),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=children.environ(self.settings.environ()),
        )

    @contextmanager
    def running(self, argv: Sequence[str], name: str) -> Iterator[subprocess.Popen[bytes]]:
        """The process, ended when the block ends."""
        process = self.spawn(argv, name)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def worker(self, name: str = "bench") -> list[str]:
        """The command of one worker of ours."""
        return [sys.executable, "-P", "-m", "worker.process", name, "", "*"]

    def stock_worker(self, queue: str) -> list[str]:
        """The command of RQ's own SimpleWorker on the same jobs."""
        rq = [sys.executable, "-P", "-m", "rq.cli", "worker", "--url", self.url]
        return [*rq, "--worker-class", "rq.worker.SimpleWorker", "--serializer", "json", queue]


@contextmanager
def open_yard(**settings: object) -> Iterator[Yard]:
    """A yard in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-") as name:
        folder = Path(name)
        port = free_port()
        argv = [str(find_server().path), "--port", str(port), "--bind", "127.0.0.1"]
        argv += ["--save", "", "--dir", name, "--logfile", str(folder / "redis.log")]
        server = subprocess.Popen(tether.command(argv, signal.SIGKILL))
        url = f"redis://127.0.0.1:{port}/0"
        try:
            loaded = Settings.load(
                {}, redis_url=url, store=str(folder / "store"), log_format="text", **settings
            )
            redis = connect.steady(url)
            wait_until(lambda: answers(redis), 10)
            yield Yard(folder, url, loaded, redis)
            redis.close()
        finally:
            server.kill()
            server.wait()


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(redis: Redis) -> bool:
    """Whether the server is up."""
    try:
        return bool(redis.ping())
    except RedisError:
        return False


def publish_examples(yard: Yard) -> None:
    """Put the example models into the yard's store and catalogue."""
    from models.examples import publish_examples as publish
    from models.repository import Repository

    publish(Repository(yard.settings.store_path), yard.redis, lambda _message: None)


def wait_until(condition: Callable[[], object], timeout_s: float) -> None:
    """Return when ``condition`` is true.

    Raises:
        TimeoutError: It is not, in time.
    """
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"not within {timeout_s:g} s")
        time.sleep(0.005)


def ended(redis: Redis, queue: str) -> int:
    """How many jobs of a queue have ended."""
    return int(redis.zcard(keys.key("finished", queue)) + redis.zcard(keys.key("failed", queue)))


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def show(self, digits: int = 0) -> str:
        """Median and, in brackets, the least and the most."""
        low, high = min(self.values), max(self.values)
        return f"{self.median:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a ``share`` of all lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def machine() -> str:
    """One line that says where this ran."""
    return f"{os.cpu_count()} CPUs, Python {sys.version.split()[0]}, {sys.platform}"
