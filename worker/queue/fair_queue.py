"""Whose turn it is among the queues that a worker looks at; pure.

A fair queue by time: each queue is charged with the seconds that its batches took, and whichever
has had least comes first. So a slow version gets as much of a worker as a fast one, and no more.
Queues of versions that the worker has loaded come before the others, except such others as have
waited for longer than they should: these are in line with them, but behind by twice what loading
them takes. So a worker stays with what it has loaded, does not spend its time with loading where
not all versions fit, and nobody starves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

#: What is loaded stays so for at least so many times what it takes to load another instead.
_STAYS = 2.0

#: How far a queue may fall behind the others, and be ahead of them for it later, in seconds.
_MOST_CREDIT_S = 0.25


class FairQueue:
    """What each queue has had of one worker's time.

    Args:
        patience_s: How long a job may wait before its version's turn comes, loaded or not.
    """

    def __init__(self, patience_s: float = 1.0) -> None:
        self._patience_s = patience_s
        self._had_s: dict[str, float] = {}
        self._load_s: dict[str, float] = {}
        self._round_s = 0.0  # what a queue has had that was never behind

    def order(
        self, queues: Sequence[str], loaded: Collection[str], waits_s: Mapping[str, float]
    ) -> list[str]:
        """All ``queues``, whose turn it is first.

        Args:
            queues: Their names.
            loaded: Those whose version is loaded.
            waits_s: How long the first job of each has waited, where that is known, in seconds.
        """
        floor_s = self._round_s - _MOST_CREDIT_S
        late = {queue for queue, wait_s in waits_s.items() if wait_s >= self._patience_s}
        had_s = {queue: self._had_s.get(queue, self._round_s) for queue in queues}
        # Who is late is not idle, and owed all that it has not had.
        self._had_s = {q: s if q in late else max(floor_s, s) for q, s in had_s.items()}

        def rank(queue: str) -> tuple[bool, float, float]:
            is_there = queue in loaded or "@" not in queue
            toll_s = 0.0 if is_there else _STAYS * self._load_s.get(queue, 0.0)
            may_wait = not is_there and queue not in late
            return may_wait, self._had_s[queue] + toll_s, -waits_s.get(queue, 0.0)

        return sorted(queues, key=rank)

    def took(self, queue: str) -> None:
        """Note that a batch of ``queue`` has its turn: the others are as far as it, or further."""
        self._round_s = max(self._round_s, self._had_s.get(queue, 0.0))

    def charge(self, queue: str, seconds: float, load_s: float = 0.0) -> None:
        """Note that a batch of ``queue`` took so long.

        Args:
            queue: Where its jobs came from.
            seconds: All of it, loading included.
            load_s: What loading took; 0.0 if the version was there.
        """
        if queue in self._had_s:
            self._had_s[queue] += seconds - load_s
            if load_s:  # the first load of a process imports libraries, too
                self._load_s[queue] = min(load_s, self._load_s.get(queue, load_s))
