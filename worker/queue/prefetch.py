"""Double buffering: Redis works a step ahead of the model while more jobs wait.

Claiming and finishing cost Redis about as much as checking and predicting cost this process. One
after the other, each would wait for the other half of the time. So once a batch has been run, its
end and the claim of the next but one are sent, and the next is run before the replies are read:

    here     run 1   | run 2              | run 3              | ...
    Redis    claim 2 | finish 1, claim 3  | finish 2, claim 4  | ...

At most one batch is held beside the one that is run, under the same lease. A broken connection
loses nothing: a finish is repeated until Redis has answered, and the next claim gives back the jobs
of a claim whose reply was lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NamedTuple

import structlog

from worker.queue.lease import Batch, EndedBatch, Lease
from worker.queue.reconnect import OUTAGE, Retry
from yard.contract import Failure

_log = structlog.get_logger()


class _Sent(NamedTuple):
    """Commands that were sent in one go, in this order.

    Attributes:
        ended: The batch whose finish it is, if any.
        token: The token of the claim; empty for none.
    """

    ended: EndedBatch | None
    token: str


class Prefetcher:
    """Yields batches, each to be run and then given to `complete`, until none was claimed ahead.

        with Prefetcher(lease, retry, first, queues) as prefetcher:
            for batch in prefetcher:
                prefetcher.complete(run(batch), queues)

    Leaving the context waits until all batches that were completed are written. A batch that was
    claimed ahead and not yielded stays the worker's, for `Lease.release` to give back.

    Args:
        lease: The worker's protocol; its ``held`` follows the batch that is run.
        retry: Writes what Redis could not be asked to write at once.
        first: The batch to begin with.
        queues: Queues to claim the second batch from, in order; none to claim none.
    """

    def __init__(self, lease: Lease, retry: Retry, first: Batch, queues: Sequence[str]) -> None:
        self._lease = lease
        self._retry = retry
        self._first = first
        self._queues = queues
        self._connection = lease.pipeline()
        self._sent: deque[_Sent] = deque()
        self._next = ""  # the token of the batch that is yielded next
        self._claimed = ""  # the token of the last claim, whose reply is not read yet

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while self._sent:
            self._receive()
        self._connection.close()

    def __iter__(self) -> Iterator[Batch]:
        self._claimed = self._send(None, self._first.token, self._queues)
        batch: Batch | None = self._first
        while batch is not None:
            self._lease.held = batch
            yield batch
            batch = self._receive_until(self._next)

    @property
    def is_ahead(self) -> bool:
        """True if a batch was claimed behind the one that is run, so that one more can be."""
        return bool(self._claimed)

    def complete(self, ended: EndedBatch, queues: Sequence[str]) -> None:
        """Send the end of the batch that was yielded last, and the claim of the next but one.

        Args:
            ended: The end.
            queues: Queues to claim from, in order; none to claim none. Without effect unless
                `is_ahead`.

        Raises:
            GaveUp: The connection broke, and Redis is still away when the process is to end.
        """
        self._lease.held = None  # its end is about to be sent, and with it goes the lease
        self._next = self._claimed
        self._claimed = self._send(ended, self._next, queues)

    def _send(self, ended: EndedBatch | None, holding: str, queues: Sequence[str]) -> str:
        """Send a finish and a claim in one go.

        Args:
            ended: The batch that has ended, if any.
            holding: The token of the batch that the worker has then; empty for none, and no claim.
            queues: Queues to claim from, in order; none to claim none.

        Returns:
            The token of the claim; empty where none was sent.
        """
        if not holding:
            queues = ()
        if ended is None and not queues:
            return ""
        sent = _Sent(ended, self._lease.next_token() if queues else "")
        self._sent.append(sent)
        try:
            self._lease.send(self._connection, ended, sent.token, queues, holding)
        except OUTAGE:
            self._lose()
            return ""
        return sent.token

    def _receive_until(self, token: str) -> Batch | None:
        """Return the batch that was claimed with ``token``; None if there is none."""
        while token and self._sent:
            is_wanted = self._sent[0].token == token
            batch = self._receive()
            if is_wanted:
                return batch
        return None

    def _receive(self) -> Batch | None:
        """Read the replies to the oldest `_send`; return the batch that it claimed, if any."""
        try:
            written, batch = self._lease.receive(self._connection, self._sent[0].token)
        except OUTAGE:
            self._lose()
            return None
        ended = self._sent.popleft().ended
        if ended is not None:
            self._settle(ended, written)
        return batch

    def _lose(self) -> None:
        """Write again all that was sent: the connection is lost, and nothing is known of it."""
        self._connection.close()
        while self._sent:
            ended = self._sent.popleft().ended
            if ended is not None:
                self._settle(ended, None)

    def _settle(self, ended: EndedBatch, written: int | None) -> None:
        """Make sure that a batch is written, however long Redis is away.

        Args:
            ended: The batch.
            written: Number of its jobs that were written; None where that is not known.
        """
        if written is None:
            self._lease.held = ended.batch
            written = self._retry(lambda: self._lease.write(ended))
            self._lease.held = None
        _log_end(ended, written, self._lease.worker)


def _log_end(ended: EndedBatch, written: int, worker: str) -> None:
    queue, jobs = ended.batch.queue, ended.jobs
    if written < len(jobs):
        _log.warning(
            "%d of %d jobs were canceled or given to others meanwhile",
            len(jobs) - written,
            len(jobs),
            worker=worker,
            queue=queue,
        )
    model, _, version = queue.partition("@")
    for job in jobs:
        if isinstance(job.outcome, Failure):
            code = job.outcome.code
            _log.info("job failed", job=job.id, model=model, version=version, code=code)
    _log.debug("batch", worker=worker, queue=queue, jobs=len(jobs))
