"""Claim, renew, finish, give back, reap, sweep: what each script promises, on a real Redis."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

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

from producer.client import Client
from tests.helpers.batches import QUEUE, claim, take_ahead, waiting
from tests.helpers.versions import register
from tests.helpers.waiting import wait_until
from worker.queue.lease import _CLAIM, _FINISH, Batch, Lease, Suspended
from worker.queue.outcomes import CHUNK, EndedJob
from worker.queue.recovery import reap, sweep
from yard.broker.lua import Argument
from yard.contract import keys, wire
from yard.contract.values import Failure, JobStatus, Request
from yard.settings import Settings


@pytest.fixture
def settings() -> Settings:
    return Settings.load({}, lease_s=0.5, batch_jobs=8, attempts=3)


def lease_of(redis: Redis, settings: Settings, name: str = "w1") -> Lease:
    return Lease(redis, name, settings)


def submit(client: Client, count: int, **more) -> list[str]:
    return [client.submit("echo", instances=[[float(n)]], **more).id for n in range(count)]


def echo(batch: Batch) -> list[EndedJob]:
    """Endings that give each job its own number back."""
    endings = []
    for job in batch.jobs:
        rows = wire.loads(job.data)[3]["instances"]
        endings.append(EndedJob(job.id, {"predictions": [row[0] for row in rows]}, 60))
    return endings


def lapse(redis: Redis) -> None:
    """Let every lease run out."""
    held: Any = redis.zrange(keys.LEASES, 0, -1)
    redis.zadd(keys.LEASES, dict.fromkeys(held, 1))


def nothing_is_left(redis: Redis) -> bool:
    held = [keys.LEASES, keys.key("queue", QUEUE), keys.key("wip", QUEUE)]
    return not any(redis.exists(key) for key in held) and not list(
        redis.scan_iter("modelyard:batch:*")
    )


class TestClaim:
    def test_takes_the_oldest_jobs_up_to_the_bound_in_order(self, redis, client, settings):
        ids = submit(client, 10)
        batch = claim(lease_of(redis, settings))
        assert [job.id for job in batch.jobs] == ids[:8]
        assert waiting(redis) == ids[8:]
        assert client.get(ids[0]).status is JobStatus.STARTED
        assert client.get(ids[0]).attempts == 1

    def test_stops_before_the_rows_pass_their_bound(self, redis, client):
        bounded = Settings.load({}, batch_rows=5)
        for _ in range(3):
            client.submit("echo", instances=[[1.0], [2.0]])
        assert len(claim(lease_of(redis, bounded)).jobs) == 2

    def test_takes_a_job_that_alone_is_over_the_bound_of_rows(self, redis, client):
        client.submit("echo", instances=[[1.0]] * 9)
        assert len(claim(lease_of(redis, Settings.load({}, batch_rows=5))).jobs) == 1

    def test_two_workers_at_once_never_get_the_same_job(self, redis, client, settings, redis_url):
        ids = submit(client, 60)
        got: list[list[str]] = [[], []]

        def drain(place: int) -> None:
            with Redis.from_url(redis_url) as own:
                lease = lease_of(own, settings, f"w{place}")
                while isinstance(batch := lease.claim([QUEUE]), Batch):
                    got[place] += [job.id for job in batch.jobs]
                    lease.finish(batch, echo(batch))

        threads = [threading.Thread(target=drain, args=(place,)) for place in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got[0] + got[1]) == sorted(ids)

    def test_an_id_that_was_pushed_several_times_runs_once(self, redis, client, settings):
        (job_id,) = submit(client, 1)
        redis.rpush(keys.key("queue", QUEUE), job_id, job_id, job_id)
        batch = claim(lease_of(redis, settings))
        assert [job.id for job in batch.jobs] == [job_id]
        lease = lease_of(redis, settings)
        lease.finish(batch, echo(batch))
        redis.rpush(keys.key("queue", QUEUE), job_id)
        assert lease.claim([QUEUE]) == 1, "the entry is passed over"
        assert client.get(job_id)["predictions"] == [0.0]
        assert redis.xlen(keys.key("results", job_id)) == 1

    def test_nothing_is_claimed_while_workers_are_suspended(self, redis, client, settings):
        submit(client, 1)
        lease = lease_of(redis, settings)
        suspend(redis)
        with pytest.raises(Suspended):
            lease.claim([QUEUE])
        resume(redis)
        assert claim(lease).jobs

    def test_an_unanswered_claim_is_given_back_by_the_next_one(self, redis, client, settings):
        ids = submit(client, 3)
        lease = lease_of(redis, settings)
        claim(lease)  # its reply was lost, say
        again = claim(lease)
        assert [job.id for job in again.jobs] == ids
        assert [job.attempt for job in again.jobs] == [1, 1, 1], "a lost reply is no attempt"

    def test_a_call_that_comes_after_the_worker_has_tried_again_does_nothing(
        self, redis, client, settings, monkeypatch
    ):
        lease = lease_of(redis, settings)
        late: list[list[Argument]] = []

        def lose(_redis: Redis, arguments: list[Argument]) -> None:
            late.append(arguments)
            raise RedisConnectionError

        with monkeypatch.context() as patched:
            patched.setattr("worker.queue.lease._CLAIM", lose)
            with pytest.raises(RedisConnectionError):
                lease.claim([QUEUE])
        assert lease.claim([QUEUE]) == 0, "nothing waits, and yet it is known as the later one"
        ids = submit(client, 2)
        assert _CLAIM(redis, late[0]) == [b"idle", 0]
        assert waiting(redis) == ids

    def test_a_batch_that_cannot_be_given_back_is_set_aside_until_it_can(
        self, redis, client, settings
    ):
        register(redis, "other")
        ids = submit(client, 2)
        lease = lease_of(redis, settings)
        claim(lease)  # and the reply is lost
        redis.set(keys.key("queue", QUEUE), "not a list")
        handle = client.submit("other", instances=[[1.0]])
        other = claim(lease, QUEUE, "other@v1")
        assert [job.id for job in other.jobs] == [handle.id]
        assert lease.finish(other, echo(other)) == 1
        redis.delete(keys.key("queue", QUEUE))
        lapse(redis)
        wait_until(lambda: sweep(redis, settings)[1])
        assert waiting(redis) == ids
        assert {client.get(job_id).attempts for job_id in ids} == {0}
        again = claim(lease)
        assert [(job.id, job.crashes) for job in again.jobs] == [(job_id, 0) for job_id in ids]
        lease.finish(again, echo(again))
        assert nothing_is_left(redis)

    def test_a_job_past_its_deadline_is_flawed(self, redis, client, settings):
        (job_id,) = submit(client, 1, deadline_ms=1)
        due = int(redis.hget(keys.key("job", job_id), "my_deadline"))
        wait_until(lambda: redis.time()[0] * 10**6 + redis.time()[1] > due)
        (job,) = claim(lease_of(redis, settings)).jobs
        assert (job.flaw, job.data) == ("expired", b"")

    @pytest.mark.parametrize(
        "entry", [b"bad id!", b"../../x", b"", b"\xff\xfe", b"a:b:c", b"x" * 10**6, b"missing"]
    )
    def test_an_entry_that_is_no_job_is_set_aside_and_the_rest_runs(
        self, redis, client, settings, entry
    ):
        redis.rpush(keys.key("queue", QUEUE), entry)
        ids = submit(client, 1)
        assert [job.id for job in claim(lease_of(redis, settings)).jobs] == ids
        aside = wire.loads(redis.lindex(keys.QUARANTINE, 0))
        assert aside["queue"] == QUEUE
        assert aside["reason"] in ("not a job id", "no such job")
        assert redis.hget(keys.METRICS, "jobs_quarantined_total") == b"1"

    def test_the_quarantine_is_bounded(self, redis, client, settings):
        redis.rpush(keys.key("queue", QUEUE), *[f"no job {n}" for n in range(1200)])
        lease = lease_of(redis, Settings.load({}, batch_jobs=128))
        while lease.claim([QUEUE]):
            pass
        assert redis.llen(keys.QUARANTINE) == keys.QUARANTINE_LENGTH

    def test_a_queue_of_another_type_does_not_keep_others_from_being_served(
        self, redis, client, settings
    ):
        ids = submit(client, 1)
        redis.set(keys.key("queue", "echo@v0"), "not a list", ex=60)
        batch = claim(lease_of(redis, settings), "echo@v0", QUEUE)
        assert [job.id for job in batch.jobs] == ids


class TestFinish:
    def test_writes_what_rq_reads(self, redis, client, settings):
        (job_id,) = submit(client, 1)
        lease = lease_of(redis, settings)
        batch = claim(lease)
        started = StartedJobRegistry(connection=redis, name=QUEUE)
        assert job_id in started.get_job_ids()
        lease.finish(batch, echo(batch))
        job = RqJob.fetch(job_id, connection=redis, serializer=JSONSerializer)
        assert job.get_status() == "finished"
        assert job.return_value() == {"predictions": [0.0]}
        assert job_id in FinishedJobRegistry(connection=redis, name=QUEUE)
        assert Queue(QUEUE, connection=redis, serializer=JSONSerializer).count == 0
        assert nothing_is_left(redis)

    def test_a_failure_is_a_failed_job_of_rq_too(self, redis, client, settings):
        (job_id,) = submit(client, 1)
        lease = lease_of(redis, settings)
        batch = claim(lease)
        lease.finish(batch, [EndedJob(job_id, Failure("predict_failed", "no", 3), 60)])
        rq_job = RqJob.fetch(job_id, connection=redis, serializer=JSONSerializer)
        result = rq_job.latest_result()
        assert result is not None
        assert result.exc_string == "predict_failed: no"
        assert job_id in FailedJobRegistry(connection=redis, name=QUEUE)
        assert client.get(job_id).error == Failure("predict_failed", "no", 3)

    def test_repeated_after_a_lost_reply_it_writes_nothing_twice(self, redis, client, settings):
        (job_id,) = submit(client, 1)
        lease = lease_of(redis, settings)
        batch = claim(lease)
        measures = [("batch_size_count|model=echo|model_version=v1", 1.0)]
        assert lease.finish(batch, echo(batch), {}, measures) == 1
        assert lease.finish(batch, echo(batch), {}, measures) == 0
        assert redis.xlen(keys.key("results", job_id)) == 1
        assert redis.hget(keys.METRICS, measures[0][0]) == b"1"

    def test_a_batch_larger_than_a_chunk_is_ended_whole(self, redis, client):
        wide = Settings.load({}, batch_jobs=128)
        client.submit_many(Request("echo", [[1.0]]) for _ in range(100))
        lease = lease_of(redis, wide)
        batch = claim(lease)
        assert lease.finish(batch, echo(batch)) == 100
        assert nothing_is_left(redis)

    def test_a_call_does_nothing_where_the_one_before_it_was_not_carried_out(self, redis, client):
        wide = Settings.load({}, batch_jobs=2 * CHUNK + 1)
        handles = client.submit_many(Request("echo", [[1.0]]) for _ in range(wide.batch_jobs))
        lease = lease_of(redis, wide)
        batch = claim(lease)
        ended = lease.ended(batch, echo(batch))
        assert [_FINISH(redis, call) for call in ended.calls[1:]] == [-1, -1]
        assert _FINISH(redis, ended.calls[0]) == CHUNK
        assert _FINISH(redis, ended.calls[2]) == -1, "the one between is missing"
        reaped = reap(redis, "w1", "died", wide)
        assert reaped is not None
        assert reaped.given_back == CHUNK + 1, "nothing was lost by then"
        assert lease.write(ended) == 0, "what the others have now is theirs"
        states = Counter(client.get(handle.id).status.value for handle in handles)
        assert states == {"finished": CHUNK, "queued": CHUNK + 1}

    def test_a_server_that_knows_how_to_claim_knows_how_to_finish(self, redis, settings):
        redis.script_flush()
        lease_of(redis, settings).claim([QUEUE])
        assert redis.script_exists(_CLAIM.sha, _FINISH.sha) == [True, True]

    def test_a_refused_call_is_known_to_the_one_who_sent_all(self, redis, client):
        wide = Settings.load({}, batch_jobs=CHUNK + 1)
        client.submit_many(Request("echo", [[1.0]]) for _ in range(wide.batch_jobs))
        lease = lease_of(redis, wide)
        batch = claim(lease)
        ended = lease.ended(batch, echo(batch))
        line = lease.pipeline()
        lease.send(line, ended._replace(calls=ended.calls[1:]), "", [], "")
        assert lease.receive(line, "") == (None, None)
        lease.send(line, ended, "", [], "")
        assert lease.receive(line, "") == (CHUNK + 1, None)
        line.close()
        assert nothing_is_left(redis)

    def test_what_rq_has_canceled_meanwhile_stays_canceled(self, redis, client, settings):
        ids = submit(client, 2)
        lease = lease_of(redis, settings)
        batch = claim(lease)
        RqJob.fetch(ids[0], connection=redis, serializer=JSONSerializer).cancel()
        assert lease.finish(batch, echo(batch)) == 1
        assert [client.get(job_id).status.value for job_id in ids] == ["canceled", "finished"]
        assert client.get(ids[0]).ended_at is not None
        assert redis.xlen(keys.key("results", ids[0])) == 1
        assert ids[0] in CanceledJobRegistry(connection=redis, name=QUEUE)
        assert 0 < redis.ttl(keys.key("job", ids[0])) <= 60
        assert nothing_is_left(redis)

    def test_a_batch_counts_whose_last_jobs_were_canceled(self, redis, client, settings):
        wide = Settings.load({}, batch_jobs=CHUNK + 1)
        handles = client.submit_many(Request("echo", [[1.0]]) for _ in range(wide.batch_jobs))
        lease = lease_of(redis, wide)
        batch = claim(lease)
        client.cancel(handles[-1].id)
        assert lease.finish(batch, echo(batch), {}, [("batch_size_count", 1.0)]) == CHUNK
        assert redis.hget(keys.METRICS, "batch_size_count") == b"1"
        assert redis.hget(keys.key("worker", "w1"), "successful_job_count") == b"%d" % CHUNK

    def test_large_results_are_ended_in_several_calls(self, redis, client, settings):
        submit(client, 8)
        lease = lease_of(redis, settings)
        batch = claim(lease)
        large = {"predictions": ["x" * 500_000]}
        ended = lease.ended(batch, [EndedJob(job.id, large, 60) for job in batch.jobs])
        assert len(ended.calls) == 8, "a call of more than a MiB would hold Redis for long"
        assert lease.write(ended) == 8
        assert nothing_is_left(redis)

    def test_both_expire(self, redis, client, settings):
        (job_id,) = submit(client, 1)
        lease = lease_of(redis, settings)
        batch = claim(lease)
        lease.finish(batch, echo(batch))
        for family in ("job", "results"):
            assert 0 < redis.ttl(keys.key(family, job_id)) <= 60


class TestLease:
    def test_a_zombie_writes_nothing_and_keeps_nothing(self, redis, client, settings):
        """It sleeps past its lease, another worker ends the jobs, it wakes up."""
        ids = submit(client, 3)
        zombie, heir = lease_of(redis, settings, "w1"), lease_of(redis, settings, "w2")
        late = claim(zombie)
        wait_until(lambda: sweep(redis, settings)[1])
        for _ in ids:  # after a crash they run alone
            batch = claim(heir)
            assert len(batch.jobs) == 1
            heir.finish(batch, echo(batch))
        assert not zombie.renew(late.token)
        wrong = [EndedJob(job_id, {"predictions": [-1.0]}, 60) for job_id in ids]
        assert zombie.finish(late, wrong) == 0
        assert [client.get(job_id)["predictions"] for job_id in ids] == [[0.0], [1.0], [2.0]]

    def test_renewing_keeps_the_batch_beyond_its_lease(self, redis, client, settings):
        submit(client, 1)
        lease = lease_of(redis, settings)
        batch = claim(lease)
        until = redis.time()[0] + 2
        while redis.time()[0] < until:
            assert lease.renew(batch.token)
            assert sweep(redis, settings) == (0, [])
        assert lease.finish(batch, echo(batch)) == 1

    def test_jobs_of_a_dead_worker_come_back_in_order_and_run_alone(self, redis, client, settings):
        ids = submit(client, 4)
        claim(lease_of(redis, settings))
        later = submit(client, 1)
        reaped = reap(redis, "w1", "died", settings)
        assert reaped is not None
        assert (reaped.queue, reaped.given_back, reaped.failed) == (QUEUE, 4, 0)
        assert waiting(redis) == ids + later
        batch = claim(lease_of(redis, settings, "w2"))
        assert [job.id for job in batch.jobs] == ids[:1]
        assert batch.jobs[0].crashes == 1

    def test_a_suspect_behind_others_waits_for_its_own_batch(self, redis, client, settings):
        (suspect,) = submit(client, 1)
        claim(lease_of(redis, settings))
        reap(redis, "w1", "died", settings)
        good = submit(client, 2)
        redis.lrem(keys.key("queue", QUEUE), 1, suspect)
        redis.linsert(keys.key("queue", QUEUE), "AFTER", good[0], suspect)
        lease = lease_of(redis, settings, "w2")
        batches = []
        while isinstance(batch := lease.claim([QUEUE]), Batch):
            lease.finish(batch, echo(batch))
            batches.append([job.id for job in batch.jobs])
        assert batches == [[good[0]], [suspect], [good[1]]]

    def test_a_job_that_crashes_three_workers_fails(self, redis, client, settings):
        (job_id,) = submit(client, 1)
        for crash in range(3):
            claim(lease_of(redis, settings, f"w{crash}"))
            reap(redis, f"w{crash}", "died", settings)
        job = client.get(job_id)
        assert (job.status, job.error and job.error.code) == (JobStatus.FAILED, "worker_crashed")
        assert job.attempts == 3
        assert nothing_is_left(redis)

    def test_a_batch_past_its_deadline_fails_only_the_one_that_was_alone(
        self, redis, client, settings
    ):
        ids = submit(client, 2)
        claim(lease_of(redis, settings))
        reap(redis, "w1", "timeout", settings)
        assert waiting(redis) == ids
        claim(lease_of(redis, settings))
        reap(redis, "w1", "timeout", settings)
        job = client.get(ids[0])
        assert (job.status, job.error and job.error.code) == (JobStatus.FAILED, "timeout")
        assert waiting(redis) == ids[1:]

    def test_who_is_alone_only_because_its_batch_mate_was_canceled_did_not_overrun(
        self, redis, client, settings
    ):
        hanging, mate = submit(client, 2)
        claim(lease_of(redis, settings))
        client.cancel(hanging)
        reap(redis, "w1", "timeout", settings)
        assert client.get(mate).status is JobStatus.QUEUED

    def test_with_a_batch_ahead_it_is_not_known_which_of_the_two_overran(
        self, redis, client, settings
    ):
        single = settings.model_copy(update={"batch_jobs": 1})
        ids = submit(client, 2)
        lease = lease_of(redis, single)
        batch = claim(lease)
        assert take_ahead(lease, batch) is not None
        reap(redis, "w1", "timeout", single)
        assert waiting(redis) == ids
        claim(lease)  # a suspect, which has none ahead
        reap(redis, "w1", "timeout", single)
        assert [client.get(job_id).status.value for job_id in ids] == ["failed", "queued"]

    def test_released_jobs_go_back_as_if_never_claimed(self, redis, client, settings):
        ids = submit(client, 3)
        lease = lease_of(redis, settings)
        claim(lease)
        lease.release()
        assert waiting(redis) == ids
        batch = claim(lease)
        assert [(job.attempt, job.crashes) for job in batch.jobs] == [(1, 0)] * 3

    def test_a_canceled_member_is_dropped_and_the_others_finish(self, redis, client, settings):
        ids = submit(client, 3)
        lease = lease_of(redis, settings)
        batch = claim(lease)
        client.cancel(ids[1])
        assert lease.finish(batch, echo(batch)) == 2
        statuses = [client.get(job_id).status.value for job_id in ids]
        assert statuses == ["finished", "canceled", "finished"]
        assert redis.xlen(keys.key("results", ids[1])) == 1
        assert nothing_is_left(redis)

    def test_a_canceled_member_does_not_come_back_when_its_worker_dies(
        self, redis, client, settings
    ):
        ids = submit(client, 2)
        claim(lease_of(redis, settings))
        client.cancel(ids[0])
        reap(redis, "w1", "died", settings)
        assert waiting(redis) == ids[1:]

    def test_queued_jobs_past_their_deadline_expire_without_a_worker(self, redis, client, settings):
        (job_id,) = submit(client, 1, deadline_ms=1)
        wait_until(lambda: sweep(redis, settings)[0] == 1)
        job = client.get(job_id)
        assert (job.status, job.error and job.error.code) == (JobStatus.FAILED, "expired")
        assert waiting(redis) == []


class TestFrontDoor:
    def test_a_job_pushed_to_the_model_goes_where_the_keys_say_now(self, redis, client, settings):
        register(redis, version="v2", active=False)
        job = Queue("echo", connection=redis, serializer=JSONSerializer).enqueue(
            "worker.tasks.predict", instances=[[7.0]], result_ttl=60, failure_ttl=60
        )
        redis.set(keys.key("active", "echo"), "v2")
        lease = lease_of(redis, settings)
        batch = claim(lease, "echo")
        assert lease.forward(batch, "echo", [(job.id, "", 0.5, 1)]) == {}
        lease.finish(batch, [])
        assert "echo@v2" in [queue.name for queue in Queue.all(connection=redis)]
        moved = claim(lease, "echo@v2")
        assert [one.id for one in moved.jobs] == [job.id]
        assert moved.jobs[0].attempt == 1
        lease.finish(moved, [EndedJob(job.id, {"predictions": [7.0]}, 60)])
        assert job.return_value(refresh=True) == {"predictions": [7.0]}

    def test_a_job_that_nothing_is_routed_to_says_why(self, redis, client, settings):
        redis.delete(keys.key("active", "echo"))
        job = Queue("echo", connection=redis, serializer=JSONSerializer).enqueue(
            "worker.tasks.predict", instances=[[7.0]], result_ttl=60, failure_ttl=60
        )
        lease = lease_of(redis, settings)
        batch = claim(lease, "echo")
        problems = lease.forward(batch, "echo", [(job.id, "v9", 0.5, 1)])
        assert problems == {job.id: "unknown_version"}
        lease.finish(batch, [EndedJob(job.id, Failure("unknown_version", ""), 60)])


def test_a_full_redis_still_takes_endings(redis, client, settings):
    """Finishing frees what a claim took, so it must work where submitting does not."""
    ids = submit(client, 8)
    lease = lease_of(redis, settings)
    batch = claim(lease)
    redis.config_set("maxmemory", 1)
    assert lease.finish(batch, echo(batch)) == 8
    redis.config_set("maxmemory", 0)
    assert client.get(ids[7])["predictions"] == [7.0]
