"""The autoscaler's decisions, as a function of observations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.pool.autoscaler import (
    Guard,
    Memory,
    Observation,
    Peer,
    Plan,
    Policy,
    decide,
    guard,
)
from yard.cluster.capacity import Bounds, Pace, Work, workers_wanted

POLICY = Policy(least=1, most=4, idle_s=60)
PACE = Pace(batch_s=0.0, row_s=0.01, load_s=0.5, rows=1.0)
NOW = 1000.0


def work(depth: int = 0, queue: str = "a@v1", **more: Any) -> Work:
    usual = Work(queue, depth, rows=float(depth), holders=1, pace=PACE)
    return replace(usual, **more)


def seen(*works: Work, starting: int = 0, busy: int = 0, idle: Sequence[str] = (), **more: Any):
    since = {name: NOW - 10 - place for place, name in enumerate(idle)}
    return Observation(works, starting, busy, since, **more)


def plan(observation: Observation, policy: Policy = POLICY) -> Plan:
    return decide(observation, policy, NOW)


def test_the_minimum_is_started_at_once():
    assert plan(seen(), Policy(2, 4, 60)) == Plan(start=2)


def test_a_queued_job_starts_a_worker_from_zero():
    assert plan(seen(work(1)), Policy(0, 2, 60)) == Plan(start=1)


def test_as_many_start_as_the_work_needs_within_the_target_wait():
    # 300 rows of 10 ms are 3 s of work, to be done within 1 s.
    assert plan(seen(work(300), busy=1)) == Plan(start=2)


def test_what_arrives_counts_when_nothing_waits():
    # 250 jobs/s of 10 ms keep 2.5 workers busy.
    assert plan(seen(work(0, running=10, arrivals_s=250), busy=1)) == Plan(start=2)


def test_a_worker_that_is_starting_is_not_started_again():
    assert plan(seen(work(200), busy=1, starting=1)) == Plan()


def test_idle_workers_take_what_waits_before_others_are_started():
    assert plan(seen(work(400), busy=1, idle=["w2", "w3"])) == Plan()


def test_a_backlog_is_measured_against_when_a_new_worker_could_help():
    assert plan(seen(work(400), busy=1, start_s=1.0)) == Plan(start=1)


def test_the_maximum_is_kept():
    assert plan(seen(work(100_000), busy=3)) == Plan(start=1)
    assert plan(seen(work(100_000), busy=4)) == Plan()


def test_a_version_with_jobs_and_no_worker_gets_one_at_once_beside_a_hot_one():
    hot, cold = work(90), work(1, "b@v1", holders=0)
    assert plan(seen(hot, busy=1)) == Plan()
    assert plan(seen(hot, cold, busy=1)) == Plan(start=1)


def test_a_version_that_nobody_has_measured_gets_one_worker_whatever_waits():
    assert plan(seen(work(50_000, pace=None, holders=0)), Policy(0, 8, 60)) == Plan(start=1)


def test_long_batches_do_not_hold_the_others_up():
    """Together they would need one worker; but the batch of 0.6 s cannot be broken off."""
    fast = work(0, "b@v1", running=1, arrivals_s=10)
    slow = work(0, running=1, pace=Pace(0.0, 0.6, 0.5, 1.0))
    assert plan(seen(replace(slow, pace=Pace(0.0, 0.4, 0.5, 1.0)), fast, busy=1)) == Plan()
    assert plan(seen(slow, fast, busy=1)) == Plan(start=1)


SLOW = work(9, "s@v1", running=1, pace=Pace(0.0, 5.0, 0.5, 1.0))


def test_a_worker_is_kept_free_for_short_batches_while_long_ones_run():
    observation = seen(SLOW, work(0, arrivals_s=10), busy=1, idle=["y"], names=["x", "y"])
    assert guard(observation, POLICY) == Guard("y", ("s@v1",))
    assert guard(replace(observation, guard="x"), POLICY) == Guard("x", ("s@v1",))
    assert guard(replace(observation, guard="gone"), POLICY) == Guard("y", ("s@v1",))


@pytest.mark.parametrize(
    ("works", "names"),
    [
        ([SLOW], ["x", "y"]),
        ([work(5)], ["x", "y"]),
        ([SLOW, work(0)], ["x", "y"]),
        ([SLOW, work(5)], ["x"]),
    ],
    ids=["only long ones", "only short ones", "nothing short has work", "one worker"],
)
def test_nobody_is_kept_free_where_nobody_need_be_or_can(works, names):
    assert guard(seen(*works, names=names, guard="x"), POLICY) is None


def test_one_job_however_long_is_for_one_worker():
    slow = Pace(0.0, 30.0, 0.5, 1.0)
    assert plan(seen(work(1, pace=slow)), Policy(0, 8, 60)) == Plan(start=1)


def test_jobs_that_wait_far_too_long_start_one_more_whatever_the_figures_say():
    late = seen(work(1, oldest_s=9.0), busy=1)
    assert plan(late) == Plan(start=1)
    assert plan(replace(late, starting=1, busy=0)) == Plan()
    assert plan(replace(late, started_at=NOW - 2)) == Plan()


def test_nothing_is_started_while_nothing_may_be_claimed():
    assert plan(seen(work(5000, oldest_s=90.0), busy=1, is_suspended=True)) == Plan()


def test_workers_that_were_not_needed_for_long_leave_down_to_the_minimum_the_longest_idle_first():
    assert plan(seen(idle=["a", "b", "c"], kept=0)) == Plan(leave=("c", "b"))


def test_nobody_leaves_who_was_needed_lately():
    assert plan(seen(idle=["a", "b", "c"], kept=3)) == Plan()


def test_nobody_leaves_while_the_pool_is_too_young_to_know():
    assert plan(seen(idle=["a", "b"], kept=None)) == Plan()


def test_who_alone_has_a_version_loaded_leaves_last():
    assert plan(seen(idle=["a", "b", "c"], kept=0, only=frozenset("c"))) == Plan(leave=("b", "a"))


def test_the_last_worker_may_leave_where_the_minimum_is_zero():
    assert plan(seen(idle=["a"], kept=0), Policy(0, 2, 60)) == Plan(leave=("a",))


def test_what_workers_of_other_pools_do_is_not_started_for_again():
    other = Peer("b", workers=2, least=0, most=4)
    assert plan(seen(work(300), busy=1, name="a", peers=[other])) == Plan()


def test_two_pools_share_what_is_missing():
    """The same look, from both sides, starts as many workers as are missing."""
    policy, load = Policy(0, 8, 60), work(500)
    starts = [
        plan(seen(load, busy=1, name=me, peers=[Peer(other, 1, 0, 8)]), policy).start
        for me, other in (("a", "b"), ("b", "a"))
    ]
    assert starts == [2, 1]


def test_two_pools_share_what_is_too_much():
    policy = Policy(0, 8, 60)
    left = [
        plan(seen(idle=["x", "y"], kept=1, name=me, peers=[Peer(other, 2, 0, 8)]), policy).leave
        for me, other in (("a", "b"), ("b", "a"))
    ]
    assert [len(names) for names in left] == [1, 2]


def test_a_full_pool_leaves_the_work_to_one_with_room():
    full = Peer("a", workers=0, least=0, most=0)
    assert plan(seen(work(1), name="b", peers=[full]), Policy(0, 2, 60)) == Plan(start=1)


paces = st.builds(
    Pace,
    st.floats(0, 1),
    st.floats(0, 2),
    st.floats(0, 10),
    st.floats(1, 100),
)
works = st.lists(
    st.builds(
        Work,
        queue=st.sampled_from(["a@v1", "a@v2", "a", "b@v1", "c@v1"]),
        depth=st.integers(0, 10_000),
        rows=st.floats(0, 1e6),
        running=st.integers(0, 500),
        arrivals_s=st.floats(0, 5000),
        holders=st.integers(0, 5),
        pace=st.none() | paces,
        oldest_s=st.floats(0, 100),
    ),
    max_size=5,
    unique_by=lambda work: work.queue,
)
policies = st.builds(
    lambda least, more: Policy(least, max(1, least + more), 60),
    st.integers(0, 5),
    st.integers(0, 9),
)
observations = st.builds(
    Observation,
    works=works,
    starting=st.integers(0, 4),
    busy=st.integers(0, 10),
    idle_since=st.dictionaries(st.sampled_from("uvwxyz"), st.floats(0, NOW)),
    started_at=st.floats(0, NOW),
    start_s=st.floats(0, 5),
    kept=st.none() | st.integers(0, 30),
    name=st.just("m"),
    peers=st.lists(
        st.builds(
            Peer, st.sampled_from("ank"), st.integers(0, 9), st.integers(0, 3), st.integers(0, 12)
        ),
        max_size=3,
        unique_by=lambda peer: peer.name,
    ),
    is_suspended=st.booleans(),
)


@given(observations, policies)
def test_no_plan_leads_below_the_minimum_or_above_the_maximum(observation, policy):
    made = decide(observation, policy, NOW)
    after = observation.workers + made.start - len(made.leave)
    assert after >= min(policy.least, observation.workers + made.start)
    assert after >= policy.least or made.leave == ()
    if made.start:
        assert policy.least <= after <= max(policy.most, policy.least)


@given(observations, policies)
def test_only_idle_workers_are_asked_to_leave_and_none_while_others_start(observation, policy):
    made = decide(observation, policy, NOW)
    assert set(made.leave) <= set(observation.idle_since)
    assert len(set(made.leave)) == len(made.leave)
    assert not (made.start and made.leave)


@given(observations, policies, st.integers(1, 1000))
def test_more_work_never_starts_fewer_workers(observation, policy, more):
    before = decide(observation, policy, NOW).start
    fuller = [
        replace(work, depth=work.depth + more, rows=work.rows + more) if work.depth else work
        for work in observation.works
    ]
    assert decide(replace(observation, works=fuller), policy, NOW).start >= before


@given(works, st.floats(0, 5))
def test_every_version_with_work_counts_and_none_without(given_works, start_s):
    slots = workers_wanted(given_works, Bounds(start_s=start_s))
    assert set(slots) == {work.queue for work in given_works}
    assert all(slots[work.queue] == 0 for work in given_works if not work.is_active)
    assert (sum(slots.values()) > 0) == any(work.is_active for work in given_works)


@given(st.lists(st.tuples(st.integers(0, 3000), st.floats(0.1, 2.0)), min_size=2, max_size=50))
def test_what_is_kept_is_never_less_than_what_is_needed_now(steps):
    memory, now = Memory(POLICY), 0.0
    for depth, passed in steps:
        now += passed
        kept = memory.kept([work(depth)], 0.0, now)
        assert kept is None or kept >= sum(workers_wanted([work(depth)], POLICY.bounds).values())


@pytest.mark.parametrize("rate", [0, 40, 400])
def test_arrivals_are_counted_over_seconds(rate):
    memory = Memory(POLICY)
    found = [memory.arrivals_s({"a@v1": 7 + rate * t // 2}, t / 2) for t in range(20)]
    assert found[-1]["a@v1"] == pytest.approx(rate)


def test_lost_counters_are_no_arrivals():
    memory = Memory(POLICY)
    for t, total in enumerate([50_000, 50_100, 3, 103]):
        rates = memory.arrivals_s({"a@v1": total}, float(t))
    assert rates["a@v1"] == pytest.approx(100)


def test_arrivals_end_soon_after_the_last():
    memory = Memory(POLICY)
    for t in range(20):
        rates = memory.arrivals_s({"a@v1": 100 * min(t, 10)}, t / 2)
    assert rates["a@v1"] == 0


def test_how_long_a_start_takes_is_seen():
    memory = Memory(POLICY)
    memory.start_s({"w": "starting"}, 0.0)
    memory.start_s({"w": "starting"}, 3.0)
    assert memory.start_s({"w": "idle"}, 5.0) == pytest.approx(3.0)  # 1 assumed, 5 seen
