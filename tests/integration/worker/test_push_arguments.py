"""Our own arguments in pushes: what is read and checked is obeyed on every way in."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.protocol import QUEUE, Protocol
from worker.inference.batching import read_call
from worker.inference.executor import BatchExecutor
from worker.inference.throughput import ServiceTimes
from worker.queue.lease import Batch
from yard.contract import keys, wire
from yard.contract.timestamps import format_time
from yard.contract.values import TASK_NAME, Failure


def push(protocol: Protocol, job_id: str, queue: str, ago_s: float = 0.0, **arguments: Any) -> None:
    data = wire.dumps([TASK_NAME, None, [], {"instances": [[1.0]]} | arguments])
    protocol.push(job_id, queue, data=data, created_at=format_time(-ago_s))


def forwarder(protocol: Protocol) -> BatchExecutor:
    """Runs batches of unversioned queues, which need no model."""
    return BatchExecutor(None, None, protocol.settings, ServiceTimes())  # type: ignore[arg-type]


def codes(batch: Batch) -> dict[str, str]:
    """By job id, the code of the failure of reading it; empty for none."""
    read = {job.id: read_call(job, 2**20, batch.queue, batch.claimed_us) for job in batch.jobs}
    return {job_id: call.code if isinstance(call, Failure) else "" for job_id, call in read.items()}


@pytest.mark.parametrize("queue", [QUEUE, "echo"])
def test_a_pushed_deadline_is_obeyed(protocol, queue):
    protocol.redis.hset(keys.WAITING, queue, protocol.now_us() - 120_000_000)
    protocol.redis.expire(keys.WAITING, 60)
    push(protocol, "late", queue, ago_s=60, deadline_ms=5_000)
    push(protocol, "early", queue, ago_s=1, deadline_ms=50_000)
    push(protocol, "none", queue, ago_s=60)
    batch = protocol.claim(queue)
    assert codes(batch) == {"late": "expired", "early": "", "none": ""}
    protocol.finish(batch)


@pytest.mark.parametrize("queue", [QUEUE, "echo"])
def test_a_date_that_the_queue_does_not_bear_out_expires_no_job(protocol, queue):
    push(protocol, "minutes", queue, ago_s=600, deadline_ms=5_000)
    push(protocol, "ancient", queue, ago_s=30 * 86_400, deadline_ms=5_000)
    batch = protocol.claim(queue)
    assert codes(batch) == {"minutes": "", "ancient": ""}
    protocol.finish(batch)


def test_a_deadline_goes_with_a_job_that_is_forwarded(protocol):
    push(protocol, "soon", "echo", deadline_ms=50_000)
    batch = protocol.claim("echo")
    executor = forwarder(protocol)
    result = executor.run(batch, protocol.lease())
    assert not result.ended_jobs
    protocol.finish(batch, [])
    due_us = int(protocol.field("soon", "my_deadline"))
    assert 40e6 < due_us - protocol.now_us() < 51e6
    protocol.redis.hset(keys.key("job", "soon"), "my_deadline", protocol.now_us() - 1)
    late = protocol.claim()
    assert [job.flaw for job in late.jobs] == ["expired"]
    protocol.finish(late)


def test_a_version_in_a_push_must_be_the_queues(protocol):
    push(protocol, "other", QUEUE, version="v2")
    push(protocol, "same", QUEUE, version="v1")
    batch = protocol.claim()
    assert codes(batch) == {"other": "invalid_job", "same": ""}
    protocol.finish(batch)


def test_an_alias_that_a_script_of_ours_has_resolved_is_none_to_refuse(redis, protocol):
    redis.hset(keys.key("aliases", "echo"), "champion", "v1")
    submitted = protocol.submit(version="champion")[0]
    push(protocol, "forwarded", "echo", version="champion")
    batch = protocol.claim("echo")
    executor = forwarder(protocol)
    executor.run(batch, protocol.lease())
    protocol.finish(batch, [])
    batch = protocol.claim()
    assert codes(batch) == {submitted: "", "forwarded": ""}
    protocol.finish(batch)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 5), ("30s", 30), ("5m", 300), ("1h", 3600), ("-1", 3600), ("9h", 3600), ("x", 60)],
)
def test_a_timeout_in_any_of_rqs_forms_is_obeyed(protocol, text, seconds):
    protocol.push("j1", timeout=text)
    batch = protocol.claim()
    assert batch.timeout_s == seconds
    protocol.finish(batch)
