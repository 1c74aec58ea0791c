"""A backlog of a slow version: batches by its pace, results as they come, the rest given back.

A worker's steps one after the other, on a real Redis, whose model takes time by a clock of the
test's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from models.runtimes.model_cache import Use
from tests.helpers.protocol import QUEUE, WORKER, ids
from tests.helpers.versions import signature_of
from worker.inference.executor import BatchExecutor
from worker.inference.results import BatchResult
from worker.inference.throughput import ServiceTimes
from worker.process.worker import bound
from worker.queue.lease import _FINISH, _SHED, Batch
from yard.contract import keys
from yard.contract.values import ModelRef


class Worker:
    """Claims, executes and finishes; its model takes seconds of this clock.

    Args:
        protocol: The yard.
        row_s: Seconds a row.
        predict_s: Seconds a predict, beside its rows.
        is_batchable: False for a version that is predicted job by job.
        raises: Whether every predict raises.
    """

    signature = signature_of(1)

    def __init__(
        self,
        protocol: Any,
        row_s: float = 0.0,
        predict_s: float = 0.0,
        is_batchable: bool = True,
        raises: bool = False,
    ) -> None:
        self.protocol, self.lease = protocol, protocol.lease(WORKER)
        self.row_s, self.predict_s, self.raises = row_s, predict_s, raises
        self.now = 0.0
        self.times = ServiceTimes()
        cache: Any = self
        loader: Any = SimpleNamespace(
            is_batchable=lambda _: is_batchable, is_current=lambda *_: True
        )
        self.executor = BatchExecutor(
            cache, loader, protocol.settings, self.times, lambda: self.now
        )
        self.took_s: list[float] = []
        self.claims: list[int] = []
        self.ends: list[float] = []

    @contextmanager
    def use(self, _ref: ModelRef) -> Iterator[Use]:
        model: Any = self
        yield Use(model, 0.0)

    def predict(self, rows: list[list[Any]]) -> dict[str, list[Any]]:
        self.now += self.predict_s + self.row_s * len(rows)
        if self.raises:
            raise ValueError("no")
        return {"predictions": [row[0] for row in rows]}

    def run(self, batch: Batch) -> BatchResult:
        began = self.now
        result = self.executor.run(batch, self.lease)
        self.took_s.append(self.now - began)
        bound(self.lease, self.times, batch.queue, self.protocol.settings)
        return result

    def step(self) -> bool:
        batch = self.protocol.look()
        if not isinstance(batch, Batch):
            return False
        self.claims.append(len(batch.jobs))
        result = self.run(batch)
        self.lease.finish(batch, result.ended_jobs, {}, (), result.released)
        self.ends += [self.now] * len(result.ended_jobs)
        return True

    def drain(self) -> None:
        while self.step():
            pass


@pytest.mark.parametrize(
    ("timeout_s", "pace"),
    [
        (5, {"row_s": 0.15, "is_batchable": False}),
        (60, {"row_s": 1.0}),
        (60, {"row_s": 1.0, "is_batchable": False}),
        (10, {"row_s": 0.2, "predict_s": 0.5}),
        (60, {"row_s": 0.1, "raises": True}),
    ],
)
def test_a_backlog_of_a_slow_version_ends_at_the_first_attempt_in_short_batches(
    protocol, timeout_s, pace
):
    mine = protocol.submit(64, timeout_s=timeout_s)
    worker = Worker(protocol, **pace)
    worker.drain()
    status = "failed" if worker.raises else "finished"
    assert protocol.statuses(mine) == [status] * 64
    assert protocol.attempts(mine) == [1] * 64
    assert max(worker.took_s) <= timeout_s / 2
    assert worker.ends == sorted(worker.ends)
    assert protocol.is_empty()


def test_the_first_answer_comes_after_its_own_time(protocol):
    mine = protocol.submit(64)
    worker = Worker(protocol, row_s=1.0)
    worker.step()
    assert worker.now == 1.0
    assert protocol.statuses(mine) == ["finished"] + ["queued"] * 63


def test_what_is_given_back_waits_at_the_head_in_order_as_if_never_claimed(redis, protocol):
    mine = protocol.submit(64, deadline_ms=60_000)
    late = protocol.submit(1)
    Worker(protocol, row_s=1.0).step()
    assert protocol.waiting() == [*mine[1:], *late]
    assert protocol.attempts(mine[1:]) == [0] * 63
    assert protocol.is_idle()
    assert redis.zcard(keys.key("wip", QUEUE)) == 0
    assert redis.zcard(keys.DEADLINES) == 63, "they expire as before"
    assert redis.exists(keys.key("bell", QUEUE)), "an idle worker may take them"


def test_the_next_claim_takes_what_it_can_predict_in_a_moment(protocol):
    protocol.submit(64)
    worker = Worker(protocol, row_s=0.05, is_batchable=False)
    worker.drain()
    assert worker.claims[0] == 64
    assert max(worker.claims[1:]) <= 5
    assert max(worker.took_s) <= 0.25 + 1e-6


def test_a_quick_version_is_claimed_in_full_batches_and_predicted_at_once(protocol):
    protocol.submit(192)
    worker = Worker(protocol, row_s=1e-5, predict_s=1e-3)
    worker.drain()
    assert worker.claims == [64, 64, 64]
    assert protocol.is_empty()


def test_where_a_predict_costs_much_beside_its_rows_jobs_share_it(protocol):
    protocol.submit(192)
    worker = Worker(protocol, predict_s=1.0)
    worker.drain()
    assert len(worker.took_s) < 20
    assert worker.claims[-1] > 16


def test_a_job_of_many_rows_is_run_alone_whatever_its_pace(protocol):
    protocol.submit(3, instances=[[1.0]] * 10)
    worker = Worker(protocol, row_s=1.0)
    worker.drain()
    assert worker.took_s == [10.0] * 3


def test_the_bound_of_a_queue_holds_for_it_alone_and_for_all_calls_of_a_claim(protocol):
    wide = protocol.bounded(batch_jobs=192)
    mine = wide.submit_at_once(192)
    wide.look()
    wide.reap(why="released")
    wide.lease().most_rows = {QUEUE: 70, "echo@v9": 1}
    assert ids(wide.claim()) == mine[:70]


def test_a_finish_whose_give_back_was_lost_ends_nothing(redis, protocol):
    """A server that has lost its scripts may know the finish, and not the script before it."""
    mine = protocol.submit(3)
    batch = protocol.claim()
    result = Worker(protocol, row_s=1.0).run(batch)
    ended = protocol.lease().ended(batch, result.ended_jobs, {}, (), result.released)
    assert _FINISH(redis, ended.calls[0]) == -1
    assert protocol.statuses(mine) == ["started"] * 3
    assert protocol.lease().write(ended) == 1
    assert protocol.waiting() == mine[1:]
    assert protocol.lease().write(ended) == 0
    assert protocol.waiting() == mine[1:], "a repeated call gives nothing back twice"


def test_a_worker_that_dies_before_the_finish_is_charged_for_what_it_ran_alone(redis, protocol):
    mine = protocol.submit(3)
    batch = protocol.claim()
    result = Worker(protocol, row_s=1.0).run(batch)
    ended = protocol.lease().ended(batch, result.ended_jobs, {}, (), result.released)
    _SHED(redis, ended.shed)
    assert protocol.held()["ids"].split() == mine[:1]
    reaped = protocol.reaped(why="timeout")
    assert (reaped.given_back, reaped.failed) == (0, 1)
    assert protocol.outcome(mine[0]) == ("failed", "timeout")
    assert protocol.attempts(mine[1:]) == [0, 0]


def test_where_the_queue_was_overwritten_the_rest_comes_back_once_it_is_mended(redis, protocol):
    mine = protocol.submit(3)
    batch = protocol.claim()
    redis.set(keys.key("queue", QUEUE), "rubbish")
    result = Worker(protocol, row_s=1.0).run(batch)
    assert protocol.lease().finish(batch, result.ended_jobs, {}, (), result.released) == 1
    assert protocol.statuses(mine) == ["finished", "started", "started"]
    redis.delete(keys.key("queue", QUEUE))
    protocol.lapse()
    assert sum(reaped.given_back for reaped in protocol.swept()) == 2
    assert protocol.waiting() == mine[1:]
    assert protocol.attempts(mine[1:]) == [0, 0]
    assert protocol.is_idle()
