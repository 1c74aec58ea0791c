"""Whose turn it is: each version gets its part of a worker's time, and none waits for ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from worker.queue.fair_queue import FairQueue


def serve(
    costs: Mapping[str, float], backlog: set[str], seconds: float, loaded: set[str]
) -> dict[str, float]:
    """Seconds that each queue gets of a worker while those of ``backlog`` always have jobs."""
    fair_queue, had = FairQueue(), dict.fromkeys(backlog, 0.0)
    now = 0.0
    waits = dict.fromkeys(backlog, 0.0)
    while now < seconds:
        order = fair_queue.order(list(costs), loaded, waits)
        queue = next(queue for queue in order if queue in backlog)
        fair_queue.begin(queue)
        fair_queue.charge(queue, costs[queue])
        loaded.add(queue)
        had[queue] += costs[queue]
        now += costs[queue]
        waits = {
            each: 0.0 if each == queue else wait + costs[queue] for each, wait in waits.items()
        }
    return had


def test_a_slow_version_gets_as_much_time_as_a_fast_one():
    had = serve({"a@v1": 0.1, "b@v1": 0.002}, {"a@v1", "b@v1"}, 20, {"a@v1", "b@v1"})
    assert abs(had["a@v1"] - had["b@v1"]) < 0.5


def test_what_nobody_uses_goes_to_the_others():
    had = serve({"a@v1": 0.1, "b@v1": 0.1, "c@v1": 0.1}, {"a@v1"}, 5, {"a@v1", "b@v1"})
    assert set(had) == {"a@v1"}


def test_loaded_versions_come_first_and_of_equals_whose_first_job_waits_longest():
    order = FairQueue().order(
        ["a@v1", "b@v1", "c@v1"], {"b@v1", "c@v1"}, {"b@v1": 0.1, "c@v1": 0.2}
    )
    assert order == ["c@v1", "b@v1", "a@v1"]


def test_what_is_not_loaded_comes_first_once_it_has_waited_for_too_long():
    fair_queue = FairQueue(patience_s=1.0)
    fair_queue.order(["a@v1", "b@v1"], {"a@v1"}, {})
    fair_queue.begin("a@v1")
    fair_queue.charge("a@v1", 0.5)
    assert fair_queue.order(["a@v1", "b@v1"], {"a@v1"}, {"b@v1": 0.9})[0] == "a@v1"
    assert fair_queue.order(["a@v1", "b@v1"], {"a@v1"}, {"b@v1": 1.0})[0] == "b@v1"


def test_versions_that_do_not_fit_together_are_not_loaded_over_and_over_and_share_all_the_same():
    fair_queue, taken = FairQueue(), ["b@v1"]
    for _ in range(100):
        order = fair_queue.order(["a@v1", "b@v1"], {taken[-1]}, {"a@v1": 5.0, "b@v1": 5.0})
        load_s = 0.5 if order[0] != taken[-1] else 0.0
        fair_queue.begin(order[0])
        fair_queue.charge(order[0], 0.1 + load_s, load_s)
        taken.append(order[0])
    changes = sum(before != after for before, after in pairwise(taken))
    assert 5 <= changes <= 12
    assert 35 <= taken.count("a@v1") <= 65


def test_an_unversioned_queue_needs_no_loading():
    assert FairQueue().order(["a@v1", "a"], set(), {}) == ["a", "a@v1"]


def test_an_idle_version_saves_no_credit_up():
    fair_queue = FairQueue()
    for _ in range(100):
        fair_queue.order(["a@v1", "b@v1"], {"a@v1", "b@v1"}, {})
        fair_queue.begin("a@v1")
        fair_queue.charge("a@v1", 0.1)
    taken = Counter[str]()
    for _ in range(20):
        order = fair_queue.order(["a@v1", "b@v1"], {"a@v1", "b@v1"}, {})
        fair_queue.begin(order[0])
        fair_queue.charge(order[0], 0.1)
        taken[order[0]] += 1
    assert taken["b@v1"] <= 13


def test_new_queues_and_queues_that_are_gone_are_no_trouble():
    fair_queue = FairQueue()
    fair_queue.order(["a@v1"], set(), {})
    fair_queue.order(["b@v1"], set(), {})
    fair_queue.begin("a@v1")
    fair_queue.charge("a@v1", 1.0)
    assert fair_queue.order(["a@v1", "b@v1"], {"a@v1"}, {}) == ["a@v1", "b@v1"]


@given(
    st.dictionaries(
        st.sampled_from(["a@v1", "b@v1", "c@v1", "d@v1"]), st.floats(0.01, 0.5), min_size=1
    )
)
def test_every_version_with_a_backlog_gets_about_its_part(costs):
    had = serve(costs, set(costs), 20, set())
    fair = 20 / len(costs)
    assert all(had[queue] > fair - 2 for queue in costs)
