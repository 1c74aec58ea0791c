"""Statistics: spreads of rounds, percentiles, and the counters of Redis."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from yard.broker.lua import Script

#: Calls that the server's log of slow calls holds: more than any round makes.
_LOGGED_CALLS = 200_000


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of ``values``."""
        return cls(tuple(values))

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def show(self, digits: int = 0) -> str:
        """The median and, in brackets, the least and the most."""
        if len(self.values) == 1:
            return f"{self.median:,.{digits}f}"
        low, high = min(self.values), max(self.values)
        return f"{self.median:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def ratio(one: Spread, other: Spread) -> Spread:
    """Round by round, how many times ``other`` is ``one``: rounds next to each other compare."""
    return Spread.of(a / b for a, b in zip(one.values, other.values, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a ``share`` of all lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True, slots=True)
class Work:
    """Work of a Redis server since its start.

    Attributes:
        cpu_s: Processor time of its process, in seconds.
        calls: Calls by command, as clients sent them and as scripts made them.
    """

    cpu_s: float
    calls: Mapping[str, int]

    @classmethod
    def of(cls, redis: Redis) -> Work:
        """Ask the server; take the difference of two."""
        cpu: Any = redis.info("cpu")
        stats: Any = redis.info("commandstats")
        calls = {name.removeprefix("cmdstat_"): int(of["calls"]) for name, of in stats.items()}
        return cls(float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"]), calls)

    def since(self, before: Work) -> Work:
        """The work after ``before``."""
        calls = {name: count - before.calls.get(name, 0) for name, count in self.calls.items()}
        return Work(self.cpu_s - before.cpu_s, {name: n for name, n in calls.items() if n})


def log_calls(redis: Redis, is_on: bool) -> None:
    """Let the server log how long each call takes; costs a little, so not in timed rounds."""
    redis.config_set("slowlog-max-len", _LOGGED_CALLS)
    redis.config_set("slowlog-log-slower-than", 0 if is_on else -1)
    if is_on:
        redis.slowlog_reset()


def script_times(redis: Redis, *scripts: Script) -> dict[str, list[float]]:
    """For each script, the milliseconds that each of its logged calls held the server."""
    by_sha = {script.sha: script.name for script in scripts}
    times: dict[str, list[float]] = {script.name: [] for script in scripts}
    logged: Any = redis.slowlog_get(_LOGGED_CALLS)
    for call in logged:
        words = call["command"].decode("utf-8", "replace").split(" ", 2)
        if words[0].lower() == "evalsha" and words[1] in by_sha:
            times[by_sha[words[1]]].append(call["duration"] / 1000)
    return times
