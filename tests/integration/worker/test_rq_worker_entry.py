"""RQ's entry of a worker of ours, read by RQ's own classes."""

from __future__ import annotations

import pytest
from rq import Worker as RqWorker
from rq.serializers import JSONSerializer

from worker.process.registration import Registration
from yard.contract import keys


@pytest.fixture
def entry(redis, protocol):
    """Returns the entry of ``w1`` as RQ reads it, after its batches so far."""
    Registration(redis, "w1", "").birth(["echo@v1"])
    return lambda: RqWorker.all(connection=redis, serializer=JSONSerializer)[0]


def test_a_worker_without_a_batch_has_no_current_job(redis, protocol, entry):
    protocol.submit()
    batch = protocol.claim()
    assert entry().get_current_job().id == batch.jobs[0].id
    protocol.finish(batch)
    assert entry().get_current_job() is None
    assert not redis.hexists(keys.key("worker", "w1"), "current_job")


def test_the_batch_claimed_ahead_is_the_current_one_when_it_begins(protocol, entry):
    first, second = protocol.submit(2)
    protocol = protocol.bounded(batch_jobs=1)
    batch = protocol.claim()
    assert entry().get_current_job_id() == first
    ahead = protocol.take_ahead(batch)
    assert ahead is not None
    protocol.finish(batch)
    assert entry().get_current_job_id() == second
    protocol.finish(ahead)
    assert entry().get_current_job_id() is None


def test_a_worker_that_only_was_registered_is_whole(entry):
    worker = entry()
    assert worker.get_current_job() is None
    assert worker.get_state() == "idle"
    assert worker.queue_names() == ["echo@v1"]
    assert worker.birth_date.tzinfo is not None
    assert worker.last_heartbeat.tzinfo is not None
    assert (worker.successful_job_count, worker.failed_job_count) == (0, 0)
    assert isinstance(worker.pid, int)
    assert worker.version
    assert worker.python_version
    assert worker.hostname
    assert worker.ip_address == "unknown"
    assert worker.death_date is None
    assert worker.shutdown_requested_date is None
