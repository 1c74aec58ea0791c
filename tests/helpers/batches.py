"""Batches of ``echo@v1``, as tests of the protocol claim them and look at what waits."""

from __future__ import annotations

from redis import Redis

from tests.helpers.stand_ins import queued
from worker.queue.lease import Batch, Lease

QUEUE = "echo@v1"


def claim(lease: Lease, *queues: str) -> Batch:
    """A batch; there must be one."""
    batch = lease.claim(queues or [QUEUE])
    assert isinstance(batch, Batch)
    return batch


def take_ahead(lease: Lease, holding: Batch) -> Batch | None:
    """What a worker that has ``holding`` takes ahead, if there is anything."""
    connection = lease.pipeline()
    token = lease.next_token()
    lease.send(connection, None, token, [QUEUE], holding.token)
    written, batch = lease.receive(connection, token)
    connection.close()
    assert written == 0
    return batch


def ids(batch: Batch | None) -> list[str]:
    """The ids of a batch's jobs, in their order; none without a batch."""
    return [job.id for job in batch.jobs] if batch else []


def waiting(redis: Redis, queue: str = QUEUE) -> list[str]:
    """The ids that wait in a queue, oldest first."""
    return queued(redis, queue)
