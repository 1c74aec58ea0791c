"""The yard of a run: a Redis, the proxies in front of it, pools, and their folders."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis

from models.publish.publisher import publish
from models.store.repository import Repository
from tests.chaos.plan import Plan
from tests.chaos.points import Strikes
from tests.chaos.proxy import FaultProxy
from tests.helpers.estimators import Echo
from tests.helpers.pools import RunningPool
from tests.helpers.redis_server import RedisServer
from tests.helpers.waiting import wait_until
from yard.broker import connections
from yard.contract import keys

MODEL = "chaos"
VERSIONS = ("v1", "v2")
QUEUES = tuple(f"{MODEL}@{version}" for version in VERSIONS)

#: Seconds that each predict takes: long enough for a worker to be hit in one.
PACE_S = 0.02

#: Crashes after which a job fails: none must, however unlucky it is.
ATTEMPTS = 30

#: Where a process may kill itself, and how likely it is each time.
POINTS = {
    "claim:before": ("KILL", 0.001),
    "claim:sent": ("KILL", 0.002),
    "claim:after": ("KILL", 0.002),
    "load:before": ("KILL", 0.05),
    "predict:before": ("KILL", 0.004),
    "predict:after": ("KILL", 0.004),
    "finish:sent": ("KILL", 0.004),
    "finish:after": ("KILL", 0.004),
    "renew:sent": ("KILL", 0.002),
    "reap:before": ("KILL", 0.02),
    "reap:sent": ("KILL", 0.02),
    "sweep:sent": ("KILL", 0.004),
    "leave:before": ("KILL", 0.05),
}


@dataclass(slots=True)
class Place:
    """One pool's place: whichever process runs it at present.

    Attributes:
        log: Where all of its processes log.
        pool: The present one.
        is_dying: It is about to be killed, or is to be started again by the fault that killed it.
    """

    log: Path
    pool: RunningPool
    is_dying: bool = False


class ChaosYard:
    """All processes of a run.

    Args:
        plan: The run.
        folder: An empty folder.
        server: The Redis, running.
        to_pools: The proxy of the pools.
        to_clients: The proxy of the clients.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        server: RedisServer,
        to_pools: FaultProxy,
        to_clients: FaultProxy,
    ) -> None:
        self.plan = plan
        self.folder = folder
        self.server = server
        self.to_pools = to_pools
        self.to_clients = to_clients
        self.redis: Redis = connections.steady(server.url, "chaos")
        self.strikes = Strikes(folder / "tokens", POINTS, plan.strikes, str(plan.seed))
        self._publish()
        self.places = [Place(log, self._pool(log)) for log in map(self._log_of, range(plan.pools))]

    def journal(self, version: str) -> Path:
        """Where a version writes down what it predicts."""
        return self.folder / f"journal-{version}"

    def workers(self, place: Place) -> dict[str, int]:
        """A pool's workers that have reported and live: name to process id."""
        known = place.pool.workers(self.redis)
        return {name: pid for name, pid in known.items() if _is_child(pid, place.pool.process.pid)}

    def restart(self, place: Place) -> None:
        """Start a pool whose process has ended."""
        place.pool = self._pool(place.log)
        place.is_dying = False

    def tend(self) -> None:
        """Start pools again that have killed themselves."""
        for place in self.places:
            if not place.is_dying and place.pool.process.poll() is not None:
                self.restart(place)

    def is_complete(self) -> bool:
        """True if all workers are there; a pool may kill itself while it starts, too."""
        self.tend()
        count = self.plan.pools * self.plan.workers
        return sum(len(self.workers(place)) for place in self.places) >= count

    def heal(self) -> None:
        """Everything runs again, and nothing is broken any more."""
        self.server.start()
        self.to_pools.heal()
        self.to_clients.heal()
        for token in self.strikes.folder.iterdir():
            token.unlink(missing_ok=True)
        self.tend()

    def stop(self) -> list[int]:
        """Drain the pools: their exit statuses."""
        return [place.pool.stop(40) for place in self.places]

    def kill(self) -> None:
        """Leave nothing behind, however the run ended."""
        for place in self.places:
            place.pool.kill()
        self.redis.close()

    def _log_of(self, number: int) -> Path:
        return self.folder / f"pool-{number}.log"

    def _pool(self, log: Path) -> RunningPool:
        return RunningPool(
            self.to_pools.url,
            self.folder / "store",
            log,
            environ=self.strikes.environ,
            pool_min=self.plan.workers,
            pool_max=self.plan.workers,
            lease_s=self.plan.lease_s,
            drain_s=10.0,
            batch_jobs=8,
            attempts=ATTEMPTS,
        )

    def _publish(self) -> None:
        repository = Repository(self.folder / "store")
        for version in VERSIONS:
            echo = Echo(str(self.journal(version)), PACE_S).fit([[1.0]])
            is_first = version == VERSIONS[0]
            publish(repository, self.redis, echo, MODEL, version, [[1.0], [2.0]], activate=is_first)
            self.journal(version).write_text("")


@contextmanager
def open_yard(plan: Plan, folder: Path) -> Iterator[ChaosYard]:
    """A yard whose workers are there."""
    place = folder / "redis"
    place.mkdir()
    server = RedisServer(place, plan.appendfsync)
    server.start()
    with ExitStack() as stack:
        stack.callback(server.kill)
        proxies = [stack.enter_context(FaultProxy(server.port)) for _ in range(2)]
        yard = ChaosYard(plan, folder, server, *proxies)
        stack.callback(yard.kill)
        wait_until(yard.is_complete, 60, "the workers report")
        yield yard


def signal_quietly(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process, which may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _is_child(pid: int, parent: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return int(stat.rpartition(")")[2].split()[1]) == parent


def batch_of(redis: Redis, worker: str) -> list[str]:
    """The ids in a worker's batch."""
    ids: Any = redis.hget(keys.key("batch", worker), "ids")
    return ids.decode().split() if ids else []
