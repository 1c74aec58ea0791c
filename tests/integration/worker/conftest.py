"""The driver of the batch protocol, with the ``settings`` of the module."""

from __future__ import annotations

import pytest
from redis import Redis

from producer.client import Client
from tests.helpers.protocol import Protocol
from yard.settings import Settings


@pytest.fixture
def settings() -> Settings:
    return Settings.load({})


@pytest.fixture
def protocol(redis: Redis, client: Client, settings: Settings) -> Protocol:
    """A yard that knows ``echo@v1``, in which nothing waits or runs."""
    return Protocol(redis, client, settings)
