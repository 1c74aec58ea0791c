"""A driver of the batch protocol: the steps of clients, workers and pools, one a call.

Tests submit or push jobs of ``echo``, claim them for named workers, end them, let leases run out,
reap and sweep, and read what Redis holds then. Nothing runs by itself: no process, no thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import Redis
from rq import Queue
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer

from producer import Client, Handle
from tests.helpers.stand_ins import queued
from tests.helpers.waiting import wait_until
from worker.queue.lease import Batch, Claimed, EndedBatch, Lease
from worker.queue.outcomes import EndedJob
from worker.queue.recovery import Reaped, Reason, reap, sweep
from yard.contract import keys, wire
from yard.contract.payload import decode_call
from yard.contract.values import TASK_NAME, Failure, Request
from yard.settings import Settings

MODEL = "echo"
QUEUE = "echo@v1"
WORKER = "w1"


def call(name: str = TASK_NAME, instance: object = None, number: float = 1.0) -> bytes:
    """A payload of one row, as RQ's JSONSerializer writes it."""
    return wire.dumps([name, instance, [], {"instances": [[number]]}])


def push_job(redis: Redis, queue: str, job_id: str, **fields: bytes | str | int) -> None:
    """Write a job as a client does that is none of ours: its hash, and its entry in the queue."""
    mapping: dict[str | bytes, bytes | str | int] = {
        "status": "queued",
        "origin": queue,
        "data": call(),
        "failure_ttl": 600,
        "result_ttl": 600,
    }
    redis.hset(keys.key("job", job_id), mapping=mapping | dict(fields))  # type: ignore[arg-type]
    redis.rpush(keys.key("queue", queue), job_id)


def ids(batch: Batch | None) -> list[str]:
    """The ids of a batch's jobs, in their order; none without a batch."""
    return [job.id for job in batch.jobs] if batch else []


def worker_of(batch: Batch) -> str:
    """The worker that claimed the batch; a token begins with its name."""
    return batch.token.rpartition(".")[0]


def echo(batch: Batch) -> list[EndedJob]:
    """Endings that give each job its own first value back; one with a flaw fails by it."""
    return [EndedJob(job.id, _outcome(job), 60) for job in batch.jobs]


def _outcome(job: Claimed) -> dict[str, Any] | Failure:
    if job.flaw:
        return Failure(job.flaw, "")
    rows: Any = decode_call(job.data).instances
    return {"predictions": [rows[0][0]]}


