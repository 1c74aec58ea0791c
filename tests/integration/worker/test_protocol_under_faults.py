"""Scripts among keys that hold rubbish, calls that come late, and a full Redis.

Each case was found by reading, by the state machine or by the chaos driver, and has lost a job,
ended one twice or stopped a worker before it was mended.
"""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError

from tests.helpers.protocol import QUEUE, ids
from tests.helpers.refusals import BAD_STATUSES
from worker.queue.lease import _CLAIM
from worker.queue.outcomes import EndedJob
from yard.contract import keys
from yard.contract.values import Failure, JobStatus
from yard.errors import Unavailable
from yard.settings import Settings


@pytest.fixture
def settings() -> Settings:
    return Settings.load({}, lease_s=1.0, batch_jobs=8, attempts=3)


class TestKeysOfAnotherType:
    """A script has no way back: an error half way through must not leave a job nowhere."""

    def test_a_started_registry_of_another_type_loses_no_job(self, redis, protocol):
        mine = protocol.submit(3)
        redis.set(keys.key("wip", QUEUE), "not a sorted set", ex=60)
        batch = protocol.claim()
        assert ids(batch) == mine
        assert protocol.finish(batch) == 3

    @pytest.mark.parametrize("family", ["finished", "failed"])
    def test_ended_registries_of_another_type_do_not_keep_jobs_from_ending(
        self, redis, protocol, family
    ):
        good, bad = protocol.submit(2)
        redis.set(keys.key(family, QUEUE), "not a sorted set", ex=60)
        endings = [
            EndedJob(good, {"predictions": [1.0]}, 60),
            EndedJob(bad, Failure("predict_failed", ""), 60),
        ]
        assert protocol.finish(protocol.claim(), endings) == 2
        assert not redis.exists(keys.LEASES)

    def test_a_result_of_another_type_is_replaced_and_batch_mates_end(self, redis, protocol):
        mine = protocol.submit(3)
        redis.set(keys.key("results", mine[1]), "somebody's own")
        assert protocol.finish(protocol.claim()) == 3
        assert protocol.predictions(mine) == [[0.0], [1.0], [2.0]]

    def test_a_result_stream_that_takes_no_more_entries_is_replaced(self, redis, protocol):
        (job_id,) = protocol.submit()
        redis.xadd(keys.key("results", job_id), {"type": "1"}, id=f"{2**64 - 1}-{2**64 - 1}")
        assert protocol.finish(protocol.claim()) == 1
        assert protocol.predictions([job_id]) == [[0.0]]
        assert protocol.results(job_id) == 1

    @pytest.mark.leaks_keys
    def test_measures_that_cannot_be_counted_stop_nothing(self, redis, protocol):
        redis.set(keys.METRICS, "not a hash")
        protocol.push_entries("no job!")
        crashing, _ = protocol.submit(2)
        protocol.claim()
        assert protocol.reaped().given_back == 2
        batch = protocol.claim()
        assert ids(batch) == [crashing]
        assert protocol.finish(batch, measures=[("batch_size_count", 1.0)]) == 1

    @pytest.mark.leaks_keys
    def test_a_quarantine_of_another_type_stops_nothing(self, redis, protocol):
        redis.set(keys.QUARANTINE, "not a list")
        protocol.push_entries("no job!")
        mine = protocol.submit()
        assert ids(protocol.claim()) == mine

    def test_a_bell_of_another_type_is_replaced(self, redis, protocol):
        redis.set(keys.key("bell", QUEUE), "not a list")
        protocol.submit()
        assert redis.lrange(keys.key("bell", QUEUE), 0, -1) == [b"1"]

    def test_a_workers_entry_of_another_type_stops_nothing(self, redis, protocol):
        redis.set(keys.key("worker", "w1"), "not a hash", ex=60)
        mine = protocol.submit()
        batch = protocol.claim()
        assert ids(batch) == mine
        assert protocol.finish(batch) == 1

    def test_jobs_whose_queue_was_overwritten_come_back_when_it_is_mended(self, redis, protocol):
        mine = protocol.submit(2)
        protocol.claim()
        redis.set(keys.key("queue", QUEUE), "not a list")
        assert protocol.reap() is not None
        assert protocol.statuses(mine) == ["started"] * 2
        redis.delete(keys.key("queue", QUEUE))
        protocol.lapse()
        protocol.swept()
        assert protocol.waiting() == mine

    def test_a_batch_that_cannot_be_read_does_not_keep_others_from_coming_back(
        self, redis, protocol
    ):
        mine = protocol.submit(2)
        protocol.claim(worker="w1")
        redis.set(keys.key("batch", "w0"), "not a hash", ex=60)
        protocol.lapse("w0", "w1")
        assert protocol.swept()
        assert protocol.waiting() == mine

    def test_canceling_works_where_registries_are_of_another_type(self, redis, client, protocol):
        (job_id,) = protocol.submit()
        redis.set(keys.key("queue", QUEUE), "not a list", ex=60)
        redis.set(keys.key("canceled", QUEUE), "not a sorted set", ex=60)
        assert client.cancel(job_id).status is JobStatus.CANCELED


