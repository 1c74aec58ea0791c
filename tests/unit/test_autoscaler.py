"""How many workers there should be, decided from what was seen."""

from __future__ import annotations

from worker.autoscaler import Observation, Plan, Policy, decide

POLICY = Policy(least=1, most=3, idle_s=60)


def seen(queued: int = 0, starting: int = 0, busy: int = 0, **idle_for: float) -> Observation:
    return Observation(queued, starting, busy, idle_for)


def test_the_minimum_is_started_at_once() -> None:
    assert decide(seen(), Policy(2, 4, 60)) == Plan(start=2)


def test_waiting_jobs_and_nobody_free_start_one_more() -> None:
    assert decide(seen(queued=5, busy=1), POLICY) == Plan(start=1)


def test_no_second_one_is_started_while_the_first_is_starting() -> None:
    assert decide(seen(queued=5, busy=1, starting=1), POLICY) == Plan()


def test_an_idle_worker_will_take_the_jobs() -> None:
    assert decide(seen(queued=5, busy=1, w2=0.1), POLICY) == Plan()


def test_the_maximum_is_kept() -> None:
    assert decide(seen(queued=500, busy=3), POLICY) == Plan()


def test_workers_idle_for_long_leave_down_to_the_minimum_the_longest_first() -> None:
    assert decide(seen(a=61, b=90, c=70), POLICY) == Plan(leave=("b", "c"))


def test_nobody_leaves_while_jobs_wait() -> None:
    assert decide(seen(queued=1, a=61, b=90), POLICY) == Plan()


def test_the_last_worker_may_leave_where_the_minimum_is_zero() -> None:
    assert decide(seen(a=61), Policy(0, 2, 60)) == Plan(leave=("a",))


def test_a_queued_job_starts_a_worker_from_zero() -> None:
    assert decide(seen(queued=1), Policy(0, 2, 60)) == Plan(start=1)
