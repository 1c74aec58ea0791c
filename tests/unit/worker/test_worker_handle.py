"""When a worker is late: by the pool's own clock, for the batch or the load that it is at."""

from __future__ import annotations

from typing import Any

import pytest

from worker.pool.worker_handle import WorkerHandle, WorkerView
from worker.queue.lease import MOST_TIMEOUT_S

#: Redis' clock, in ms, when the pool's shows 0 s.
REDIS_MS = 1_000_000.0
LOAD_S = 60.0


@pytest.fixture
def child() -> WorkerHandle:
    process: Any = None
    return WorkerHandle("w1", process, 0.0)


def see(
    child: WorkerHandle,
    now: float,
    token: str | None = None,
    left_s: float | None = None,
    *,
    state: str = "busy",
    load: str | None = None,
    step_s: float = 0.0,
) -> bool:
    """True if it is late, at a look when its batch has so much time left."""
    now_ms = REDIS_MS + 1000 * (now + step_s)
    deadline = None if left_s is None else str(now_ms + 1000 * left_s).encode()
    view = WorkerView(state.encode(), _raw(load), _raw(token), deadline)
    child.update(view, now, now_ms, LOAD_S)
    return child.is_late


def _raw(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def test_a_batch_is_late_when_its_time_is_up(child):
    assert not see(child, 0.0, "w1.1", 5.0)
    assert not see(child, 4.9, "w1.1", 0.1)
    assert see(child, 5.1, "w1.1", -0.1)


def test_the_next_batch_has_a_time_of_its_own(child):
    see(child, 0.0, "w1.1", 5.0)
    assert not see(child, 5.1, "w1.2", 5.0)
    assert see(child, 10.2, "w1.2", -0.1)


@pytest.mark.parametrize("step_s", [120.0, -120.0, 1e9])
def test_a_step_of_redis_clock_changes_nothing_for_a_batch_that_is_known(child, step_s):
    see(child, 0.0, "w1.1", 5.0)
    assert not see(child, 1.0, "w1.1", 4.0 - step_s, step_s=step_s)
    assert see(child, 5.1, "w1.1", -0.1 - step_s, step_s=step_s)


def test_a_worker_that_lost_its_batch_and_is_still_at_it_keeps_its_deadline(child):
    see(child, 0.0, "w1.1", 5.0, load="a")
    assert not see(child, 4.0, load="a")
    assert see(child, 5.1, load="a")


def test_a_load_between_two_batches_does_not_inherit_the_time_of_the_last(child):
    see(child, 0.0, "w1.1", 5.0, load="a")
    assert not see(child, 4.0, load="b")
    assert not see(child, 4.0 + LOAD_S - 0.1, load="b")
    assert see(child, 4.0 + LOAD_S + 0.1, load="b")


def test_one_load_after_the_other_has_a_time_of_its_own(child):
    see(child, 0.0, load="a")
    assert not see(child, LOAD_S + 1, load="b")


def test_nothing_is_due_of_an_idle_worker(child):
    see(child, 0.0, "w1.1", 5.0)
    assert not see(child, 4.0, state="idle")
    assert not see(child, 6.0, state="idle")


@pytest.mark.parametrize("deadline", [b"x", b"nan", b"inf", b"", b"\xff", None])
def test_a_deadline_that_is_none_is_the_usual_time(child, deadline):
    child.update(WorkerView(b"busy", None, b"w1.1", deadline), 0.0, REDIS_MS, LOAD_S)
    assert child.due == LOAD_S


def test_no_batch_has_longer_than_a_timeout_can_be(child):
    see(child, 0.0, "w1.1", 1e9)
    assert child.due == MOST_TIMEOUT_S
