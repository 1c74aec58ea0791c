"""The batch protocol in any order of steps, against a model in plain Python.

Clients push, three workers claim, take ahead, renew, finish all or only the first jobs of a batch,
lose replies, crash and wake up late, pools reap and sweep, jobs are canceled, expire and vanish.
After each step Redis must hold exactly what the model says: each id waits, or is in one batch with
a lease, or has ended once.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from producer.client import Client
from tests.helpers.protocol import Protocol as Driver
from tests.helpers.protocol import call, echo
from tests.helpers.redis_server import RedisServer
from tests.helpers.versions import register
from worker.queue.lease import _CLAIM, _FINISH, _MORE, _SHED, Batch, Claimed
from worker.queue.recovery import Reason, reap, sweep
from yard.broker.lua import ScriptArgument
from yard.contract import keys
from yard.errors import JobEnded, UnknownJob
from yard.settings import Settings

WORKERS = ("w1", "w2", "w3")
VERSIONS = ("v1", "v2")
QUEUES = tuple(f"echo@{version}" for version in VERSIONS)
UNVERSIONED = "echo"
MOST_JOBS = 5
#: Jobs that one call of a claim takes, or of a finish ends, so that a batch takes up to three.
CHUNK = 2
CLAIMS = (2, 2, 1)
MOST_CALLS = 3
MOST_CRASHES = 3
RUBBISH = b"no job!"

#: Runs of 60 steps; `make chaos` asks for more, and for new ones.
EXAMPLES = int(os.environ.get("CHAOS_EXAMPLES", "100"))
STEPS = 60

SETTINGS = Settings.load({}, lease_s=60, batch_jobs=MOST_JOBS, attempts=MOST_CRASHES)


@dataclass(slots=True)
class Job:
    """One job in the model."""

    queue: str
    number: int
    status: str = "queued"
    attempts: int = 0
    crashes: int = 0
    token: str = ""
    is_past_deadline: bool = False
    code: str = ""


@dataclass(slots=True)
class Held:
    """A worker's batch in the model."""

    token: str
    queue: str
    ids: list[str]
    calls: int = 0
    is_open: bool = False
    is_lapsed: bool = False
    following: Held | None = None


