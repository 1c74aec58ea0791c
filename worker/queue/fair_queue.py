"""Orders the queues that a worker claims from; pure.

Fair queueing by time: each queue is charged with the seconds that its batches took, and the queue
with the fewest comes first. So a slow version gets as much of a worker as a fast one, and no more.
Queues of loaded versions come before the others, except those whose first job has waited too long:
these are in line with the loaded ones, but behind by twice what loading them takes. So a worker
stays with what it has loaded, does not spend its time on loading where not all versions fit, and no
queue starves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

#: A loaded version is kept for at least this many times what loading another one takes.
_STAYS = 2.0

#: Credit of an idle queue, at most, in seconds: how far it may fall behind the virtual clock.
_MOST_CREDIT_S = 0.25


class FairQueue:
    """The time that each queue has used of one worker.

    Args:
        patience_s: Seconds after which a waiting job's version gets a turn, loaded or not.
    """

    def __init__(self, patience_s: float = 1.0) -> None:
        self._patience_s = patience_s
        self._used_s: dict[str, float] = {}
        self._load_s: dict[str, float] = {}
        self._virtual_s = 0.0  # the virtual clock: time used by a queue that was never behind

    def order(
        self, queues: Sequence[str], loaded: Collection[str], waits_s: Mapping[str, float]
    ) -> list[str]:
        """Return all ``queues`` in the order of their turns.

        Args:
            queues: Names of the queues.
            loaded: Those whose version is loaded.
            waits_s: Seconds that the first job of each has waited, where that is known.
        """
        floor_s = self._virtual_s - _MOST_CREDIT_S
        late = {queue for queue, wait_s in waits_s.items() if wait_s >= self._patience_s}
        used_s = {queue: self._used_s.get(queue, self._virtual_s) for queue in queues}
        # A late queue is not idle: it keeps all of its credit.
        self._used_s = {q: s if q in late else max(floor_s, s) for q, s in used_s.items()}

        def rank(queue: str) -> tuple[bool, float, float]:
            is_there = queue in loaded or "@" not in queue
            toll_s = 0.0 if is_there else _STAYS * self._load_s.get(queue, 0.0)
            may_wait = not is_there and queue not in late
            return may_wait, self._used_s[queue] + toll_s, -waits_s.get(queue, 0.0)

        return sorted(queues, key=rank)

    def begin(self, queue: str) -> None:
        """Record that ``queue`` has its turn: advance the virtual clock to the time it has used."""
        self._virtual_s = max(self._virtual_s, self._used_s.get(queue, 0.0))

    def charge(self, queue: str, seconds: float, load_s: float = 0.0) -> None:
        """Charge ``queue`` with a batch.

        Args:
            queue: The batch's queue.
            seconds: Time of the batch, loading included.
            load_s: Time of loading, in seconds; 0.0 if the version was loaded.
        """
        if queue in self._used_s:
            self._used_s[queue] += seconds - load_s
            if load_s:  # the first load of a process imports libraries, too
                self._load_s[queue] = min(load_s, self._load_s.get(queue, load_s))
