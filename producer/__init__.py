"""The contract and the client: what travels through Redis, under which key, and how to submit it.

    from producer import Client

    client = Client("redis://127.0.0.1:6379/0")
    job = client.submit("iris", instances=[[5.1, 3.5, 1.4, 0.2]]).wait(10)
    print(job["predictions"])

Imports nothing of the other packages, and neither numpy nor Flask, so that a service which only
pushes jobs stays light. Names are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from producer.client import Client, Handle
    from producer.jobs import SafeJob
    from yard.contract.values import Job, JobStatus, ModelRef, Request, Route, Signature
    from yard.errors import ModelyardError
    from yard.settings import Settings

_HOMES = {
    "Client": "client",
    "Handle": "client",
    "Job": "contract",
    "JobStatus": "contract",
    "ModelRef": "contract",
    "ModelyardError": "errors",
    "Request": "contract",
    "Route": "contract",
    "SafeJob": "jobs",
    "Settings": "settings",
    "Signature": "contract",
}

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'producer' has no attribute {name!r}")
    return getattr(import_module(f"producer.{_HOMES[name]}"), name)
