"""One batch after the other while more wait, with Redis a step ahead of the model.

Claiming and finishing cost Redis about as much as checking and predicting cost this process. One
after the other, each would wait for the other half of the time. So once a batch is served, its end
and the claim of the next but one are sent, and the next is served before the replies are read:

    here     serve 1 | serve 2            | serve 3            | ...
    Redis    claim 2 | finish 1, claim 3  | finish 2, claim 4  | ...

At most one batch is held beside the one that is served, under the same lease. Whatever goes wrong
with the connection, nothing is lost: a finish is repeated until Redis has answered, and what a
claim took whose reply was lost is given back by the next claim.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from worker.queue.lease import Batch, EndedBatch, Lease
from worker.queue.reconnect import OUTAGE


class _Sent(NamedTuple):
    """What was sent in one go, in this order.

    Attributes:
        ended: The batch whose end it is, if any.
        token: The token of the claim, if there is one.
    """

    ended: EndedBatch | None
    token: str


class Prefetcher:
    """Serves batches; `run` returns when none is left that was claimed here.

    Args:
        lease: The worker's protocol.
        serve: What becomes of a batch.
        ahead: While a batch is served, the queues to claim from, in order; none to claim no more.
        settle: Called with each batch and how many jobs of it were written; None where that is not
            known, so that it is to be written again.
        is_leaving: Whether what was claimed and not begun is to be left to others.
    """

    def __init__(
        self,
        lease: Lease,
        serve: Callable[[Batch], EndedBatch],
        ahead: Callable[[Batch], Sequence[str]],
        settle: Callable[[EndedBatch, int | None], None],
        is_leaving: Callable[[], bool],
    ) -> None:
        self._lease = lease
        self._serve = serve
        self._ahead = ahead
        self._settle = settle
        self._is_leaving = is_leaving
        self._line = lease.line()
        self._sent: deque[_Sent] = deque()

    def run(self, batch: Batch) -> None:
        """Serve the batch, and those after it as long as more wait.

        Raises:
            Exception: Whatever ``serve`` or ``settle`` raises; what was served before is settled.
        """
        following: Batch | None = batch
        token = self._send(None, batch.token, batch)
        try:
            while following is not None:
                batch, following = following, None
                ended = self._serve(batch)
                token, awaited = self._send(ended, token, batch), token
                if awaited:
                    following = self._receive_until(awaited)
                if self._is_leaving():
                    break
        finally:
            self._receive_all()

    def _send(self, ended: EndedBatch | None, holding: str, batch: Batch) -> str:
        """Send the end of a batch, and the claim of one more.

        Args:
            ended: The batch that has ended, if any.
            holding: The token of the batch that the worker has then; empty for none.
            batch: The batch that was served last, or is the first.

        Returns:
            The token of the claim; empty where none was sent.
        """
        queues = self._ahead(batch) if holding else ()
        if ended is None and not queues:
            return ""
        sent = _Sent(ended, self._lease.next_token() if queues else "")
        self._sent.append(sent)
        try:
            self._lease.send(self._line, ended, sent.token, queues, holding)
        except OUTAGE:
            self._lose()
            return ""
        return sent.token

    def _receive_until(self, token: str) -> Batch | None:
        """The batch that was claimed with ``token``, if there was one."""
        while self._sent:
            is_wanted = self._sent[0].token == token
            batch = self._receive()
            if is_wanted:
                return batch
        return None

    def _receive_all(self) -> None:
        while self._sent:
            self._receive()
        self._line.close()

    def _receive(self) -> Batch | None:
        """Read what became of what was sent first: settle the end; the batch that was claimed."""
        try:
            written, batch = self._lease.receive(self._line, self._sent[0].token)
        except OUTAGE:
            self._lose()
            return None
        ended = self._sent.popleft().ended
        if ended is not None:
            self._settle(ended, written)
        return batch

    def _lose(self) -> None:
        """The connection is lost, and nothing is known of what was sent."""
        self._line.close()
        while self._sent:
            ended = self._sent.popleft().ended
            if ended is not None:
                self._settle(ended, None)
