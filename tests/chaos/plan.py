"""The plan of a run: a seed chooses the faults, their order and the pauses between them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

#: Number of each fault among 100 that are drawn; each is a method of `faults.Faults`.
WEIGHTS = {
    "kill_worker": 30,
    "kill_pool_and_workers": 6,
    "kill_pool": 4,
    "terminate_worker": 6,
    "freeze_worker": 6,
    "freeze_pool": 3,
    "kill_redis": 5,
    "stop_redis": 3,
    "reset_connections": 6,
    "lose_replies": 8,
    "lose_requests": 4,
    "silence_replies": 5,
    "go_half_open": 4,
    "slow_down": 4,
    "flip_route": 6,
}


#: Faults that keep jobs of any dead process from being taken up again.
DISTURBING = frozenset(
    {
        "freeze_pool",
        "kill_redis",
        "stop_redis",
        "reset_connections",
        "lose_replies",
        "lose_requests",
        "silence_replies",
        "go_half_open",
        "slow_down",
    }
)


@dataclass(frozen=True, slots=True)
class Plan:
    """One round.

    Attributes:
        seed: Chooses everything that is left to chance here.
        jobs: Jobs that are submitted.
        seconds: How long their submission takes at least; faults are spread over it.
        pools: Pools, each with `workers` workers.
        workers: Workers of a pool.
        kills: Workers that are killed from outside.
        strikes: Kills at named points, by the processes themselves.
        faults: Other faults: each of `WEIGHTS` once, then drawn by its weight.
        lease_s: The setting.
        appendfsync: Redis' own.
        hostile: Part of all pushes that are rubbish.
        repeats: Part of the jobs whose id is pushed again.
        cancels: Part of the jobs that are canceled.
    """

    seed: int
    jobs: int = 20_000
    seconds: float = 240.0
    pools: int = 2
    workers: int = 2
    kills: int = 50
    strikes: int = 50
    faults: int = 40
    lease_s: float = 3.0
    appendfsync: str = "always"
    hostile: float = 0.01
    repeats: float = 0.02
    cancels: float = 0.02
    random: random.Random = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "random", random.Random(self.seed))

    def sequence(self) -> list[str]:
        """The faults in their order: first deaths alone, to measure recovery by, then all kinds."""
        others = [name for name in WEIGHTS if name != "kill_worker"]
        chosen = others[: self.faults]
        left = max(0, self.faults - len(chosen))
        chosen += self.random.choices(others, [WEIGHTS[name] for name in others], k=left)
        early = self.kills // 2
        calm = ["kill_worker"] * early + [name for name in chosen if name not in DISTURBING]
        rest = ["kill_worker"] * (self.kills - early)
        rest += [name for name in chosen if name in DISTURBING]
        self.random.shuffle(calm)
        self.random.shuffle(rest)
        return calm + rest
