"""Pools under recorded loads, on a simulated yard: they follow, and do not flap.

The traces are jobs a second as `bench/scaling.py` submitted them; a job costs 1.7 ms there and
here. Waits are those of the simulated clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from bench import oracle
from tests.helpers.simulation import Outcome, Trace, Yard, read_trace
from worker.pool.autoscaler import Policy
from yard.cluster.capacity import Bounds, Pace

PACE = Pace(batch_s=0.002, row_s=0.0017, load_s=0.05, rows=1.0)
POLICY = Policy(least=0, most=8, idle_s=5.0, bounds=Bounds())
TARGET_S = POLICY.bounds.wait_s


def serve(trace: Trace, *policies: Policy, seed: int = 1, more_s: float = 0.0) -> Outcome:
    yard = Yard(dict.fromkeys(trace.rates, PACE))
    return yard.run(trace, *(policies or (POLICY,)), seed=seed, more_s=more_s)


def cost(outcome: Outcome, trace: Trace) -> float:
    """Worker-seconds, as so many times the oracle's."""
    paces = dict.fromkeys(trace.rates, PACE)
    return outcome.worker_s / sum(oracle.workers(trace.rates, paces, POLICY.bounds.batch_jobs))


def turns(sizes: Sequence[int]) -> int:
    """Number of times that workers were taken away and added again."""
    moves = [after - before for before, after in pairwise(sizes) if after != before]
    return sum(down < 0 < up for down, up in pairwise(moves))


def steady(seconds: int) -> Trace:
    """The 2,000 jobs a second of the steps, for longer."""
    (rates,) = read_trace("steps").rates.values()
    return Trace({"paced@v1": (list(rates[40:75]) * (seconds // 35 + 1))[:seconds]})


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_steps_are_followed_within_the_target_and_the_cost(seed):
    trace = read_trace("steps")
    outcome = serve(trace, seed=seed, more_s=5)
    assert outcome.wait_s(0.99, 15, 35) < 2 * TARGET_S
    assert outcome.wait_s(0.99, 45, 75) < 2 * TARGET_S
    assert cost(outcome, trace) < 1.3
    assert outcome.size(15, 35) == {1}
    assert len(outcome.size(50, 75)) == 1, "nobody starts or leaves in the steady part"
    assert outcome.sizes[-1][1] == 0, "nothing is left in the end"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_sawtooth_over_three_versions_is_followed_within_the_target_and_the_cost(seed):
    trace = read_trace("sawtooth")
    outcome = serve(trace, seed=seed)
    assert outcome.wait_s(0.99, 10, 100) < 2 * TARGET_S
    assert cost(outcome, trace) < 1.35
    for queue in trace.rates:
        assert outcome.wait_s(0.99, 10, 100, queue) < 2 * TARGET_S


def test_a_sawtooth_faster_than_idle_s_moves_nothing():
    outcome = serve(read_trace("sawtooth"), replace(POLICY, idle_s=30.0))
    assert outcome.stops == []
    assert len(outcome.starts) <= 5


@pytest.mark.parametrize("share", [0.1, 0.25, 0.29, 0.3, 0.31, 0.5, 0.55, 0.6, 0.85, 1.0])
def test_a_steady_load_moves_nothing_wherever_between_two_workers_it_lies(share):
    trace = steady(150)
    part = Trace({queue: [share * rate for rate in rates] for queue, rates in trace.rates.items()})
    outcome = serve(part)
    sizes = [size for at, size in outcome.sizes if at > 20]
    assert turns(sizes) <= 1
    assert len(set(sizes)) <= 2
    assert outcome.wait_s(0.99, 20, 150) < 2 * TARGET_S


def test_no_worker_is_told_to_leave_with_a_batch_in_hand():
    for name in ("steps", "sawtooth"):
        outcome = serve(read_trace(name))
        assert outcome.dismissed_busy == 0
        assert outcome.stops, "some did leave"


@pytest.mark.parametrize("name", ["steps", "sawtooth"])
def test_two_pools_on_one_redis_run_about_what_one_would(name):
    trace = read_trace(name)
    half = replace(POLICY, most=4)
    one, two = serve(trace), serve(trace, half, half)
    assert two.worker_s < 1.15 * one.worker_s
    assert two.wait_s(0.99, 45, 75) < 2 * TARGET_S
    assert max(size for _, size in two.sizes) <= 8


def test_a_worker_that_takes_long_to_start_does_not_bring_a_crowd():
    trace = read_trace("steps")
    slow = Yard(dict.fromkeys(trace.rates, PACE), start_s=5.0).run(trace, POLICY)
    assert max(size for _, size in slow.sizes) <= 6
    assert slow.wait_s(0.99, 60, 75) < 2 * TARGET_S


def test_a_cold_herd_loads_once_a_worker_and_asks_for_no_more_than_it_needs():
    """500 jobs at once for a version that takes 2 s to load and was never measured."""
    burst = Trace({"cold@v1": [0.0, 500.0, *[0.0] * 28]})
    pace = Pace(batch_s=0.002, row_s=0.001, load_s=2.0, rows=1.0)
    outcome = Yard({"cold@v1": pace}).run(burst, replace(POLICY, most=4))
    assert outcome.left == 0
    assert outcome.loads["cold@v1"] <= len(outcome.starts) <= 2


def test_a_hot_version_does_not_keep_a_cold_one_waiting():
    hot = Trace({"hot@v1": [2000.0] * 60, "cold@v1": [0.0] * 30 + [1.0] * 30})
    outcome = serve(hot, replace(POLICY, most=4))
    assert outcome.wait_s(1.0, 30, 60, "cold@v1") < 2 * TARGET_S
    assert outcome.wait_s(0.99, 40, 60, "hot@v1") < 2 * TARGET_S


def test_versions_that_do_not_fit_together_share_a_worker_without_loading_all_the_time():
    both = Trace({"a@v1": [300.0] * 60, "b@v1": [300.0] * 60})
    pace = replace(PACE, load_s=0.5)
    yard = Yard(dict.fromkeys(both.rates, pace), keeps=1)
    outcome = yard.run(both, Policy(1, 1, 60.0))
    assert sum(outcome.loads.values()) < 60
