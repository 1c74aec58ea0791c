"""The clients of a run: they submit, repeat, cancel, wait, and write down the answers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import RedisError

from producer import Client, Handle
from producer.results import decode_job, read_raw
from tests.chaos import rubbish
from tests.chaos.history import History
from tests.chaos.yard import MODEL, QUEUES, VERSIONS, ChaosYard
from yard.broker import connections
from yard.contract import keys
from yard.contract.values import Job, Request
from yard.errors import JobEnded, Unavailable
from yard.settings import Settings

#: The first job's number; below are those that the runtime tries a model on.
FIRST = 10_000

_CHUNK = 10
_SUBMITTERS = 2


@dataclass(frozen=True, slots=True)
class Promise:
    """A job that was accepted.

    Attributes:
        number: What it must give back.
        id: The job's id.
        version: The version that was named.
    """

    number: int
    id: str
    version: str


@dataclass(slots=True)
class Load:
    """All clients of a run.

    Attributes:
        promises: The accepted jobs.
        canceled: The ids that were canceled, as the client was told.
        ended: How jobs were first seen to have ended.
        pushed_again: How many ids were pushed again.
        rubbish: How much rubbish was pushed.
    """

    yard: ChaosYard
    history: History
    promises: list[Promise] = field(default_factory=list)
    canceled: set[str] = field(default_factory=set)
    ended: dict[str, Job] = field(default_factory=dict)
    pushed_again: int = 0
    rubbish: int = 0
    _threads: list[threading.Thread] = field(default_factory=list)
    _submitters: list[threading.Thread] = field(default_factory=list)
    _closed: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Begin, on threads of its own."""
        numbers = range(FIRST, FIRST + self.yard.plan.jobs)
        for place in range(_SUBMITTERS):
            part = numbers[place::_SUBMITTERS]
            self._submitters.append(threading.Thread(target=self._submit, args=(part, place)))
        self._threads = [*self._submitters, threading.Thread(target=self._collect)]
        for thread in self._threads:
            thread.start()

    @property
    def is_submitting(self) -> bool:
        """True while there are jobs to be submitted."""
        return any(thread.is_alive() for thread in self._submitters)

    def join_submitters(self, timeout_s: float) -> None:
        """Wait until all jobs are accepted."""
        ends = time.monotonic() + timeout_s
        for thread in self._submitters:
            thread.join(max(0.0, ends - time.monotonic()))
        assert not self.is_submitting, "jobs could not be submitted"

    def close(self) -> None:
        """Stop all of it."""
        self._closed.set()
        for thread in self._threads:
            thread.join(30)

    def _submit(self, numbers: Sequence[int], place: int) -> None:
        plan = self.yard.plan
        random = type(plan.random)(f"{plan.seed} {place}")
        client = Client(self.yard.to_clients.url, settings=Settings.load({}))
        pause_s = plan.seconds * _CHUNK / len(numbers)
        begun = time.monotonic()
        with connections.steady(self.yard.server.url) as stranger:
            for turn in range(0, len(numbers), _CHUNK):
                chunk = numbers[turn : turn + _CHUNK]
                versions = [random.choice((*VERSIONS, None)) for _ in chunk]
                self._accept(client, chunk, versions)
                for promise in self.promises[-len(chunk) :]:
                    if random.random() < plan.cancels:
                        self._cancel(client, promise)
                    if random.random() < plan.repeats:
                        self._push_again(stranger, promise)
                if random.random() < plan.hostile * _CHUNK:
                    self._push_rubbish(stranger, random)
                ahead_s = begun + (turn // _CHUNK + 1) * pause_s - time.monotonic()
                if self._closed.wait(max(0.0, ahead_s)):
                    break
        client.close()

    def _accept(
        self, client: Client, numbers: Sequence[int], versions: Sequence[str | None]
    ) -> None:
        """Submit until Redis has accepted all; the idempotency key makes repeating safe."""
        requests = [
            Request(
                MODEL,
                [[float(number)]],
                version=version,
                idempotency_key=f"{self.yard.plan.seed}-{number}",
                deadline_ms=3_600_000 if number % 7 == 0 else None,
            )
            for number, version in zip(numbers, versions, strict=True)
        ]
        self.history.add("sent", [{"number": number} for number in numbers])
        while not self._closed.is_set():
            try:
                outcomes = client.submit_many(requests)
            except Unavailable:
                self._closed.wait(0.05)
                continue
            promises = [
                Promise(number, outcome.id, outcome.version)
                for number, outcome in zip(numbers, outcomes, strict=True)
                if isinstance(outcome, Handle)
            ]
            if len(promises) == len(numbers):
                break
            self._closed.wait(0.05)
        else:
            return
        self.history.add(
            "accepted", [{"number": p.number, "id": p.id, "version": p.version} for p in promises]
        )
        self.promises += promises

    def _cancel(self, client: Client, promise: Promise) -> None:
        while not self._closed.is_set():
            try:
                client.cancel(promise.id)
            except JobEnded:
                return
            except Unavailable:
                self._closed.wait(0.05)
                continue
            self.canceled.add(promise.id)
            self.history.add("canceled", [{"id": promise.id}])
            return

    def _push_again(self, stranger: Any, promise: Promise) -> None:
        with contextlib.suppress(RedisError):
            queue = keys.key("queue", f"{MODEL}@{promise.version}")
            stranger.rpush(queue, *[promise.id] * 2)
            self.pushed_again += 1

    def _push_rubbish(self, stranger: Any, random: Any) -> None:
        with contextlib.suppress(RedisError):
            self.rubbish += 1
            number = self.rubbish * _SUBMITTERS + random.randrange(10**9)
            rubbish.push_some(stranger, random.choice(QUEUES), number, random)

    def _collect(self) -> None:
        """See jobs end, as a client does; what was seen once must stay so."""
        with connections.steady(self.yard.to_clients.url) as reader:
            while not self._closed.wait(0.2):
                open_ids = [p.id for p in self.promises if p.id not in self.ended][:500]
                with contextlib.suppress(RedisError, OSError):
                    self._see(open_ids, read_raw(reader, open_ids) if open_ids else [])

    def _see(self, ids: Sequence[str], raws: Sequence[Any]) -> None:
        seen: dict[str, Job] = {}
        for job_id, raw in zip(ids, raws, strict=True):
            job = decode_job(job_id, raw)
            if job is not None and job.status.is_terminal:
                seen[job_id] = job
        if seen:
            ended = [{"id": job.id, "status": job.status.value} for job in seen.values()]
            self.history.add("ended", ended)
            self.ended |= seen
