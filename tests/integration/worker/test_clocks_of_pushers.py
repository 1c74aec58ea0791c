"""Dates that others write: no job is believed to have waited longer than its queue had jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from redis import Redis

from tests.helpers.protocol import MODEL, QUEUE, Protocol
from worker.pool.autoscaler import Policy
from worker.pool.observer import Observer
from yard.cluster import read_waiting_since_s, read_waits_s
from yard.contract import keys
from yard.status import read_status

DAY_S = 86_400.0


def date(in_s: float, zone: timezone = UTC, spec: str = "microseconds") -> str:
    at = datetime.now(UTC) + timedelta(seconds=in_s)
    return at.astimezone(zone).isoformat(timespec=spec).replace("+00:00", "Z")


WRONG = {
    "ten minutes behind": date(-600),
    "the past": "2006-01-02T03:04:05Z",
    "without a fraction": date(-600, spec="seconds"),
    "in another zone": date(-600, timezone(timedelta(hours=-9, minutes=-30))),
    "ten minutes ahead": date(600),
    "the future": "2096-02-29T03:04:05.5Z",
    "no date": "nope",
    "nothing": "",
}


@pytest.mark.parametrize("created_at", WRONG.values(), ids=WRONG)
def test_a_wrong_date_is_bounded_everywhere(protocol: Protocol, redis: Redis, created_at: str):
    job_id = protocol.push("raw", created_at=created_at)
    observer = Observer(redis, "me", lambda: [QUEUE], Policy(1, 4, 60))
    for _ in range(3):
        seen = observer.observe(0.0, {"w": "busy"}, {}, -1e9)
        assert 0 <= seen.works[0].oldest_s < 60
        assert 0 <= read_waits_s(redis, [QUEUE])[QUEUE] < 60
        queues = read_status(redis, MODEL, with_waits=True).models[0].queues
        assert 0 <= queues[QUEUE].oldest_s < 60
    batch = protocol.claim(QUEUE)
    believed = datetime.fromisoformat(batch.jobs[0].created_at).timestamp()
    assert 0 <= batch.claimed_us / 1e6 - believed < 60
    protocol.finish(batch)
    job = protocol.client.get(job_id)
    assert job.timings is not None
    assert 0 <= job.timings.queue < 60_000
    assert job.timings.queue <= job.timings.total < 60_000
    assert job.created_at == (created_at or None)


def test_a_push_without_a_date_is_served_and_timed(protocol: Protocol, redis: Redis):
    job_id = protocol.push("raw")
    redis.hdel(keys.key("job", job_id), "created_at")
    read_waiting_since_s(redis, [QUEUE])
    protocol.finish(protocol.claim(QUEUE))
    job = protocol.client.get(job_id)
    assert job.status.value == "finished"
    assert job.timings is not None
    assert 0 < job.timings.queue < 60_000


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=5, minutes=45))])
def test_a_right_date_is_believed_as_long_as_jobs_were_seen_there(
    protocol: Protocol, redis: Redis, zone: timezone
):
    read_waiting_since_s(redis, [QUEUE])
    redis.hset(keys.WAITING, QUEUE, protocol.now_us() - 600_000_000)
    protocol.push("raw", created_at=date(-300, zone))
    assert 299 < read_waits_s(redis, [QUEUE])[QUEUE] < 360
    batch = protocol.claim(QUEUE)
    protocol.finish(batch)
    job = protocol.client.get("raw")
    assert job.timings is not None
    assert 299_000 < job.timings.queue < 360_000


def test_a_wait_begins_anew_when_the_queue_was_empty(protocol: Protocol, redis: Redis):
    redis.hset(keys.WAITING, QUEUE, "7")
    assert read_waiting_since_s(redis, [QUEUE]) == {}
    protocol.push("raw", created_at="2006-01-02T03:04:05Z")
    since_s = read_waiting_since_s(redis, [QUEUE])[QUEUE]
    assert abs(since_s - protocol.now_us() / 1e6) < 60
    assert read_waiting_since_s(redis, [QUEUE]) == {QUEUE: since_s}
    assert redis.ttl(keys.WAITING) > 0


def test_a_job_of_ours_is_believed(protocol: Protocol, redis: Redis):
    (job_id,) = protocol.submit()
    redis.hset(keys.key("job", job_id), "created_at", date(-DAY_S))
    assert DAY_S - 1 < read_waits_s(redis, [QUEUE])[QUEUE] < DAY_S + 60


def test_a_key_of_another_type_is_replaced(protocol: Protocol, redis: Redis):
    redis.set(keys.WAITING, "x")
    protocol.push("raw", created_at="2006-01-02T03:04:05Z")
    protocol.finish(protocol.claim(QUEUE))
    assert read_waiting_since_s(redis, [QUEUE]) == {}
