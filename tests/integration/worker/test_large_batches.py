"""Batches that a claim takes in several calls, sent in one go: their bounds, and lost calls."""

from __future__ import annotations

from itertools import chain

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from tests.helpers.protocol import Protocol, ids
from worker.queue.lease import _CLAIM, MOST_CLAIMED
from yard.broker.lua import Script
from yard.contract import keys
from yard.settings import Settings

JOBS = 2 * MOST_CLAIMED


@pytest.fixture
def settings() -> Settings:
    return Settings.load({}, batch_jobs=JOBS)


@pytest.fixture
def protocol(protocol: Protocol) -> Protocol:
    protocol.look()  # from now on the server knows the scripts
    return protocol


def test_all_calls_of_a_claim_take_one_batch(protocol):
    mine = protocol.submit_at_once(JOBS + 1)
    batch = protocol.claim()
    assert ids(batch) == mine[:-1]
    assert protocol.held()["ids"].split() == mine[:-1]
    assert batch.has_more
    assert protocol.waiting() == mine[-1:]
    assert protocol.finish(batch) == JOBS
    assert protocol.is_idle()


def test_they_are_one_round_trip(redis, protocol):
    protocol.submit_at_once(JOBS)
    before = redis.info("stats")["total_reads_processed"]
    protocol.claim()
    assert redis.info("stats")["total_reads_processed"] - before <= 2, "one is of the look itself"


@pytest.mark.parametrize("jobs", [1, MOST_CLAIMED - 1, MOST_CLAIMED, MOST_CLAIMED + 1])
def test_what_waits_is_taken_however_little(protocol, jobs):
    mine = protocol.submit_at_once(jobs)
    assert ids(protocol.claim()) == mine
    assert protocol.waiting() == []


def test_rows_are_bounded_over_all_calls(protocol):
    rows = 2 * MOST_CLAIMED + 3
    protocol.submit_at_once(2 * JOBS)
    assert len(protocol.bounded(batch_jobs=2 * JOBS, batch_rows=rows).claim().jobs) == rows


def test_payloads_are_bounded_over_all_calls(protocol, monkeypatch):
    mine = protocol.submit_at_once(JOBS, instances=[[1.0]])
    size = len(protocol.field(mine[0], "data"))
    monkeypatch.setattr("worker.queue.lease.MOST_BATCH_BYTES", (MOST_CLAIMED + 5) * size)
    assert len(protocol.claim().jobs) == MOST_CLAIMED + 5


def test_the_shortest_timeout_counts_whichever_call_finds_it(protocol):
    protocol.submit_at_once(MOST_CLAIMED)
    protocol.submit(timeout_s=7)
    batch = protocol.claim()
    assert (len(batch.jobs), batch.timeout_s) == (MOST_CLAIMED + 1, 7)
    due_ms = batch.claimed_us / 1000 + 7000
    assert int(protocol.held()["deadline_ms"]) == pytest.approx(due_ms, abs=500)


def test_a_crash_suspect_ends_the_batch_before_it(redis, protocol):
    mine = protocol.submit_at_once(MOST_CLAIMED + 3)
    suspect = MOST_CLAIMED + 1
    redis.hset(keys.key("job", mine[suspect]), "my_crashes", 1)
    assert protocol.drain() == [mine[:suspect], [mine[suspect]], mine[suspect + 1 :]]


class TestAhead:
    def test_is_as_large(self, protocol):
        mine = protocol.submit_at_once(2 * JOBS)
        first = protocol.claim()
        second = protocol.take_ahead(first)
        assert second is not None
        assert ids(second) == mine[JOBS:]
        protocol.finish(first)
        assert protocol.held()["ids"].split() == mine[JOBS:]
        assert protocol.finish(second) == JOBS
        assert protocol.is_idle()

    def test_counts_the_shortest_timeout_from_its_beginning(self, protocol):
        protocol.submit_at_once(JOBS + MOST_CLAIMED)
        protocol.submit(timeout_s=7)
        first = protocol.claim()
        second = protocol.take_ahead(first)
        assert second is not None
        assert second.timeout_s == 7
        assert protocol.held()["next_ms"] == "7000"
        protocol.finish(first)
        due_ms = protocol.now_us() / 1000 + 7000
        assert int(protocol.held()["deadline_ms"]) == pytest.approx(due_ms, abs=500)


class TestBrokenOff:
    def test_what_an_error_left_half_taken_is_given_back_in_order(
        self, redis, protocol, monkeypatch
    ):
        mine = protocol.submit_at_once(JOBS)
        with monkeypatch.context() as broken:
            broken.setattr("worker.queue.lease._MORE", _more_that_breaks_off(redis))
            with pytest.raises(ResponseError, match="of the test"):
                protocol.look()
            assert set(protocol.waiting()) < set(mine)
        assert list(chain(*protocol.drain())) == mine

    def test_so_it_is_when_taken_ahead(self, redis, protocol, monkeypatch):
        mine = protocol.submit_at_once(2 * JOBS)
        first = protocol.claim()
        with monkeypatch.context() as broken:
            broken.setattr("worker.queue.lease._MORE", _more_that_breaks_off(redis))
            assert protocol.take_ahead(first) is None
        assert protocol.finish(first) == JOBS
        assert list(chain(*protocol.drain())) == mine[JOBS:]

    def test_a_server_that_knows_one_script_only_hands_out_less(self, redis, protocol):
        mine = protocol.submit_at_once(JOBS)
        redis.script_flush()
        redis.script_load(_CLAIM.source)
        batch = protocol.claim()
        assert ids(batch) == mine[:MOST_CLAIMED]
        assert protocol.finish(batch) == MOST_CLAIMED
        protocol.submit_at_once(MOST_CLAIMED)
        assert len(protocol.claim().jobs) == JOBS, "it was taught the other one"

    def test_a_new_server_is_taught_all(self, redis, protocol):
        mine = protocol.submit_at_once(JOBS + MOST_CLAIMED)
        redis.script_flush()
        batch = protocol.claim()
        assert ids(batch) == mine[:MOST_CLAIMED]
        protocol.finish(batch)
        assert ids(protocol.claim()) == mine[MOST_CLAIMED:]

    def test_its_worker_died(self, protocol):
        mine = protocol.submit_at_once(JOBS)
        protocol.claim()
        assert protocol.reaped(why="released").given_back == JOBS
        assert protocol.waiting() == mine


def test_a_full_redis_hands_out_as_much(redis, protocol):
    mine = protocol.submit_at_once(JOBS)
    redis.config_set("maxmemory", 1)
    assert ids(protocol.claim()) == mine


def _more_that_breaks_off(redis: Redis) -> Script:
    """`more.lua` with an error behind the third job that it writes."""
    script, line = Script("worker", "more"), "    wip[2 * i - 1]"
    assert script.source.count(line) == 1
    script.source = script.source.replace(
        line, "    if i == 3 then error('of the test') end\n" + line
    )
    script.sha = str(redis.script_load(script.source))
    return script