class TestFieldsThatHoldRubbish:
    @pytest.mark.parametrize("field", ["my_attempts", "my_crashes"])
    @pytest.mark.parametrize(
        "value", ["x", "nan", "inf", "-7", "1e300", "0x10", b"\xff", "9" * 400]
    )
    def test_a_count_that_is_none_does_not_keep_the_job_from_coming_back(
        self, protocol, field, value
    ):
        protocol.push("odd", **{field: value})
        assert protocol.claim().jobs[0].attempt == 1
        protocol.reaped()
        assert protocol.waiting() == ["odd"]
        batch = protocol.claim()
        assert (batch.jobs[0].attempt, batch.jobs[0].crashes) == (2, 1)
        assert protocol.finish(batch) == 1

    @pytest.mark.parametrize("rows", ["nan", "-1e9", "x"])
    def test_a_row_count_that_is_none_does_not_lift_the_bound(self, protocol, rows):
        protocol.push("odd", my_rows=rows)
        protocol.submit(2, instances=[[1.0]] * 4)
        assert len(protocol.bounded(batch_rows=5).claim().jobs) == 2

    @pytest.mark.parametrize("deadline", ["x", "nan", "inf", "-inf", b"\xff"])
    def test_a_deadline_that_is_none_does_not_keep_the_job_from_coming_back(
        self, redis, protocol, deadline
    ):
        protocol.push("odd", my_deadline=deadline)
        protocol.claim()
        protocol.lease().release()
        assert redis.type(keys.key("job", "odd")) == b"hash"
        assert protocol.reap() is None

    @pytest.mark.parametrize("status", BAD_STATUSES)
    @pytest.mark.leaks_keys
    def test_a_push_that_says_it_has_ended_or_begun_is_set_aside(self, protocol, status):
        protocol.push("odd", status=status)
        assert protocol.look() == 1
        assert protocol.quarantined()[0]["id"] == "odd"

    def test_an_id_pushed_again_while_it_runs_or_when_it_has_ended_is_no_rubbish(
        self, redis, protocol
    ):
        (job_id,) = protocol.submit()
        batch = protocol.claim()
        protocol.push_entries(job_id)
        assert protocol.look(worker="w2") == 1
        protocol.finish(batch)
        protocol.push_entries(job_id)
        assert protocol.look(worker="w2") == 1
        assert not redis.exists(keys.QUARANTINE)


class TestLateCalls:
    """Redis carries out what is in its buffers although the caller has long given up."""

    def test_a_claim_that_arrives_behind_a_later_one_takes_nothing(
        self, redis, protocol, monkeypatch
    ):
        mine = protocol.submit(2)
        sent: list[Any] = []

        def swallow(_redis: Redis, arguments: Any) -> list[Any]:
            sent.append(arguments)
            return [b"idle", 0]

        with monkeypatch.context() as patch:
            patch.setattr("worker.queue.lease._CLAIM", swallow)
            protocol.look()  # its worker gives up waiting for it
        batch = protocol.claim()
        _CLAIM(redis, sent[0])
        assert protocol.renew(batch), "the batch is still the worker's"
        assert protocol.finish(batch) == 2
        (later,) = protocol.submit()
        _CLAIM(redis, sent[0])
        assert protocol.waiting() == [later]
        assert protocol.attempts(mine) == [1, 1]

    def test_a_claimed_job_does_not_expire_while_it_runs(self, redis, protocol):
        job_id = protocol.enqueue(QUEUE, ttl=60).id
        assert redis.ttl(keys.key("job", job_id)) > 0, "how long it may wait"
        batch = protocol.claim()
        assert redis.ttl(keys.key("job", job_id)) == -1
        protocol.finish(batch)

    def test_a_job_that_vanished_while_it_ran_is_not_brought_back(self, redis, protocol):
        mine = protocol.submit(4)
        batch = protocol.claim()
        redis.delete(*(keys.key("job", job_id) for job_id in mine))
        assert protocol.finish(batch) == 0
        assert not redis.exists(*(keys.key(f, i) for i in mine for f in ("job", "results")))


class TestFullRedis:
    def test_claims_renewals_and_endings_go_on_and_submitting_says_so(
        self, redis, client, protocol
    ):
        mine = protocol.submit(12)
        redis.config_set("maxmemory", 1)
        with pytest.raises(Unavailable):
            protocol.submit()
        first = protocol.claim()
        assert protocol.renew(first)
        assert protocol.finish(first) == 8
        batch = protocol.claim()
        redis.config_set("maxmemory", 0)
        protocol.lapse()
        redis.config_set("maxmemory", 1)
        protocol.swept()
        assert protocol.waiting() == ids(batch)
        client.cancel(mine[-1])
        redis.config_set("maxmemory", 0)
        protocol.submit()

    def test_a_batch_without_endings_is_let_go(self, redis, protocol):
        protocol.submit()
        batch = protocol.claim()
        protocol.reap()
        redis.config_set("maxmemory", 1)
        try:
            assert protocol.finish(batch, []) == 0
        except OutOfMemoryError:
            pytest.fail("the worker would try until there is room")

    def test_a_job_of_the_unversioned_queue_can_be_moved_on(self, redis, protocol):
        job = protocol.enqueue()
        redis.delete(keys.key("route", "echo"))  # it is worked out again, and written
        batch = protocol.claim("echo")
        redis.config_set("maxmemory", 1)
        assert protocol.lease().forward(batch, "echo", [(job.id, "", 0.5, 1, "")]) == {}
        assert protocol.waiting() == [job.id]
