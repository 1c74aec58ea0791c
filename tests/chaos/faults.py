"""The faults of a run: each method breaks one thing, and mends what does not mend itself."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from dataclasses import dataclass, field

from redis import Redis
from redis.exceptions import RedisError

from tests.chaos.history import History
from tests.chaos.plan import DISTURBING
from tests.chaos.proxy import Loss
from tests.chaos.yard import MODEL, VERSIONS, ChaosYard, Place, batch_of, signal_quietly
from tests.helpers.waiting import wait_until
from yard.contract import keys


@dataclass(slots=True)
class Hit:
    """Jobs whose worker was killed while it had them.

    Attributes:
        at_s: When, by Redis' clock.
        ids: The jobs.
        is_seen: Whether the worker's pool lived on, and saw it.
    """

    at_s: float
    ids: list[str]
    is_seen: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """A fault, and from when to when things were broken by it (seconds since the epoch)."""

    name: str
    begun_s: float
    ended_s: float


#: In which time the jobs of a dead worker are to be taken up again, in seconds.
_RECOVERY_S = 5.0


@dataclass(slots=True)
class Faults:
    """Breaks a yard.

    Attributes:
        hits: The kills, to measure recovery by.
        done: All faults.
    """

    yard: ChaosYard
    history: History
    hits: list[Hit] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)

    def do(self, name: str) -> None:
        """Break one thing, if there is one to be broken and Redis can be asked for it."""
        self.history.add("fault", [{"name": name}])
        begun_s = time.time()
        with contextlib.suppress(RedisError):
            getattr(self, name)()
        self.done.append(Done(name, begun_s, time.time()))

    def is_disturbed(self, hit: Hit) -> bool:
        """True if Redis or the network broke, too, before the jobs could be taken up again."""
        since, until = hit.at_s - self.yard.plan.lease_s, hit.at_s + _RECOVERY_S
        return any(
            one.name in DISTURBING and one.begun_s < until and one.ended_s > since
            for one in self.done
        )

    def kill_worker(self) -> None:
        """SIGKILL; a busy one, if there is one."""
        victim = self._busy_worker()
        if victim is not None:
            place, name, pid = victim
            pool = place.pool.process
            hit = self._kill({name: pid})
            self.wait(0.5)
            hit.is_seen = pool.poll() is None

    def kill_pool_and_workers(self) -> None:
        """Kill a pool and its workers: other pools find that the leases have run out."""
        victim = self._busy_worker()
        place = victim[0] if victim is not None else self._place()
        workers = self.yard.workers(place)
        place.is_dying = True
        signal_quietly(place.pool.process.pid, signal.SIGSTOP)  # it must not see them die
        self._kill(workers)
        place.pool.kill()
        self.wait(self.yard.plan.lease_s + 1.5)
        self.yard.restart(place)

    def kill_pool(self) -> None:
        """Kill a pool alone: the kernel sends its workers a SIGTERM."""
        place = self._place()
        place.is_dying = True
        place.pool.kill()
        self.yard.restart(place)

    def terminate_worker(self) -> None:
        """SIGTERM: it drains."""
        victim = self._busy_worker()
        if victim is not None:
            signal_quietly(victim[2], signal.SIGTERM)

    def freeze_worker(self) -> None:
        """SIGSTOP until its lease has run out; then it wakes up and writes."""
        victim = self._busy_worker()
        if victim is not None:
            self._freeze(victim[2], self.yard.plan.lease_s + 1.0)

    def freeze_pool(self) -> None:
        """SIGSTOP: its workers go on without it."""
        self._freeze(self._place().pool.process.pid, 2.0)

    def kill_redis(self) -> None:
        """SIGKILL and a restart."""
        self.yard.server.kill()
        self.wait(0.5)
        self.yard.server.start()

    def stop_redis(self) -> None:
        """SIGSTOP for longer than a lease."""
        self.yard.server.pause()
        self.wait(self.yard.plan.lease_s + 1.0)
        self.yard.server.resume()

    def reset_connections(self) -> None:
        """All at once, pools' and clients'."""
        self.yard.to_pools.reset_all()
        self.yard.to_clients.reset_all()

    def lose_replies(self) -> None:
        """Each so many replies are replaced by a reset, after Redis has done what was asked."""
        self._lose(Loss(_is_script, "reset", every=20), 2.0)

    def lose_requests(self) -> None:
        """Each so many requests are lost with their connection."""
        self._lose(Loss(_is_script, "reset", every=20, is_early=True), 2.0)

    def silence_replies(self) -> None:
        """Some replies never come, and their connections say no more."""
        self._lose(Loss(_is_script, "silence", every=10, left=3), 2.0)

    def go_half_open(self) -> None:
        """Lose the open connections, and new ones for a while."""
        self.yard.to_pools.swallow(0.5)
        self.wait(1.0)

    def slow_down(self) -> None:
        """Latency, and replies byte by byte."""
        for proxy in (self.yard.to_pools, self.yard.to_clients):
            proxy.latency_s, proxy.chunk_bytes = 0.02, 1
        self.wait(2.0)
        for proxy in (self.yard.to_pools, self.yard.to_clients):
            proxy.latency_s, proxy.chunk_bytes = 0.0, 0

    def flip_route(self) -> None:
        """Another version gets the jobs that name none."""
        version = self.yard.plan.random.choice(VERSIONS)
        self.yard.redis.set(keys.key("active", MODEL), version)

    def wait(self, for_s: float) -> None:
        """Pass time while the others go on."""
        threading.Event().wait(for_s)

    def _place(self) -> Place:
        return self.yard.plan.random.choice(self.yard.places)

    def _busy_worker(self) -> tuple[Place, str, int] | None:
        """A worker with a batch, if there is one within a second."""
        yard = self.yard

        def find() -> list[tuple[Place, str, int]]:
            found = [
                (place, name, pid)
                for place in yard.places
                for name, pid in yard.workers(place).items()
            ]
            busy = [one for one in found if batch_of(yard.redis, one[1])]
            return busy

        with contextlib.suppress(AssertionError):
            return yard.plan.random.choice(wait_until(find, 1.0))
        return None

    def _kill(self, workers: dict[str, int]) -> Hit:
        """Kill workers, and note what they held: stopped first, so that it is known exactly."""
        redis = self.yard.redis
        ids = self._stop_in_a_batch(workers)
        at_s = _now_s(redis)
        for pid in workers.values():
            signal_quietly(pid, signal.SIGKILL)
        hit = Hit(at_s, ids)
        self.hits.append(hit)
        self.history.add("fault", [{"name": "killed", "workers": list(workers), "ids": ids}])
        return hit

    def _stop_in_a_batch(self, workers: dict[str, int]) -> list[str]:
        """Stop them, at a moment when one has a batch if there is one soon: the jobs' ids."""
        ids: list[str] = []
        for _ in range(40):
            for pid in workers.values():
                signal_quietly(pid, signal.SIGSTOP)
            ids = [i for name in workers for i in batch_of(self.yard.redis, name)]
            if ids:
                break
            for pid in workers.values():
                signal_quietly(pid, signal.SIGCONT)
            self.wait(0.01)
        return ids

    def _freeze(self, pid: int, for_s: float) -> None:
        signal_quietly(pid, signal.SIGSTOP)
        try:
            self.wait(for_s)
        finally:
            signal_quietly(pid, signal.SIGCONT)

    def _lose(self, loss: Loss, for_s: float) -> None:
        for proxy in (self.yard.to_pools, self.yard.to_clients):
            proxy.lose(loss)
        self.wait(for_s)
        for proxy in (self.yard.to_pools, self.yard.to_clients):
            proxy.heal()


def _is_script(words: list[bytes]) -> bool:
    return words[0] in (b"EVALSHA", b"EVAL")


def _now_s(redis: Redis) -> float:
    seconds, micros = redis.time()
    return float(seconds + micros / 1e6)
