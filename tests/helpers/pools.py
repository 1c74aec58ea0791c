"""A `modelyard pool` of a test's own, as real processes on a real Redis."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from tests.helpers import ROOT
from tests.helpers.waiting import wait_until
from tests.helpers.yards import clean_environ
from yard.contract import keys
from yard.platform import pdeathsig, signals
from yard.settings import Settings


class RunningPool:
    """One pool process and its workers.

    Args:
        url: The Redis.
        store: Folder or URL of the artefacts.
        log: The file that all of them log to.
        environ: More variables, such as those of `tests.chaos.hooks`.
        settings: Other settings, by name.
    """

    def __init__(
        self,
        url: str,
        store: Path,
        log: Path,
        environ: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        fast = {"lease_s": 1.0, "drain_s": 5.0, "pool_min": 1, "pool_max": 1, "log_format": "text"}
        self.settings = Settings.load({}, redis_url=url, store=str(store), **fast | settings)
        self.log = log
        known = clean_environ() | self.settings.environ() | dict(environ or {})
        here = str(ROOT)  # models may come from `tests.helpers.estimators`
        known["PYTHONPATH"] = os.pathsep.join([here, known.get("PYTHONPATH", "")])
        with log.open("ab") as output, signals.held():
            self.process = subprocess.Popen(
                pdeathsig.command([sys.executable, "-m", "modelyard.cli", "pool"], signal.SIGKILL),
                env=known,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
            )

    def workers(self, redis: Redis) -> dict[str, int]:
        """The workers that have reported to Redis: name to process id."""
        found: Any = redis.smembers(keys.WORKERS)
        names = [raw.decode().removeprefix(keys.PREFIXES["worker"]) for raw in found]
        pids: Any = [redis.hget(keys.key("worker", name), "pid") for name in names]
        return {name: int(pid) for name, pid in zip(names, pids, strict=True) if pid}

    def wait_for_workers(self, redis: Redis, count: int = 1) -> dict[str, int]:
        """Wait until ``count`` workers have reported; their process ids by name."""
        wait_until(
            lambda: len(self.workers(redis)) >= count or self.process.poll() is not None,
            60,
            f"{count} workers report",
        )
        assert self.process.poll() is None, self.log.read_text()
        return self.workers(redis)

    def stop(self, timeout_s: float = 60.0) -> int:
        """Drain it and return the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """Kill it without warning; its workers get a SIGTERM by that."""
        self.process.kill()
        self.process.wait()


@contextmanager
def running_pool(url: str, store: Path, folder: Path, **settings: Any) -> Iterator[RunningPool]:
    """A pool that is gone when the context ends."""
    pool = RunningPool(url, store, folder / "pool.log", **settings)
    try:
        yield pool
    finally:
        try:
            pool.stop()
        except subprocess.TimeoutExpired:
            pool.kill()
