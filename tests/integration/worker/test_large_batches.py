"""Batches that a claim takes in several calls, sent in one go: what is in them, what breaks off."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from producer import Client, Handle
from tests.helpers.batches import QUEUE, claim, ids, take_ahead, waiting
from worker.queue.lease import _CLAIM, MOST_CLAIMED, Batch, Lease
from worker.queue.outcomes import EndedJob
from worker.queue.recovery import reap
from yard.broker.lua import Script
from yard.contract import keys
from yard.contract.values import Request
from yard.settings import Settings

JOBS = 2 * MOST_CLAIMED


@pytest.fixture
def settings() -> Settings:
    return Settings.load({}, batch_jobs=JOBS)


@pytest.fixture
def lease(redis: Redis, settings: Settings) -> Lease:
    lease = Lease(redis, "w1", settings)
    lease.claim([QUEUE])  # from now on the server knows the scripts
    return lease


def submit(client: Client, count: int) -> list[str]:
    outcomes = client.submit_many(Request("echo", instances=[[1.0]]) for _ in range(count))
    return [handle.id for handle in outcomes if isinstance(handle, Handle)]


def submit_short(redis: Redis, client: Client) -> None:
    """A job that may run for 7 seconds."""
    (job_id,) = submit(client, 1)
    redis.hset(keys.key("job", job_id), "timeout", 7)


def finish(lease: Lease, batch: Batch) -> int:
    return lease.finish(batch, [EndedJob(job.id, {"predictions": [1]}, 60) for job in batch.jobs])


def drained(lease: Lease) -> list[str]:
    """All jobs that wait, batch after batch."""
    found: list[str] = []
    while isinstance(batch := lease.claim([QUEUE]), Batch):
        found += ids(batch)
        assert finish(lease, batch) == len(batch.jobs)
    return found


def held(redis: Redis, field: str) -> str:
    found: Any = redis.hget(keys.key("batch", "w1"), field)
    return str(found.decode())


def test_all_calls_of_a_claim_take_one_batch(redis, client, lease):
    mine = submit(client, JOBS + 1)
    batch = claim(lease)
    assert ids(batch) == mine[:-1]
    assert held(redis, "ids").split() == mine[:-1]
    assert batch.has_more
    assert waiting(redis) == mine[-1:]
    assert finish(lease, batch) == JOBS
    assert not redis.exists(keys.key("batch", "w1"), keys.LEASES)


def test_they_are_one_round_trip(redis, client, lease):
    submit(client, JOBS)
    before = redis.info("stats")["total_reads_processed"]
    claim(lease)
    assert redis.info("stats")["total_reads_processed"] - before <= 2, "one is of the look itself"


@pytest.mark.parametrize("jobs", [1, MOST_CLAIMED - 1, MOST_CLAIMED, MOST_CLAIMED + 1])
def test_what_waits_is_taken_however_little(redis, client, lease, jobs):
    mine = submit(client, jobs)
    assert ids(claim(lease)) == mine
    assert waiting(redis) == []


def test_rows_are_bounded_over_all_calls(redis, client, lease):
    rows = 2 * MOST_CLAIMED + 3
    bounded = Lease(redis, "w1", Settings.load({}, batch_jobs=2 * JOBS, batch_rows=rows))
    submit(client, 2 * JOBS)
    assert len(claim(bounded).jobs) == rows


def test_payloads_are_bounded_over_all_calls(redis, client, lease, monkeypatch):
    submit(client, JOBS)
    job_id = waiting(redis)[0]
    size = len(redis.hget(keys.key("job", job_id), "data"))
    monkeypatch.setattr("worker.queue.lease.MOST_BATCH_BYTES", (MOST_CLAIMED + 5) * size)
    assert len(claim(lease).jobs) == MOST_CLAIMED + 5


def test_the_shortest_timeout_counts_whichever_call_finds_it(redis, client, lease):
    submit(client, MOST_CLAIMED)
    submit_short(redis, client)
    batch = claim(lease)
    assert (len(batch.jobs), batch.timeout_s) == (MOST_CLAIMED + 1, 7)
    assert int(held(redis, "deadline_ms")) == pytest.approx(batch.claimed_us / 1000 + 7000, abs=500)


def test_a_crash_suspect_ends_the_batch_before_it(redis, client, lease):
    mine = submit(client, MOST_CLAIMED + 3)
    redis.hset(keys.key("job", mine[MOST_CLAIMED + 1]), "my_crashes", 1)
    for expected in (mine[: MOST_CLAIMED + 1], [mine[MOST_CLAIMED + 1]], mine[MOST_CLAIMED + 2 :]):
        batch = claim(lease)
        assert ids(batch) == expected
        finish(lease, batch)


class TestAhead:
    def test_is_as_large(self, redis, client, lease):
        mine = submit(client, 2 * JOBS)
        first = claim(lease)
        second = take_ahead(lease, first)
        assert second is not None
        assert ids(second) == mine[JOBS:]
        finish(lease, first)
        assert held(redis, "ids").split() == mine[JOBS:]
        assert finish(lease, second) == JOBS
        assert not redis.exists(keys.key("batch", "w1"), keys.LEASES)

    def test_counts_the_shortest_timeout_from_its_beginning(self, redis, client, lease):
        submit(client, JOBS + MOST_CLAIMED)
        submit_short(redis, client)
        first = claim(lease)
        second = take_ahead(lease, first)
        assert second is not None
        assert second.timeout_s == 7
        assert held(redis, "next_ms") == "7000"
        finish(lease, first)
        seconds, micros = redis.time()
        due_ms = seconds * 1000 + micros / 1000 + 7000
        assert int(held(redis, "deadline_ms")) == pytest.approx(due_ms, abs=500)


class TestBrokenOff:
    def test_what_an_error_left_half_taken_is_given_back_in_order(
        self, redis, client, lease, monkeypatch
    ):
        mine = submit(client, JOBS)
        with monkeypatch.context() as broken:
            broken.setattr("worker.queue.lease._MORE", _more_that_breaks_off(redis))
            with pytest.raises(ResponseError, match="of the test"):
                lease.claim([QUEUE])
            assert set(waiting(redis)) < set(mine)
        assert drained(lease) == mine

    def test_so_it_is_when_taken_ahead(self, redis, client, lease, monkeypatch):
        mine = submit(client, 2 * JOBS)
        first = claim(lease)
        with monkeypatch.context() as broken:
            broken.setattr("worker.queue.lease._MORE", _more_that_breaks_off(redis))
            assert take_ahead(lease, first) is None
        assert finish(lease, first) == JOBS
        assert drained(lease) == mine[JOBS:]

    def test_a_server_that_knows_one_script_only_hands_out_less(self, redis, client, lease):
        mine = submit(client, JOBS)
        redis.script_flush()
        redis.script_load(_CLAIM.source)
        batch = claim(lease)
        assert ids(batch) == mine[:MOST_CLAIMED]
        assert finish(lease, batch) == MOST_CLAIMED
        submit(client, MOST_CLAIMED)
        assert len(claim(lease).jobs) == JOBS, "it was taught the other one"

    def test_a_new_server_is_taught_all(self, redis, client, lease):
        mine = submit(client, JOBS + MOST_CLAIMED)
        redis.script_flush()
        batch = claim(lease)
        assert ids(batch) == mine[:MOST_CLAIMED]
        finish(lease, batch)
        assert ids(claim(lease)) == mine[MOST_CLAIMED:]

    def test_its_worker_died(self, redis, client, lease, settings):
        mine = submit(client, JOBS)
        claim(lease)
        reaped = reap(redis, "w1", "released", settings)
        assert reaped is not None
        assert reaped.given_back == JOBS
        assert waiting(redis) == mine


def test_a_full_redis_hands_out_as_much(redis, client, lease):
    mine = submit(client, JOBS)
    redis.config_set("maxmemory", 1)
    assert ids(claim(lease)) == mine


def _more_that_breaks_off(redis: Redis) -> Script:
    """`more.lua` with an error behind the third job that it writes."""
    script, line = Script("worker", "more"), "    wip[2 * i - 1]"
    assert script.source.count(line) == 1
    script.source = script.source.replace(
        line, "    if i == 3 then error('of the test') end\n" + line
    )
    script.sha = str(redis.script_load(script.source))
    return script
