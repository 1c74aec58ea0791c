"""What the views work with, kept with the application: no globals."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import cast

from flask import Flask, current_app
from prometheus_client import CollectorRegistry
from redis import Redis

from gateway.http import Threads
from gateway.middleware import RequestLog
from gateway.services.async_client import AsyncClient
from producer.client import Client
from yard.settings import Settings

_EXTENSION = "modelyard"


@dataclass(frozen=True, slots=True)
class Services:
    """One application's parts.

    Attributes:
        settings: Bounds.
        client: Submits and reads jobs; safe for threads.
        loop: The event loop that answers direct calls,
        waits: and that waits for jobs.
        threads: What it has others do.
        observer: Counts and logs requests.
        registry: What ``/metrics`` shows.
    """

    settings: Settings
    client: Client
    loop: asyncio.AbstractEventLoop
    waits: AsyncClient
    threads: Threads
    observer: RequestLog
    registry: CollectorRegistry

    @property
    def redis(self) -> Redis:
        """The client's Redis, for reading how the yard stands."""
        return self.client.redis

    def close(self) -> None:
        """End the threads; nobody waits for a job any more."""
        self.waits.close()
        self.threads.close()


def attach(app: Flask, services: Services) -> None:
    """Keep ``services`` with ``app``."""
    app.extensions[_EXTENSION] = services


def services_of(app: Flask) -> Services:
    """The services that `attach` keeps with ``app``."""
    return cast("Services", app.extensions[_EXTENSION])


def services() -> Services:
    """The services of the application that works on the present request."""
    return services_of(current_app)