class Protocol:
    """One yard's protocol; each named worker has one lease object, made when first used.

    Args:
        redis: An empty Redis that knows ``echo@v1``.
        client: Its client.
        settings: Bounds of the workers and pools.
    """

    def __init__(self, redis: Redis, client: Client, settings: Settings) -> None:
        self.redis = redis
        self.client = client
        self.settings = settings
        self._leases: dict[str, Lease] = {}

    def bounded(self, **settings: Any) -> Protocol:
        """The same yard, with workers and pools that have other settings."""
        changed = self.settings.model_copy(update=settings)
        return Protocol(self.redis, self.client, changed)

    # Clients

    def submit(self, count: int = 1, timeout_s: int | None = None, **more: Any) -> list[str]:
        """Submit jobs of one row, which holds the job's place, and return their ids.

        Args:
            count: Number of jobs.
            timeout_s: Seconds for which each may run; None for the client's setting.
            more: Other arguments of `Client.submit`.
        """
        made = [
            self.client.submit(MODEL, **{"instances": [[float(place)]]} | more)
            for place in range(count)
        ]
        if timeout_s is not None:
            for handle in made:
                self.redis.hset(keys.key("job", handle.id), "timeout", timeout_s)
        return [handle.id for handle in made]

    def submit_at_once(self, count: int, **more: Any) -> list[str]:
        """Submit as `submit` does, many jobs in few calls."""
        places = range(count)
        made = self.client.submit_many(
            Request(MODEL, **{"instances": [[float(place)]]} | more) for place in places
        )
        return [handle.id for handle in made if isinstance(handle, Handle)]

    def push(self, job_id: str, queue: str = QUEUE, **fields: Any) -> str:
        """Write a job by hand; see `push_job`."""
        push_job(self.redis, queue, job_id, **fields)
        return job_id

    def push_entries(self, *entries: bytes | str, queue: str = QUEUE) -> None:
        """Push entries of any kind onto a queue."""
        self.redis.rpush(keys.key("queue", queue), *entries)

    def enqueue(self, queue: str = MODEL, **more: Any) -> RqJob:
        """Push a job by RQ's own client, by default onto the unversioned queue."""
        rq_queue = Queue(queue, connection=self.redis, serializer=JSONSerializer)
        options = {"result_ttl": 60, "failure_ttl": 60} | more
        return rq_queue.enqueue(TASK_NAME, instances=[[7.0]], **options)

    # Workers

    def lease(self, worker: str = WORKER) -> Lease:
        """The protocol as ``worker`` speaks it."""
        if worker not in self._leases:
            self._leases[worker] = Lease(self.redis, worker, self.settings)
        return self._leases[worker]

    def look(self, *queues: str, worker: str = WORKER) -> Batch | int:
        """Claim a batch; without one, the number of entries that were passed over."""
        return self.lease(worker).claim(queues or [QUEUE])

    def claim(self, *queues: str, worker: str = WORKER) -> Batch:
        """Claim a batch; there must be one."""
        batch = self.look(*queues, worker=worker)
        assert isinstance(batch, Batch)
        return batch

    def take_ahead(self, holding: Batch, *queues: str) -> Batch | None:
        """Claim a batch ahead for the worker that holds ``holding``, if there is one."""
        lease = self.lease(worker_of(holding))
        line, token = lease.pipeline(), lease.next_token()
        lease.send(line, None, token, queues or [QUEUE], holding.token)
        written, batch = lease.receive(line, token)
        line.close()
        assert written == 0
        return batch

    def renew(self, batch: Batch) -> bool:
        """Renew a batch's lease for the worker that claimed it."""
        return self.lease(worker_of(batch)).renew(batch.token)

    def finish(
        self,
        batch: Batch,
        endings: Sequence[EndedJob] | None = None,
        measures: Sequence[tuple[str, float]] = (),
    ) -> int:
        """End a batch, by default each job with its own value, and return the jobs written."""
        endings = echo(batch) if endings is None else endings
        return self.lease(worker_of(batch)).finish(batch, endings, {}, measures)

    def ended(self, batch: Batch, endings: Sequence[EndedJob] | None = None) -> EndedBatch:
        """A batch's endings, ready to be sent."""
        return self.lease(worker_of(batch)).ended(
            batch, echo(batch) if endings is None else endings
        )

    def drain(self, worker: str = WORKER) -> list[list[str]]:
        """Claim and end batches until none waits; their jobs' ids."""
        batches = []
        while isinstance(batch := self.look(worker=worker), Batch):
            assert self.finish(batch) == len(batch.jobs)
            batches.append(ids(batch))
        return batches

    # Pools

    def lapse(self, *workers: str) -> None:
        """Let leases run out: those of ``workers``, by default all."""
        held: Any = workers or self.redis.zrange(keys.LEASES, 0, -1)
        self.redis.zadd(keys.LEASES, dict.fromkeys(held, 1))

    def reap(self, worker: str = WORKER, why: Reason = "died") -> Reaped | None:
        """Return the batch of a worker that is gone; None where it has none."""
        return reap(self.redis, worker, why, self.settings)

    def reaped(self, worker: str = WORKER, why: Reason = "died") -> Reaped:
        """Return the batch of a worker that is gone, which must have one."""
        found = self.reap(worker, why)
        assert found is not None
        return found

    def sweep(self) -> tuple[int, list[Reaped]]:
        """Sweep once."""
        return sweep(self.redis, self.settings)

    def swept(self) -> list[Reaped]:
        """Sweep until a batch is taken: the first sweep after a gap takes none."""
        return wait_until(lambda: self.sweep()[1], 20)

    # Reads of Redis

    def now_us(self) -> int:
        """Redis' clock, in microseconds."""
        seconds, micros = self.redis.time()
        return int(seconds) * 1_000_000 + int(micros)

    def waiting(self, queue: str = QUEUE) -> list[str]:
        """The ids that wait in a queue, oldest first."""
        return queued(self.redis, queue)

    def held(self, worker: str = WORKER) -> dict[str, str]:
        """The fields of a worker's batch."""
        found: Any = self.redis.hgetall(keys.key("batch", worker))
        return {name.decode(): value.decode() for name, value in found.items()}

    def field(self, job_id: str, name: str) -> str:
        """A field of a job's hash; empty where it has none."""
        found: Any = self.redis.hget(keys.key("job", job_id), name)
        return (found or b"").decode()

    def statuses(self, job_ids: Sequence[str]) -> list[str]:
        """The status of each job."""
        return [self.client.get(job_id).status.value for job_id in job_ids]

    def attempts(self, job_ids: Sequence[str]) -> list[int]:
        """The attempts of each job."""
        return [self.client.get(job_id).attempts for job_id in job_ids]

    def outcome(self, job_id: str) -> tuple[str, str]:
        """A job's status, and the code of its error, empty where it has none."""
        job = self.client.get(job_id)
        return job.status.value, job.error.code if job.error else ""

    def predictions(self, job_ids: Sequence[str]) -> list[Any]:
        """The predictions of each job; all must have finished."""
        return [self.client.get(job_id)["predictions"] for job_id in job_ids]

    def results(self, job_id: str) -> int:
        """The number of results that were written of a job."""
        found: Any = self.redis.xlen(keys.key("results", job_id))
        return int(found)

    def quarantined(self) -> list[dict[str, Any]]:
        """The entries that were set aside, the last first."""
        entries: Any = self.redis.lrange(keys.QUARANTINE, 0, -1)
        return [wire.loads(entry) for entry in entries]

    def is_idle(self, worker: str = WORKER) -> bool:
        """True if no lease is held and the worker has no batch."""
        return not self.redis.exists(keys.LEASES, keys.key("batch", worker))

    def is_empty(self) -> bool:
        """True if no job waits or runs."""
        held = [keys.LEASES, keys.key("queue", QUEUE), keys.key("wip", QUEUE)]
        batches = list(self.redis.scan_iter(f"{keys.PREFIXES['batch']}*"))
        return not any(self.redis.exists(key) for key in held) and not batches