@dataclass(slots=True)
class Model:
    """Redis as it should be."""

    jobs: dict[str, Job] = field(default_factory=dict)
    queues: dict[str, list[str]] = field(
        default_factory=lambda: {queue: [] for queue in (*QUEUES, UNVERSIONED)}
    )
    batches: dict[str, Held] = field(default_factory=dict)
    active: str = "v1"
    aside: int = 0

    def push(self, job_id: str, queue: str, number: int) -> None:
        self.jobs[job_id] = Job(queue, number)
        self.queues[queue].append(job_id)

    def claim(self, worker: str, token: str, queues: Sequence[str]) -> list[str]:
        """The ids that the first call takes; empty where the worker finds nothing."""
        if worker in self.batches:
            self.give_back(worker, "released")
        batch = self._batch(token, queues)
        if batch is None:
            return []
        self.batches[worker] = batch
        return list(batch.ids)

    def claim_ahead(
        self, worker: str, token: str, queues: Sequence[str], holding: str
    ) -> list[str]:
        """The ids that the first call takes of the batch after the one that the worker has."""
        held = self.batches.get(worker)
        if held is None or held.token != holding:
            return []
        self._give_back_following(held)
        held.following = self._batch(token, queues, is_ahead=True)
        if held.following is None:
            return []
        held.is_lapsed = False
        return list(held.following.ids)

    def claim_more(self, worker: str, token: str, most: int, is_ahead: bool) -> list[str]:
        """The ids that a call behind the first one adds."""
        held = self.batches.get(worker)
        batch = held.following if held and is_ahead else held
        if batch is None or batch.token != token or not batch.is_open:
            return []
        ids, is_open = self._take(batch.queue, token, most, is_ahead, is_first=False)
        if ids:
            batch.ids += ids
            batch.is_open = is_open
        return ids

    def _batch(self, token: str, queues: Sequence[str], is_ahead: bool = False) -> Held | None:
        for queue in queues:
            ids, is_open = self._take(queue, token, CLAIMS[0], is_ahead, is_first=True)
            if ids:
                return Held(token, queue, ids, is_open=is_open)
        return None

    def _take(
        self, queue: str, token: str, most: int, is_ahead: bool, is_first: bool
    ) -> tuple[list[str], bool]:
        """Ids that one call takes, and whether there may be more for the batch."""
        waiting, used = self.queues[queue], 0
        ids: list[str] = []
        is_open = len(waiting) >= most
        for job_id in waiting[:most]:
            job = self.jobs.get(job_id)
            if job is None:
                self.aside += 1
            elif job.status == "queued" and job_id not in ids:
                is_alone = job.crashes > 0
                is_open = is_open and not is_alone
                if is_alone and (ids or is_ahead or not is_first):
                    break
                ids.append(job_id)
                if is_alone:
                    used += 1
                    break
            used += 1
        del waiting[:used]
        for job_id in ids:
            job = self.jobs[job_id]
            job.status, job.token, job.queue = "started", token, queue
            job.attempts += 1
        return ids, is_open

    def give_back(self, worker: str, why: Reason) -> tuple[int, int]:
        """Numbers of jobs that went back to the head of their queue, and that failed."""
        batch = self.batches.pop(worker)
        if why == "timeout" and batch.following:  # either of the two may be the late one
            why = "died"
        ahead = self._give_back_following(batch)
        back, failed = self._give_back(batch, why)
        return ahead + back, failed

    def _give_back_following(self, batch: Held) -> int:
        """It had not begun: it costs its jobs nothing."""
        following, batch.following = batch.following, None
        return self._give_back(following, "released")[0] if following else 0

    def _give_back(self, batch: Held, why: Reason) -> tuple[int, int]:
        held = [job_id for job_id in batch.ids if self.holds(job_id, batch.token)]
        back: list[str] = []
        for job_id in held:
            job = self.jobs[job_id]
            job.token = ""
            if why == "released":
                job.attempts -= 1
            elif why == "timeout" and len(batch.ids) == 1:
                job.status, job.code = "failed", "timeout"
                continue
            else:
                job.crashes += 1
                if job.crashes >= MOST_CRASHES:
                    job.status, job.code = "failed", "worker_crashed"
                    continue
            job.status = "queued"
            back.append(job_id)
        self.queues[batch.queue][:0] = back
        return len(back), len(held) - len(back)

    def holds(self, job_id: str, token: str) -> bool:
        job = self.jobs.get(job_id)
        return job is not None and job.status == "started" and job.token == token

    def finish(
        self, worker: str, batch: Batch, call: int, calls: int, run: Sequence[Claimed] | None = None
    ) -> int:
        """Jobs that one of a finish's calls writes; -1 where the call before it is missing.

        ``run`` are the jobs of a partial finish, whose first call gives the others back.
        """
        held = self.batches.get(worker)
        is_held = held is not None and held.token == batch.token
        if held is not None and is_held and held.calls < call - 1:
            return -1
        written = 0
        jobs, place = (batch.jobs, call - 1) if run is None else (run, call - 2)
        for claimed in jobs[place * CHUNK : (place + 1) * CHUNK]:
            if self.holds(claimed.id, batch.token):
                job = self.jobs[claimed.id]
                job.status, job.token = "failed" if claimed.flaw else "finished", ""
                job.code = claimed.flaw
                written += 1
        if call == calls:
            self.end(worker, batch.token)
        elif held is not None and is_held:
            held.calls = call
        return written

    def end(self, worker: str, token: str) -> None:
        """The batch is over; the one that was taken ahead is the worker's."""
        held = self.batches.get(worker)
        if held is None or held.token != token:
            return
        del self.batches[worker]
        if held.following is not None:
            held.following.is_lapsed = held.is_lapsed
            self.batches[worker] = held.following

    def shed(self, worker: str, batch: Batch, released: Sequence[str]) -> None:
        """Jobs of a batch go back to the head of their queue, as if they had not been claimed."""
        held = self.batches.get(worker)
        if held is None or held.token != batch.token:
            return
        back = [job_id for job_id in released if self.holds(job_id, batch.token)]
        for job_id in back:
            job = self.jobs[job_id]
            job.status, job.token = "queued", ""
            job.attempts -= 1
        self.queues[batch.queue][:0] = back
        held.ids = [job_id for job_id in held.ids if job_id not in released]
        held.calls = max(1, held.calls)

    def forward(self, batch: Batch) -> None:
        """Unversioned jobs go where the keys say now, as if they had never been claimed."""
        for claimed in batch.jobs:
            if self.holds(claimed.id, batch.token):
                job = self.jobs[claimed.id]
                job.status, job.token, job.queue = "queued", "", f"echo@{self.active}"
                job.attempts -= 1
                self.queues[job.queue].append(claimed.id)

    def cancel(self, job_id: str) -> None:
        job = self.jobs[job_id]
        job.status, job.token = "canceled", ""
        if job_id in self.queues[job.queue]:
            self.queues[job.queue].remove(job_id)

    def expire(self) -> int:
        """Number of jobs that fail because they were not started in time."""
        expired = 0
        for job_id, job in self.jobs.items():
            if job.is_past_deadline and job.status == "queued" and job.attempts == 0:
                job.status, job.code = "failed", "expired"
                if job_id in self.queues[job.queue]:
                    self.queues[job.queue].remove(job_id)
                expired += 1
        return expired


