"""What the views work with, kept with the application: no globals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from flask import Flask, current_app
from prometheus_client import CollectorRegistry
from redis import Redis

from gateway.intake import Intake
from gateway.waits import Waits
from producer.client import Client
from producer.settings import Settings

_EXTENSION = "modelyard"


@dataclass(frozen=True, slots=True)
class Services:
    """One application's parts, all safe for threads.

    Attributes:
        settings: Bounds.
        client: Submits and reads jobs.
        waits: Waits for jobs.
        intake: Reads bodies.
        registry: What ``/metrics`` shows.
    """

    settings: Settings
    client: Client
    waits: Waits
    intake: Intake
    registry: CollectorRegistry

    @property
    def redis(self) -> Redis:
        """The client's Redis, for reading how the yard stands."""
        return self.client.redis


def attach(app: Flask, services: Services) -> None:
    """Keep ``services`` with ``app``."""
    app.extensions[_EXTENSION] = services


def services_of(app: Flask) -> Services:
    """The services that `attach` keeps with ``app``."""
    return cast("Services", app.extensions[_EXTENSION])


def services() -> Services:
    """The services of the application that works on the present request."""
    return services_of(current_app)
