"""A worker's speed with a version, measured from its batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.inference.throughput import ServiceTimes

QUEUE = "a@v1"


def fed(batches) -> ServiceTimes:
    watch = ServiceTimes()
    for jobs, rows, seconds in batches:
        watch.add(QUEUE, jobs, rows, seconds, 0.0)
    return watch


def test_what_a_batch_costs_is_told_from_what_a_row_costs():
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 65, 200)
    noise = rng.normal(1, 0.1, 200)
    pace = fed(
        (n, n, (0.004 + 0.001 * n) * x) for n, x in zip(sizes, noise, strict=True)
    ).unwritten()[QUEUE]
    assert pace.row_s == pytest.approx(0.001, rel=0.15)
    assert pace.batch_s == pytest.approx(0.004, abs=0.003)


def test_batches_of_one_size_put_all_on_the_rows():
    pace = fed([(1, 1, 0.01)] * 50).unwritten()[QUEUE]
    assert pace.batch_s == pytest.approx(0, abs=1e-4)
    assert pace.row_s == pytest.approx(0.01, rel=0.01)


def test_the_first_batch_counts_only_until_there_is_a_second():
    assert fed([(1, 1, 0.5)]).unwritten()[QUEUE].row_s == pytest.approx(0.5)
    assert fed([(1, 1, 0.5), (1, 1, 0.01)]).unwritten()[QUEUE].row_s == pytest.approx(0.01, rel=0.2)


def test_a_version_that_becomes_slow_is_seen_soon():
    pace = fed([(8, 8, 0.08)] * 500 + [(8, 8, 0.16)] * 100).unwritten()[QUEUE]
    assert pace.row_s == pytest.approx(0.02, rel=0.1)


def test_rows_in_a_job_and_the_load_time_are_kept():
    watch = ServiceTimes()
    watch.add(QUEUE, 2, 20, 0.1, 3.0)
    watch.add(QUEUE, 2, 20, 0.1, 0.0)
    pace = watch.unwritten()[QUEUE]
    assert pace.rows == pytest.approx(10)
    assert pace.load_s == 3.0


def test_only_what_was_served_since_it_was_told_is_news():
    watch = fed([(1, 1, 0.1)])
    unwritten = watch.unwritten()
    assert watch.unwritten() == unwritten
    watch.mark_written(unwritten)
    assert watch.unwritten() == {}
    watch.add(QUEUE, 1, 1, 0.1, 0.0)
    assert set(watch.unwritten()) == {QUEUE}


def test_a_batch_in_which_nothing_was_predicted_says_nothing():
    assert fed([(0, 0, 0.1)]).unwritten() == {}


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0, 60)), min_size=1, max_size=80))
def test_a_pace_is_never_negative_and_goes_through_the_mean(batches):
    pace = fed((n, n, s) for n, s in batches).unwritten()[QUEUE]
    assert pace.batch_s >= 0
    assert pace.row_s >= 0
    assert pace.rows == pytest.approx(1)


def stacked(*stacks: tuple[int, float], is_mixed: bool = True) -> ServiceTimes:
    watch = ServiceTimes()
    for rows, seconds in stacks:
        watch.add_stack(QUEUE, rows, seconds, is_mixed)
    return watch


def test_a_version_that_was_not_measured_begins_with_one_row_and_is_claimed_as_any():
    watch = ServiceTimes()
    assert watch.stack_rows(QUEUE, 60) == 1
    assert watch.claim_rows(QUEUE, 60) is None


def test_a_quick_version_is_not_bounded():
    watch = stacked((1, 0.0005), (63, 0.001))
    assert watch.stack_rows(QUEUE, 60) > 4096


def test_rows_that_take_long_are_stacked_one_by_one():
    watch = stacked((1, 1.0), (1, 1.0), (2, 2.0))
    assert watch.stack_rows(QUEUE, 60) == 1
    assert watch.expected_s(QUEUE, 3) == pytest.approx(3, rel=0.1)


def test_a_job_by_job_version_is_bounded_from_its_first_job_on():
    watch = stacked((1, 0.15), is_mixed=False)
    assert watch.stack_rows(QUEUE, 60) == 1
    assert watch.claim_rows(QUEUE, 60) == 1


def test_where_a_predict_costs_much_beside_its_rows_stacks_grow_all_the_same():
    watch, rows = ServiceTimes(), 0
    for _ in range(20):
        rows = watch.stack_rows(QUEUE, 60)
        watch.add_stack(QUEUE, rows, 2.0)
    assert rows >= 64


@given(
    stacks=st.lists(
        st.tuples(st.integers(1, 10_000), st.floats(1e-6, 100)), min_size=1, max_size=30
    ),
    timeout_s=st.integers(1, 3600),
)
def test_whatever_was_measured_a_stack_has_rows_and_is_expected_in_time(stacks, timeout_s):
    watch = stacked(*stacks)
    rows = watch.stack_rows(QUEUE, timeout_s)
    assert rows >= 1
    assert rows == 1 or watch.expected_s(QUEUE, rows) <= timeout_s / 2 + 1e-6
