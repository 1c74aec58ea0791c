"""The parts that views work with, kept with the application: no globals."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import cast

from flask import Flask, current_app
from prometheus_client import CollectorRegistry
from redis import Redis

from gateway.http import Threads
from gateway.middleware import Middleware
from gateway.services.async_client import AsyncClient
from gateway.services.body_processes import BodyProcesses
from producer.client import Client
from yard.settings import Settings

_EXTENSION = "modelyard"


@dataclass(frozen=True, slots=True)
class Services:
    """One application's parts.

    Attributes:
        settings: Bounds.
        client: Submits and reads jobs; safe for threads.
        loop: The event loop, which runs async views and the middleware.
        async_client: The same for the event loop; also waits for jobs.
        body_processes: Read large bodies and queue their jobs.
        threads: Flask's views, and work that is too long for the event loop.
        middleware: Every request passes it; the outermost first.
        registry: The metrics that ``/metrics`` shows.
    """

    settings: Settings
    client: Client
    loop: asyncio.AbstractEventLoop
    async_client: AsyncClient
    body_processes: BodyProcesses
    threads: Threads
    middleware: tuple[Middleware, ...]
    registry: CollectorRegistry

    @property
    def redis(self) -> Redis:
        """The client's Redis, for reading the yard's status."""
        return self.client.redis

    def close(self) -> None:
        """Ends the threads; no call may wait for a job any more."""
        self.async_client.close()
        self.body_processes.close()
        self.threads.close()


def attach(app: Flask, services: Services) -> None:
    """Keeps ``services`` with ``app``."""
    app.extensions[_EXTENSION] = services


def services_of(app: Flask) -> Services:
    """Returns the services that `attach` keeps with ``app``."""
    return cast("Services", app.extensions[_EXTENSION])


def services() -> Services:
    """Returns the services of the current application of Flask."""
    return services_of(current_app)
