"""Rounds in which every system runs once: a slow moment of the machine hits all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from bench.environments import NotInstalled
from bench.progress import say

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Contest(Generic[T]):
    """The outcome of a contest.

    Attributes:
        turns: For each system that ran to the end, its turns in order.
        missing: For each other one, why.
    """

    turns: dict[str, list[T]]
    missing: dict[str, str]

    def note(self) -> str:
        """The missing systems with the reasons; empty if there are none."""
        return "\n".join(f"- Missing: {name}: {why}" for name, why in self.missing.items())


def take_turns(
    what: str,
    rounds: int,
    systems: Mapping[str, Callable[[], T]],
    told: Callable[[T], str],
) -> Contest[T]:
    """Run each system once a round; the first is ours, which may not fail.

    Args:
        what: What is measured, for the line about each round.
        rounds: How many.
        systems: By name, what a turn is.
        told: A turn in few words.
    """
    ours = next(iter(systems))
    turns: dict[str, list[T]] = {name: [] for name in systems}
    missing: dict[str, str] = {}
    for number in range(rounds):
        for name in [name for name in systems if name not in missing]:
            try:
                turns[name].append(systems[name]())
            except (NotInstalled, RuntimeError, OSError) as error:
                if name == ours:
                    raise
                missing[name] = str(error)
        running = {name: of[-1] for name, of in turns.items() if name not in missing}
        said = "; ".join(f"{name} {told(turn)}" for name, turn in running.items())
        say(f"{what} {number + 1}/{rounds}: {said}")
    return Contest({name: of for name, of in turns.items() if name not in missing}, missing)
