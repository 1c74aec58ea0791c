"""How many workers there should be: a pure decision from what was observed.

The pool observes, asks `decide`, and acts. Workers are started when jobs wait and nobody is free to
take them, and asked to leave when they have been idle for long; a busy worker is never asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator has set.

    Attributes:
        least: Workers that are kept even when there is nothing to do.
        most: Workers that run at most.
        idle_s: Seconds after which an idle worker above ``least`` leaves.
    """

    least: int
    most: int
    idle_s: float


@dataclass(frozen=True, slots=True)
class Observation:
    """What the pool sees at one moment.

    Attributes:
        queued: Jobs that wait in the pool's queues.
        starting: Workers that have been started and have not reported yet.
        busy: Workers that have a batch.
        idle_for: Seconds that each idle worker has been idle, by name.
    """

    queued: int
    starting: int
    busy: int
    idle_for: Mapping[str, float]

    @property
    def workers(self) -> int:
        """All workers, whatever they do."""
        return self.starting + self.busy + len(self.idle_for)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the pool is to do.

    Attributes:
        start: How many workers to start.
        leave: The workers to ask to leave.
    """

    start: int = 0
    leave: tuple[str, ...] = ()


def decide(seen: Observation, policy: Policy) -> Plan:
    """The plan for what was seen.

    At most one worker beyond the minimum starts at a time, and only while no other is starting or
    idle, so that a short burst does not start them all.
    """
    if seen.workers < policy.least:
        return Plan(start=policy.least - seen.workers)
    is_short = seen.queued > 0 and seen.starting == 0 and not seen.idle_for
    if is_short and seen.workers < policy.most:
        return Plan(start=1)
    surplus = seen.workers - policy.least
    tired = sorted(
        (name for name, idle_s in seen.idle_for.items() if idle_s >= policy.idle_s),
        key=lambda name: -seen.idle_for[name],
    )
    return Plan(leave=tuple(tired[:surplus])) if seen.queued == 0 else Plan()
