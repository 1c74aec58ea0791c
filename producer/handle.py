"""The handle of an accepted job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from yard.contract import Job


class JobClient(Protocol):
    """Reads, awaits and cancels jobs by id, as `producer.client.Client` does."""

    def get(self, job_id: str) -> Job:
        """Reads a job as it stands."""

    def wait(self, job_id: str, timeout_s: float = 30.0) -> Job:
        """Waits for a job to end and returns it."""

    def cancel(self, job_id: str) -> Job:
        """Cancels a job that has not ended."""


@dataclass(frozen=True, slots=True)
class Handle:
    """A job that Redis has accepted, to wait for, to read and to cancel.

    Attributes:
        id: The job's id.
        model: Its model.
        version: The version that will run it.
        queue: The queue that it was put on.
        is_repeat: True if an earlier request with the same idempotency key made the job.
        client: The client that submitted it.
    """

    id: str
    model: str
    version: str
    queue: str
    is_repeat: bool
    client: JobClient

    def get(self) -> Job:
        """Reads the job as it stands.

        Raises:
            UnknownJob: Its result has expired.
            Unavailable: Redis does not answer.
        """
        return self.client.get(self.id)

    def wait(self, timeout_s: float = 30.0) -> Job:
        """Waits for the job to end and returns it.

        Raises:
            Timeout: It did not end in time; it lives on.
            Unavailable: Redis does not answer.
        """
        return self.client.wait(self.id, timeout_s)

    def cancel(self) -> Job:
        """Cancels the job, see `Client.cancel`."""
        return self.client.cancel(self.id)