class Protocol(RuleBasedStateMachine):
    """The steps; see the module."""

    server: RedisServer

    jobs = Bundle("jobs")
    batches = Bundle("batches")

    def __init__(self) -> None:
        super().__init__()
        self.redis: Redis = self.server.client()
        self.redis.flushall()
        for version in VERSIONS:
            register(self.redis, version=version, active=version == "v1")
        self.client = Client(self.server.url, settings=SETTINGS)
        self.protocol = Driver(self.redis, self.client, SETTINGS)
        self.claims: Counter[str] = Counter()
        self.moments: dict[str, int] = {}
        self.pending: dict[str, list[list[ScriptArgument]]] = {}
        self.model = Model()
        self.numbers = 0

    def teardown(self) -> None:
        self.client.close()
        self.redis.close()

    # Steps of clients and strangers

    @rule(target=jobs, count=st.integers(1, 5), has_deadline=st.booleans())
    def submit(self, count: int, has_deadline: bool) -> Any:
        ids = []
        for _ in range(count):
            self.numbers += 1
            handle = self.client.submit(
                "echo",
                instances=[[float(self.numbers)]],
                deadline_ms=3_600_000 if has_deadline else None,
            )
            assert handle.version == self.model.active
            self.model.push(handle.id, handle.queue, self.numbers)
            ids.append(handle.id)
        return multiple(*ids)

    @rule(target=jobs, queue=st.sampled_from((*QUEUES, UNVERSIONED)))
    def push_raw(self, queue: str) -> str:
        """As a service does that has no client of ours."""
        self.numbers += 1
        job_id = f"raw-{self.numbers}"
        self.protocol.push(job_id, queue, data=call(number=self.numbers))
        self.model.push(job_id, queue, self.numbers)
        return job_id

    @rule(queue=st.sampled_from(QUEUES))
    def push_rubbish(self, queue: str) -> None:
        self.protocol.push_entries(RUBBISH, queue=queue)
        self.model.queues[queue].append(RUBBISH.decode())

    @rule(job_id=jobs, queue=st.sampled_from(QUEUES))
    def push_again(self, job_id: str, queue: str) -> None:
        self.protocol.push_entries(job_id, queue=queue)
        self.model.queues[queue].append(job_id)

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        job = self.model.jobs.get(job_id)
        if job is None:
            with pytest.raises(UnknownJob):
                self.client.cancel(job_id)
        elif job.status in ("finished", "failed"):
            with pytest.raises(JobEnded):
                self.client.cancel(job_id)
        else:
            self.client.cancel(job_id)
            if job.status != "canceled":
                self.model.cancel(job_id)

    @rule(job_id=jobs)
    def vanish(self, job_id: str) -> None:
        """A hash is deleted by hand, or expires: nothing may bring it back."""
        self.redis.delete(keys.key("job", job_id), keys.key("results", job_id))
        self.model.jobs.pop(job_id, None)

    @rule(version=st.sampled_from(VERSIONS))
    def flip(self, version: str) -> None:
        self.redis.set(keys.key("active", "echo"), version)
        self.model.active = version

    # Steps of workers

    @rule(
        target=batches,
        worker=st.sampled_from(WORKERS),
        queues=st.sampled_from([QUEUES, QUEUES[::-1], (UNVERSIONED, *QUEUES)]),
    )
    def claim(self, worker: str, queues: Sequence[str]) -> Any:
        self.claims[worker] += 1
        token = f"{worker}.{self.claims[worker]}"
        wanted = self.model.claim(worker, token, queues)
        for most in CLAIMS[1:]:
            wanted += self.model.claim_more(worker, token, most, is_ahead=False)
        found = self.protocol.look(*queues, worker=worker)
        return self._claimed(worker, token, wanted, found if isinstance(found, Batch) else None)

    @rule(
        target=batches,
        batch=batches,
        queues=st.sampled_from([QUEUES, QUEUES[::-1], (UNVERSIONED, *QUEUES)]),
    )
    def claim_ahead(self, batch: tuple[str, Batch], queues: Sequence[str]) -> Any:
        """In time, or with a batch in mind that the worker no longer has."""
        worker, mine = batch
        self.claims[worker] += 1
        token = f"{worker}.{self.claims[worker]}"
        wanted = self.model.claim_ahead(worker, token, queues, mine.token)
        for most in CLAIMS[1:]:
            wanted += self.model.claim_more(worker, token, most, is_ahead=True)
        return self._claimed(worker, token, wanted, self.protocol.take_ahead(mine, *queues))

    def _claimed(self, worker: str, token: str, wanted: list[str], found: Batch | None) -> Any:
        if not wanted:
            assert found is None
            return multiple()
        assert found is not None
        assert (found.token, [job.id for job in found.jobs]) == (token, wanted)
        for job in found.jobs:
            known = self.model.jobs[job.id]
            assert (job.attempt, job.crashes) == (known.attempts, known.crashes)
            late = known.is_past_deadline and known.attempts == 1
            assert job.flaw == ("expired" if late else "")
        last: Any = self.redis.hget(keys.key("worker", worker), "my_claim")
        self.moments[worker] = int(last)
        return (worker, found)

    @rule(worker=st.sampled_from(WORKERS))
    def claim_late(self, worker: str) -> None:
        """A claim whose worker gave it up reaches Redis behind one that took a batch."""
        if worker in self.moments:
            claim, *_ = self.protocol.lease(worker)._claim_calls(f"{worker}.late", QUEUES)
            claim[_MOMENT] = self.moments[worker] - 1
            assert _CLAIM(self.redis, claim) == [b"idle", 0]

    @rule(worker=st.sampled_from(WORKERS), holding=st.none() | batches)
    def claim_broken_off(self, worker: str, holding: tuple[str, Batch] | None) -> None:
        """Only the first call of a claim reaches Redis; those behind it may, later."""
        if holding is not None:
            worker = holding[0]
        ahead_of = holding[1].token if holding else ""
        self.claims[worker] += 1
        token = self.protocol.lease(worker).next_token()
        claim, *more = self.protocol.lease(worker)._claim_calls(token, QUEUES, ahead_of)
        self.pending[worker] = [*self.pending.get(worker, []), *more]
        if ahead_of:
            wanted = self.model.claim_ahead(worker, token, QUEUES, ahead_of)
        else:
            wanted = self.model.claim(worker, token, QUEUES)
        assert self._ids(_CLAIM(self.redis, claim)) == wanted

    @rule(worker=st.sampled_from(WORKERS))
    def claim_more_late(self, worker: str) -> None:
        if self.pending.get(worker):
            arguments = self.pending[worker].pop(0)
            _, token, ahead_of, most, *_ = arguments
            wanted = self.model.claim_more(worker, str(token), int(most), ahead_of != "")
            assert self._ids(_MORE(self.redis, arguments)) == wanted

    def _ids(self, reply: list[Any]) -> list[str]:
        return [raw.decode() for raw in reply[5][::9]] if reply[0] == b"batch" else []

    @rule(batch=batches)
    def renew(self, batch: tuple[str, Batch]) -> None:
        worker, mine = batch
        held = self.model.batches.get(worker)
        following = held and held.following
        is_held = mine.token in [one.token for one in (held, following) if one is not None]
        assert self.protocol.renew(mine) is is_held
        if held is not None and is_held:
            held.is_lapsed = False

    @rule(batch=batches, carried_out=st.lists(st.integers(1, MOST_CALLS), min_size=1, max_size=4))
    def finish(self, batch: tuple[str, Batch], carried_out: list[int]) -> None:
        """In time or late, whole or broken off, in order or with a call that was lost, repeated."""
        worker, mine = batch
        if mine.queue == UNVERSIONED:
            for _ in carried_out[:2]:
                self._forward(worker, mine)
            return
        calls = self.protocol.ended(mine).calls
        for number in carried_out:
            call = min(number, len(calls))
            wanted = self.model.finish(worker, mine, call, len(calls))
            assert _FINISH(self.redis, calls[call - 1]) == wanted

    @rule(batch=batches)
    def finish_whole(self, batch: tuple[str, Batch]) -> None:
        """As a worker does that nothing happens to."""
        worker, mine = batch
        if mine.queue != UNVERSIONED:
            ended = self.protocol.ended(mine)
            count = len(ended.calls)
            wanted = [self.model.finish(worker, mine, call, count) for call in range(1, count + 1)]
            assert self.protocol.lease(worker).write(ended) == sum(wanted)
            assert min(wanted) >= 0

    @rule(
        batch=batches,
        kept=st.integers(1, MOST_JOBS),
        carried_out=st.lists(st.integers(0, MOST_CALLS + 1), min_size=1, max_size=5),
        is_whole=st.booleans(),
    )
    def finish_some(
        self, batch: tuple[str, Batch], kept: int, carried_out: list[int], is_whole: bool
    ) -> None:
        """Of a slow version: the first jobs end, the others are given back, whole or broken off."""
        worker, mine = batch
        if mine.queue == UNVERSIONED or kept >= len(mine.jobs):
            return
        run, released = mine.jobs[:kept], [job.id for job in mine.jobs[kept:]]
        ended = self.protocol.lease(worker).ended(mine, echo(mine)[:kept], {}, (), released)
        last = 1 + len(ended.calls)
        for number in range(1, last + 1) if is_whole else carried_out:
            call = min(max(1, number), last)
            if call == 1:
                self.model.shed(worker, mine, released)
                assert _SHED(self.redis, ended.shed) == 0
            else:
                wanted = self.model.finish(worker, mine, call, last, run)
                assert _FINISH(self.redis, ended.calls[call - 2]) == wanted

    def _forward(self, worker: str, batch: Batch) -> None:
        wanted = [(job.id, "", 0.5, 1, "") for job in batch.jobs]
        assert self.protocol.lease(worker).forward(batch, "echo", wanted) == {}
        self.model.forward(batch)
        self.protocol.finish(batch, [])
        self.model.end(worker, batch.token)

    @rule(worker=st.sampled_from(WORKERS))
    def release(self, worker: str) -> None:
        self._reap(worker, "released")

    # Steps of pools

    @rule(worker=st.sampled_from(WORKERS), why=st.sampled_from(["died", "timeout"]))
    def reap(self, worker: str, why: Reason) -> None:
        self._reap(worker, why)

    @rule(worker=st.sampled_from(WORKERS), batch=batches)
    def reap_for(self, worker: str, batch: tuple[str, Batch]) -> None:
        """It was killed because that batch was late, which may have ended meanwhile."""
        held, token = self.model.batches.get(worker), batch[1].token
        self._reap(worker, "timeout" if held and held.token == token else "released", token)

    def _reap(self, worker: str, why: Reason, overdue: str = "") -> None:
        batch = self.model.batches.get(worker)
        reaped = reap(self.redis, worker, "timeout" if overdue else why, SETTINGS, overdue)
        if batch is None:
            assert reaped is None
            return
        assert reaped is not None
        counts = self.model.give_back(worker, why)
        assert (reaped.queue, (reaped.given_back, reaped.failed)) == (batch.queue, counts)
        assert reaped.is_charged is (why != "released")

    @rule(worker=st.sampled_from(WORKERS))
    def lapse(self, worker: str) -> None:
        """Time passes without a renewal."""
        if self.redis.zadd(keys.LEASES, {worker: 1}, xx=True, ch=True):
            self.model.batches[worker].is_lapsed = True

    @rule(job_id=jobs)
    def pass_deadline(self, job_id: str) -> None:
        """Time passes beyond a job's deadline."""
        job = self.model.jobs.get(job_id)
        if job is not None and self.redis.hexists(keys.key("job", job_id), "my_deadline"):
            self.redis.hset(keys.key("job", job_id), "my_deadline", 1)
            self.redis.zadd(keys.DEADLINES, {job_id: 1}, xx=True)
            job.is_past_deadline = True

    @rule(was_away=st.booleans())
    def sweep(self, was_away: bool) -> None:
        """As ever, or for the first time since Redis is back: then everybody keeps what he has."""
        now_ms = self.redis.time()[0] * 1000
        swept: dict[Any, Any] = {"at": now_ms - 60_000 * was_away, "spare_until": 0}
        self.redis.hset(keys.SWEPT, mapping=swept)
        lapsed = {name: held for name, held in self.model.batches.items() if held.is_lapsed}
        if was_away:
            lapsed = {}
        expired, reaped = sweep(self.redis, SETTINGS)
        assert [one.worker for one in reaped] == sorted(lapsed)
        for one in reaped:
            assert (one.given_back, one.failed) == self.model.give_back(one.worker, "died")
        assert expired == self.model.expire()

    # Invariants

    @invariant()
    def redis_is_as_the_model_says(self) -> None:
        model = self.model
        pipe = self.redis.pipeline(transaction=False)
        for queue in (*QUEUES, UNVERSIONED):
            pipe.lrange(keys.key("queue", queue), 0, -1)
            pipe.zcard(keys.key("wip", queue))
        pipe.zrange(keys.LEASES, 0, -1)
        for worker in WORKERS:
            pipe.hmget(keys.key("batch", worker), *_BATCH_FIELDS)
        for job_id in model.jobs:
            pipe.hmget(keys.key("job", job_id), "status", "my_token", "my_attempts", "my_crashes")
            pipe.xlen(keys.key("results", job_id))
        replies = iter(pipe.execute())
        wip = 0
        for queue in (*QUEUES, UNVERSIONED):
            assert [raw.decode() for raw in next(replies)] == model.queues[queue]
            wip += next(replies)
        assert sorted(raw.decode() for raw in next(replies)) == sorted(model.batches), "leases"
        for worker in WORKERS:
            held = model.batches.get(worker)
            found = [raw and raw.decode() for raw in next(replies)]
            if not found[3]:  # what is behind an empty next_token is of the batch before
                found[3:] = [None] * 3
            wanted = [*_fields(held), *_fields(held.following if held else None)]
            assert found == wanted, "a batch a worker and one ahead, and none without a lease"
        for job_id, job in model.jobs.items():
            status, token, attempts, crashes = next(replies)
            assert (status or b"").decode() == job.status, job_id
            assert (token or b"").decode() == job.token
            assert (int(attempts or 0), int(crashes or 0)) == (job.attempts, job.crashes)
            is_over = job.status in ("finished", "failed", "canceled")
            assert next(replies) == int(is_over), "an ended job has one result, others have none"
        started = sum(job.status == "started" for job in model.jobs.values())
        assert started <= wip, "RQ's started registry knows what runs"

    @invariant()
    def every_job_is_in_one_place(self) -> None:
        model = self.model
        held = Counter(
            job_id
            for held_by_worker in model.batches.values()
            for batch in (held_by_worker, held_by_worker.following)
            if batch is not None
            for job_id in batch.ids
            if model.holds(job_id, batch.token)
        )
        for job_id, job in model.jobs.items():
            waits = any(job_id in queue for queue in model.queues.values())
            match job.status:
                case "queued":
                    assert waits
                    assert not held[job_id]
                case "started":
                    assert held[job_id] == 1
                case _:
                    assert not held[job_id]

    @precondition(lambda self: self.numbers % 5 == 0)
    @invariant()
    def what_has_ended_says_so_for_a_while(self) -> None:
        for job_id, job in self.model.jobs.items():
            if job.status in ("finished", "failed", "canceled"):
                assert self.redis.ttl(keys.key("job", job_id)) > 0
                assert self.redis.ttl(keys.key("results", job_id)) > 0
                shown = self.client.get(job_id)
                assert shown.status.value == job.status
                if job.status == "finished":
                    assert shown["predictions"] == [job.number]
                if job.code:
                    assert shown.error is not None
                    assert shown.error.code == job.code


#: Place of a claim's moment among its arguments.
_MOMENT = 9

_BATCH_FIELDS = ("token", "queue", "ids", "next_token", "next_queue", "next_ids")


def _fields(held: Held | None) -> list[str | None]:
    return [held.token, held.queue, " ".join(held.ids)] if held else [None] * 3


@pytest.mark.timeout(900)
@pytest.mark.leaks_keys  # it ends in the middle of things
def test_no_order_of_steps_loses_a_job_or_ends_it_twice(redis, redis_server, monkeypatch):
    monkeypatch.setattr("worker.queue.outcomes.CHUNK", CHUNK)
    monkeypatch.setattr("worker.queue.lease.MOST_CLAIMED", CLAIMS[0])
    machine = type("Machine", (Protocol,), {"server": redis_server})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            derandomize="CHAOS_EXAMPLES" not in os.environ,  # the long run looks for new ones
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
