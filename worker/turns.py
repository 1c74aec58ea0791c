"""Whose turn it is among the queues that a worker looks at; pure.

A fair queue by time: each queue is charged with the seconds that its batches took, loading
included, and whichever has had least comes first. So a slow version gets as much of a worker as a
fast one, and no more. Queues of versions that the worker has loaded come before the others, except
such others as have waited for longer than they should: so a worker stays with what it has loaded,
and nobody starves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

#: How far a queue may fall behind the others, and be ahead of them for it later, in seconds.
_MOST_CREDIT_S = 0.25


class Turns:
    """What each queue has had of one worker's time.

    Args:
        patience_s: How long a job may wait before its version's turn comes, loaded or not.
    """

    def __init__(self, patience_s: float = 1.0) -> None:
        self._patience_s = patience_s
        self._had_s: dict[str, float] = {}
        self._round_s = 0.0  # what a queue has had that was never behind
        self._order: Sequence[str] = ()

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
        self._had_s = {
            queue: max(floor_s, self._had_s.get(queue, self._round_s)) for queue in queues
        }

        def rank(queue: str) -> tuple[bool, float, float]:
            wait_s = waits_s.get(queue, 0.0)
            may_wait = queue not in loaded and "@" in queue and wait_s < self._patience_s
            return may_wait, self._had_s[queue], -wait_s

        self._order = sorted(queues, key=rank)
        return list(self._order)

    def took(self, queue: str) -> None:
        """Note that a batch was taken of ``queue``: all before it in the last order were empty.

        An empty queue saves no credit up.
        """
        if queue not in self._had_s:
            return
        self._round_s = max(self._round_s, self._had_s[queue])
        for empty in self._order[: self._order.index(queue)]:
            self._had_s[empty] = max(self._had_s[empty], self._round_s)

    def charge(self, queue: str, seconds: float) -> None:
        """Note that a batch of ``queue`` took so long, what had to be loaded for it included."""
        if queue in self._had_s:
            self._had_s[queue] += seconds
