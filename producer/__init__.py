"""One end of the queue: the client that submits jobs, waits for them and cancels them.

    from producer import Client

    client = Client("redis://127.0.0.1:6379/0")
    job = client.submit("iris", instances=[[5.1, 3.5, 1.4, 0.2]]).wait(10)
    print(job["predictions"])

Imports `yard` alone of our packages, and neither numpy nor Flask, so that a service that only
pushes jobs stays light. Names are imported when they are first used.
"""

from typing import TYPE_CHECKING

from yard.lazy import lazy_names

if TYPE_CHECKING:
    from producer.client import Client
    from producer.handle import Handle
    from producer.rq_job import SafeJob
    from yard.contract import Job, JobStatus, ModelRef, Request, Route, Signature
    from yard.errors import ModelyardError
    from yard.settings import Settings

__all__ = [
    "Client",
    "Handle",
    "Job",
    "JobStatus",
    "ModelRef",
    "ModelyardError",
    "Request",
    "Route",
    "SafeJob",
    "Settings",
    "Signature",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Client": "producer.client",
        "Handle": "producer.handle",
        "Job": "yard.contract.values",
        "JobStatus": "yard.contract.values",
        "ModelRef": "yard.contract.values",
        "ModelyardError": "yard.errors",
        "Request": "yard.contract.values",
        "Route": "yard.contract.values",
        "SafeJob": "producer.rq_job",
        "Settings": "yard.settings",
        "Signature": "yard.contract.values",
    },
)
