"""Claim, renew, finish, give back, reap, sweep: the promise of each script, on a real Redis."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from rq import Queue
from rq.job import Job as RqJob
from rq.registry import (
    CanceledJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    StartedJobRegistry,
)
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend

from tests.helpers.protocol import QUEUE, Protocol, ids
from tests.helpers.refusals import BAD_ENTRIES
from tests.helpers.versions import register
from tests.helpers.waiting import wait_until
from worker.queue.lease import _CLAIM, _FINISH, Suspended
from worker.queue.outcomes import CHUNK, EndedJob
from yard.broker.lua import ScriptArgument
from yard.contract import keys
from yard.contract.values import Failure, JobStatus
from yard.settings import Settings


@pytest.fixture
def settings() -> Settings:
    return Settings.load({}, lease_s=0.5, batch_jobs=8, attempts=3)


def rq_job(redis: Redis, job_id: str) -> RqJob:
    return RqJob.fetch(job_id, connection=redis, serializer=JSONSerializer)


class TestClaim:
    def test_takes_the_oldest_jobs_up_to_the_bound_in_order(self, client, protocol):
        mine = protocol.submit(10)
        assert ids(protocol.claim()) == mine[:8]
        assert protocol.waiting() == mine[8:]
        assert client.get(mine[0]).status is JobStatus.STARTED
        assert client.get(mine[0]).attempts == 1

    def test_stops_before_the_rows_pass_their_bound(self, protocol):
        protocol.submit(3, instances=[[1.0], [2.0]])
        assert len(protocol.bounded(batch_rows=5).claim().jobs) == 2

    def test_takes_a_job_that_alone_is_over_the_bound_of_rows(self, protocol):
        protocol.submit(instances=[[1.0]] * 9)
        assert len(protocol.bounded(batch_rows=5).claim().jobs) == 1

    def test_two_workers_at_once_never_get_the_same_job(
        self, client, protocol, settings, redis_url
    ):
        mine = protocol.submit(60)
        got: dict[str, list[str]] = {"w0": [], "w1": []}

        def drain(worker: str) -> None:
            with Redis.from_url(redis_url) as own:
                batches = Protocol(own, client, settings).drain(worker)
                got[worker] = [job_id for batch in batches for job_id in batch]

        threads = [threading.Thread(target=drain, args=(worker,)) for worker in got]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got["w0"] + got["w1"]) == sorted(mine)

    def test_an_id_that_was_pushed_several_times_runs_once(self, protocol):
        (job_id,) = protocol.submit()
        protocol.push_entries(job_id, job_id, job_id)
        batch = protocol.claim()
        assert ids(batch) == [job_id]
        protocol.finish(batch)
        protocol.push_entries(job_id)
        assert protocol.look() == 1, "the entry is passed over"
        assert protocol.predictions([job_id]) == [[0.0]]
        assert protocol.results(job_id) == 1

    def test_nothing_is_claimed_while_workers_are_suspended(self, redis, protocol):
        protocol.submit()
        suspend(redis)
        with pytest.raises(Suspended):
            protocol.look()
        resume(redis)
        assert protocol.claim().jobs

    def test_an_unanswered_claim_is_given_back_by_the_next_one(self, protocol):
        mine = protocol.submit(3)
        protocol.claim()  # its reply was lost, say
        again = protocol.claim()
        assert ids(again) == mine
        assert [job.attempt for job in again.jobs] == [1, 1, 1], "a lost reply is no attempt"

    def test_a_call_that_comes_after_the_worker_has_tried_again_does_nothing(
        self, redis, protocol, monkeypatch
    ):
        late: list[list[ScriptArgument]] = []

        def lose(_redis: Redis, arguments: list[ScriptArgument]) -> None:
            late.append(arguments)
            raise RedisConnectionError

        with monkeypatch.context() as patched:
            patched.setattr("worker.queue.lease._CLAIM", lose)
            with pytest.raises(RedisConnectionError):
                protocol.look()
        assert protocol.look() == 0, "nothing waits, and yet it is known as the later one"
        mine = protocol.submit(2)
        assert _CLAIM(redis, late[0]) == [b"idle", 0]
        assert protocol.waiting() == mine

    def test_a_batch_that_cannot_be_given_back_is_set_aside_until_it_can(
        self, redis, client, protocol
    ):
        register(redis, "other")
        mine = protocol.submit(2)
        protocol.claim()  # and the reply is lost
        redis.set(keys.key("queue", QUEUE), "not a list")
        handle = client.submit("other", instances=[[1.0]])
        other = protocol.claim(QUEUE, "other@v1")
        assert ids(other) == [handle.id]
        assert protocol.finish(other) == 1
        redis.delete(keys.key("queue", QUEUE))
        protocol.lapse()
        protocol.swept()
        assert protocol.waiting() == mine
        assert set(protocol.attempts(mine)) == {0}
        again = protocol.claim()
        assert [(job.id, job.crashes) for job in again.jobs] == [(job_id, 0) for job_id in mine]
        protocol.finish(again)
        assert protocol.is_empty()

    def test_a_job_past_its_deadline_is_flawed(self, protocol):
        (job_id,) = protocol.submit(deadline_ms=1)
        due_us = int(protocol.field(job_id, "my_deadline"))
        wait_until(lambda: protocol.now_us() > due_us)
        (job,) = protocol.claim().jobs
        assert (job.flaw, job.data) == ("expired", b"")

    @pytest.mark.parametrize(("entry", "reason"), BAD_ENTRIES.values(), ids=BAD_ENTRIES)
    def test_an_entry_that_is_no_job_is_set_aside_and_the_rest_runs(
        self, redis, protocol, entry, reason
    ):
        protocol.push_entries(entry)
        mine = protocol.submit()
        assert ids(protocol.claim()) == mine
        (aside,) = protocol.quarantined()
        assert (aside["queue"], aside["reason"]) == (QUEUE, reason)
        assert redis.hget(keys.METRICS, "jobs_quarantined_total") == b"1"

    def test_the_quarantine_is_bounded(self, redis, protocol):
        protocol.push_entries(*[f"no job {n}" for n in range(1200)])
        wide = protocol.bounded(batch_jobs=128)
        while wide.look():
            pass
        assert redis.llen(keys.QUARANTINE) == keys.QUARANTINE_LENGTH

    def test_a_queue_of_another_type_does_not_keep_others_from_being_served(self, redis, protocol):
        mine = protocol.submit()
        redis.set(keys.key("queue", "echo@v0"), "not a list", ex=60)
        assert ids(protocol.claim("echo@v0", QUEUE)) == mine


class TestFinish:
    def test_writes_what_rq_reads(self, redis, protocol):
        (job_id,) = protocol.submit()
        batch = protocol.claim()
        started = StartedJobRegistry(connection=redis, name=QUEUE)
        assert job_id in started.get_job_ids()
        protocol.finish(batch)
        job = rq_job(redis, job_id)
        assert job.get_status() == "finished"
        assert job.return_value() == {"predictions": [0.0]}
        assert job_id in FinishedJobRegistry(connection=redis, name=QUEUE)
        assert Queue(QUEUE, connection=redis, serializer=JSONSerializer).count == 0
        assert protocol.is_empty()

    def test_a_failure_is_a_failed_job_of_rq_too(self, redis, client, protocol):
        (job_id,) = protocol.submit()
        failure = Failure("predict_failed", "no", 3)
        protocol.finish(protocol.claim(), [EndedJob(job_id, failure, 60)])
        result = rq_job(redis, job_id).latest_result()
        assert result is not None
        assert result.exc_string == "predict_failed: no"
        assert job_id in FailedJobRegistry(connection=redis, name=QUEUE)
        assert client.get(job_id).error == failure

    def test_repeated_after_a_lost_reply_it_writes_nothing_twice(self, redis, protocol):
        (job_id,) = protocol.submit()
        batch = protocol.claim()
        measures = [("batch_size_count|model=echo|model_version=v1", 1.0)]
        assert protocol.finish(batch, measures=measures) == 1
        assert protocol.finish(batch, measures=measures) == 0
        assert protocol.results(job_id) == 1
        assert redis.hget(keys.METRICS, measures[0][0]) == b"1"

    def test_a_batch_larger_than_a_chunk_is_ended_whole(self, protocol):
        protocol.submit_at_once(100)
        wide = protocol.bounded(batch_jobs=128)
        assert wide.finish(wide.claim()) == 100
        assert protocol.is_empty()

    def test_a_call_does_nothing_where_the_one_before_it_was_not_carried_out(self, redis, protocol):
        wide = protocol.bounded(batch_jobs=2 * CHUNK + 1)
        mine = wide.submit_at_once(2 * CHUNK + 1)
        ended = wide.ended(wide.claim())
        assert [_FINISH(redis, call) for call in ended.calls[1:]] == [-1, -1]
        assert _FINISH(redis, ended.calls[0]) == CHUNK
        assert _FINISH(redis, ended.calls[2]) == -1, "the one between is missing"
        assert wide.reaped().given_back == CHUNK + 1, "nothing was lost by then"
        assert wide.lease().write(ended) == 0, "what the others have now is theirs"
        states = Counter(wide.statuses(mine))
        assert states == {"finished": CHUNK, "queued": CHUNK + 1}

    def test_a_server_that_knows_how_to_claim_knows_how_to_finish(self, redis, protocol):
        redis.script_flush()
        protocol.look()
        assert redis.script_exists(_CLAIM.sha, _FINISH.sha) == [True, True]

    def test_a_refused_call_is_known_to_the_one_who_sent_all(self, protocol):
        wide = protocol.bounded(batch_jobs=CHUNK + 1)
        wide.submit_at_once(CHUNK + 1)
        ended, lease = wide.ended(wide.claim()), wide.lease()
        line = lease.pipeline()
        lease.send(line, ended._replace(calls=ended.calls[1:]), "", [], "")
        assert lease.receive(line, "") == (None, None)
        lease.send(line, ended, "", [], "")
        assert lease.receive(line, "") == (CHUNK + 1, None)
        line.close()
        assert protocol.is_empty()

    def test_what_rq_has_canceled_meanwhile_stays_canceled(self, redis, client, protocol):
        mine = protocol.submit(2)
        batch = protocol.claim()
        rq_job(redis, mine[0]).cancel()
        assert protocol.finish(batch) == 1
        assert protocol.statuses(mine) == ["canceled", "finished"]
        assert client.get(mine[0]).ended_at is not None
        assert protocol.results(mine[0]) == 1
        assert mine[0] in CanceledJobRegistry(connection=redis, name=QUEUE)
        assert 0 < redis.ttl(keys.key("job", mine[0])) <= 60
        assert protocol.is_empty()

    def test_a_batch_counts_whose_last_jobs_were_canceled(self, redis, client, protocol):
        wide = protocol.bounded(batch_jobs=CHUNK + 1)
        mine = wide.submit_at_once(CHUNK + 1)
        batch = wide.claim()
        client.cancel(mine[-1])
        assert wide.finish(batch, measures=[("batch_size_count", 1.0)]) == CHUNK
        assert redis.hget(keys.METRICS, "batch_size_count") == b"1"
        assert redis.hget(keys.key("worker", "w1"), "successful_job_count") == b"%d" % CHUNK

    def test_large_results_are_ended_in_several_calls(self, protocol):
        protocol.submit(8)
        batch = protocol.claim()
        large = {"predictions": ["x" * 500_000]}
        ended = protocol.ended(batch, [EndedJob(job.id, large, 60) for job in batch.jobs])
        assert len(ended.calls) == 8, "a call of more than a MiB would hold Redis for long"
        assert protocol.lease().write(ended) == 8
        assert protocol.is_empty()

    def test_both_expire(self, redis, protocol):
        (job_id,) = protocol.submit()
        protocol.finish(protocol.claim())
        for family in ("job", "results"):
            assert 0 < redis.ttl(keys.key(family, job_id)) <= 60


class TestLease:
    def test_a_zombie_writes_nothing_and_keeps_nothing(self, protocol):
        """It sleeps past its lease, another worker ends the jobs, it wakes up."""
        mine = protocol.submit(3)
        late = protocol.claim(worker="zombie")
        protocol.swept()
        for _ in mine:  # after a crash they run alone
            batch = protocol.claim(worker="heir")
            assert len(batch.jobs) == 1
            protocol.finish(batch)
        assert not protocol.renew(late)
        wrong = [EndedJob(job_id, {"predictions": [-1.0]}, 60) for job_id in mine]
        assert protocol.finish(late, wrong) == 0
        assert protocol.predictions(mine) == [[0.0], [1.0], [2.0]]

    def test_renewing_keeps_the_batch_beyond_its_lease(self, redis, protocol):
        protocol.submit()
        batch = protocol.claim()
        until_us = protocol.now_us() + 1_500_000  # three leases
        while protocol.now_us() < until_us:
            assert protocol.renew(batch)
            assert protocol.sweep() == (0, [])
        assert protocol.finish(batch) == 1

    def test_jobs_of_a_dead_worker_come_back_in_order_and_run_alone(self, protocol):
        mine = protocol.submit(4)
        protocol.claim()
        later = protocol.submit()
        reaped = protocol.reaped()
        assert (reaped.queue, reaped.given_back, reaped.failed) == (QUEUE, 4, 0)
        assert protocol.waiting() == mine + later
        batch = protocol.claim(worker="w2")
        assert ids(batch) == mine[:1]
        assert batch.jobs[0].crashes == 1

    def test_a_suspect_behind_others_waits_for_its_own_batch(self, redis, protocol):
        (suspect,) = protocol.submit()
        protocol.claim()
        protocol.reap()
        good = protocol.submit(2)
        redis.lrem(keys.key("queue", QUEUE), 1, suspect)
        redis.linsert(keys.key("queue", QUEUE), "AFTER", good[0], suspect)
        assert protocol.drain("w2") == [[good[0]], [suspect], [good[1]]]

    def test_a_job_that_crashes_three_workers_fails(self, client, protocol):
        (job_id,) = protocol.submit()
        for worker in ("w0", "w1", "w2"):
            protocol.claim(worker=worker)
            protocol.reap(worker)
        assert protocol.outcome(job_id) == ("failed", "worker_crashed")
        assert client.get(job_id).attempts == 3
        assert protocol.is_empty()

    def test_a_batch_past_its_deadline_fails_only_the_one_that_was_alone(self, protocol):
        mine = protocol.submit(2)
        protocol.claim()
        protocol.reap(why="timeout")
        assert protocol.waiting() == mine
        protocol.claim()
        protocol.reap(why="timeout")
        assert protocol.outcome(mine[0]) == ("failed", "timeout")
        assert protocol.waiting() == mine[1:]

    def test_who_is_alone_only_because_its_batch_mate_was_canceled_did_not_overrun(
        self, client, protocol
    ):
        hanging, mate = protocol.submit(2)
        protocol.claim()
        client.cancel(hanging)
        protocol.reap(why="timeout")
        assert client.get(mate).status is JobStatus.QUEUED

    def test_with_a_batch_ahead_it_is_not_known_which_of_the_two_overran(self, protocol):
        single = protocol.bounded(batch_jobs=1)
        mine = single.submit(2)
        assert single.take_ahead(single.claim()) is not None
        single.reap(why="timeout")
        assert single.waiting() == mine
        single.claim()  # a suspect, which has none ahead
        single.reap(why="timeout")
        assert single.statuses(mine) == ["failed", "queued"]

    def test_released_jobs_go_back_as_if_never_claimed(self, protocol):
        mine = protocol.submit(3)
        protocol.claim()
        protocol.lease().release()
        assert protocol.waiting() == mine
        batch = protocol.claim()
        assert [(job.attempt, job.crashes) for job in batch.jobs] == [(1, 0)] * 3

    def test_a_canceled_member_is_dropped_and_the_others_finish(self, client, protocol):
        mine = protocol.submit(3)
        batch = protocol.claim()
        client.cancel(mine[1])
        assert protocol.finish(batch) == 2
        assert protocol.statuses(mine) == ["finished", "canceled", "finished"]
        assert protocol.results(mine[1]) == 1
        assert protocol.is_empty()

    def test_a_canceled_member_does_not_come_back_when_its_worker_dies(self, client, protocol):
        mine = protocol.submit(2)
        protocol.claim()
        client.cancel(mine[0])
        protocol.reap()
        assert protocol.waiting() == mine[1:]

    def test_queued_jobs_past_their_deadline_expire_without_a_worker(self, protocol):
        (job_id,) = protocol.submit(deadline_ms=1)
        wait_until(lambda: protocol.sweep()[0] == 1)
        assert protocol.outcome(job_id) == ("failed", "expired")
        assert protocol.waiting() == []


class TestUnversionedQueue:
    def test_a_job_pushed_to_the_model_goes_where_the_keys_say_now(self, redis, protocol):
        register(redis, version="v2", active=False)
        job = protocol.enqueue()
        redis.set(keys.key("active", "echo"), "v2")
        batch = protocol.claim("echo")
        assert protocol.lease().forward(batch, "echo", [(job.id, "", 0.5, 1, "")]) == {}
        protocol.finish(batch, [])
        assert "echo@v2" in [queue.name for queue in Queue.all(connection=redis)]
        moved = protocol.claim("echo@v2")
        assert ids(moved) == [job.id]
        assert moved.jobs[0].attempt == 1
        protocol.finish(moved)
        assert job.return_value(refresh=True) == {"predictions": [7.0]}

    def test_a_job_that_nothing_is_routed_to_says_why(self, redis, protocol):
        redis.delete(keys.key("active", "echo"))
        job = protocol.enqueue()
        batch = protocol.claim("echo")
        problems = protocol.lease().forward(batch, "echo", [(job.id, "v9", 0.5, 1, "")])
        assert problems == {job.id: "unknown_version"}
        protocol.finish(batch, [EndedJob(job.id, Failure("unknown_version", ""), 60)])

    def test_rqs_tools_can_list_the_queues_after_such_a_job(self, redis, protocol):
        job = protocol.enqueue()
        redis.delete(keys.QUEUES)
        batch = protocol.claim("echo")
        protocol.lease().forward(batch, "echo", [(job.id, "", 0.5, 1, "")])
        assert QUEUE in [queue.name for queue in Queue.all(connection=redis)]


def test_a_full_redis_still_takes_endings(redis, protocol):
    """Finishing frees what a claim took, so it must work where submitting does not."""
    mine = protocol.submit(8)
    batch = protocol.claim()
    redis.config_set("maxmemory", 1)
    assert protocol.finish(batch) == 8
    redis.config_set("maxmemory", 0)
    assert protocol.predictions(mine[7:]) == [[7.0]]


class TestJobsThatAreEnqueuedAgain:
    """By plain RQ, under the id of a job that has ended: a run of its own."""

    def test_each_run_has_its_own_attempts_and_ten_results_are_kept(self, redis, protocol):
        for _ in range(15):
            protocol.enqueue(QUEUE, job_id="again")
            batch = protocol.claim()
            assert [(job.attempt, job.crashes) for job in batch.jobs] == [(1, 0)]
            assert redis.ttl(keys.key("job", "again")) == -1, "no time to live of the run before"
            assert protocol.finish(batch) == 1
        assert protocol.attempts(["again"]) == [1]
        assert protocol.results("again") == 10

    def test_crashes_of_the_run_before_do_not_count(self, protocol):
        protocol.enqueue(QUEUE, job_id="again")
        for _ in range(protocol.settings.attempts):
            protocol.claim()
            protocol.reaped()
        assert protocol.outcome("again") == ("failed", "worker_crashed")
        protocol.enqueue(QUEUE, job_id="again")
        protocol.push("other")
        batch = protocol.claim()
        assert ids(batch) == ["again", "other"], "it is no suspect, and not run alone"
        assert protocol.finish(batch) == 2
        assert protocol.outcome("again") == ("finished", "")

    def test_a_job_that_has_expired_does_not_expire_again_when_requeued(self, redis, protocol):
        (job_id,) = protocol.submit(deadline_ms=60_000)
        redis.hset(keys.key("job", job_id), "my_deadline", 1)
        redis.zadd(keys.DEADLINES, {job_id: 1}, xx=True)
        assert protocol.sweep()[0] == 1
        assert protocol.outcome(job_id) == ("failed", "expired")
        job = RqJob.fetch(job_id, connection=redis, serializer=JSONSerializer)
        job.requeue()
        batch = protocol.claim()
        assert [job.flaw for job in batch.jobs] == [""]
        assert redis.ttl(keys.key("job", job_id)) == -1
        protocol.reaped(why="released")
        assert protocol.sweep()[0] == 0
        protocol.finish(protocol.claim())
        assert protocol.outcome(job_id) == ("finished", "")
