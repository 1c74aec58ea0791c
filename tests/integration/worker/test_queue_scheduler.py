"""Which queues a worker looks at, and which of them others can wait for in the worker."""

from __future__ import annotations

import pytest
from redis import Redis

from tests.helpers.stand_ins import publish
from worker.queue.scheduler import QueueScheduler

FAST, SLOW = "iris@v1", "iris@v2"


@pytest.fixture
def loaded() -> set[str]:
    return {FAST, SLOW}


@pytest.fixture
def scheduler(redis: Redis, loaded: set[str]) -> QueueScheduler:
    publish(redis, "iris", "v1", "v2", active="v1")
    scheduler = QueueScheduler(redis, clock=lambda: 0.0, loaded=lambda: loaded)
    scheduler.queues()
    return scheduler


def prefetchable(scheduler: QueueScheduler) -> set[str]:
    """Read when their order is."""
    scheduler._ordered_at = float("-inf")
    scheduler.queues()
    return set(scheduler.prefetchable())


def test_nothing_is_taken_ahead_for_a_version_whose_last_batch_took_long(scheduler):
    scheduler.record_duration(FAST, 0.01)
    scheduler.record_duration(SLOW, 2.0)
    assert prefetchable(scheduler) == {FAST}
    scheduler.record_duration(SLOW, 0.01)
    assert prefetchable(scheduler) == {FAST, SLOW}


def test_a_version_that_is_loaded_is_tried_once(scheduler):
    assert prefetchable(scheduler) == {FAST, SLOW}
    assert not scheduler.is_quick(SLOW), "while it is served first, nothing waits behind it"
    scheduler.record_duration(SLOW, 2.0)
    assert prefetchable(scheduler) == {FAST}


def test_what_must_be_loaded_first_is_not_taken_ahead(scheduler, loaded):
    loaded.discard(SLOW)
    assert prefetchable(scheduler) == {FAST}


def test_a_front_door_is_not_taken_ahead(scheduler):
    assert "iris" in scheduler.queues()
    assert "iris" not in prefetchable(scheduler)
