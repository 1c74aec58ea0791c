"""Services that views share: clients of Redis, sync and async."""

from gateway.services.async_client import AsyncClient
from gateway.services.body_processes import BodyProcesses
from gateway.services.container import Services, attach, services, services_of

__all__ = [
    "AsyncClient",
    "BodyProcesses",
    "Services",
    "attach",
    "services",
    "services_of",
]
