"""Measures: what workers write into a hash is what the gateway reads back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yard.cluster.metrics import (
    METRIC_DEFINITIONS,
    SECONDS,
    bucket,
    field,
    observation,
    parse_metric_field,
)

IRIS = {"model": "iris", "model_version": "v1"}


@pytest.mark.parametrize("metric", METRIC_DEFINITIONS.values(), ids=lambda metric: metric.name)
def test_a_field_reads_back_as_the_series_it_was_made_of(metric):
    labels = {label: f"a-{label}" for label in metric.labels}
    if metric.kind == "counter":
        made = {"total": field(metric.name, labels)}
    else:
        made = {part: field(f"{metric.name}_{part}", labels) for part in ("sum", "count")}
        made["bucket"] = field(f"{metric.name}_bucket", labels, "+Inf")
    for part, text in made.items():
        series = parse_metric_field(text)
        assert series is not None
        assert (series.metric, series.part, dict(series.labels)) == (metric, part, labels)
        assert series.le == ("+Inf" if part == "bucket" else None)


def test_a_field_is_what_the_scripts_of_the_workers_write():
    assert field("jobs_reaped_total", IRIS) == "jobs_reaped_total|model=iris|model_version=v1"
    assert field("jobs_quarantined_total", {}) == "jobs_quarantined_total"
    errors = field("model_prediction_errors_total", IRIS | {"error_type": "expired"})
    assert errors == "model_prediction_errors_total|model=iris|model_version=v1|error_type=expired"
    wait = field("queue_wait_seconds_bucket", IRIS, "0.005")
    assert wait == "queue_wait_seconds_bucket|model=iris|model_version=v1|le=0.005"


def test_labels_may_come_in_any_order():
    turned = dict(reversed(IRIS.items()))
    assert field("jobs_reaped_total", turned) == field("jobs_reaped_total", IRIS)


def test_an_unknown_name_has_no_field():
    with pytest.raises(KeyError, match="no_such"):
        field("no_such", IRIS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no_such|model=iris|model_version=v1",
        "batch_size|model=iris|model_version=v1",
        "jobs_reaped_total_sum|model=iris|model_version=v1",
        "jobs_reaped_total|model=iris",
        "jobs_reaped_total|model=iris|model_version=v1|status=x",
        "jobs_reaped_total|model=iris|model=iris|model_version=v1",
        'jobs_reaped_total|model=a"b|model_version=v1',
        "jobs_reaped_total|model=|model_version=v1",
        "batch_size_bucket|model=iris|model_version=v1",
        "batch_size_bucket|model=iris|model_version=v1|le=3",
        "batch_size_sum|model=iris|model_version=v1|le=1.0",
    ],
)
def test_a_field_that_workers_do_not_write_is_passed_over(text):
    assert parse_metric_field(text) is None


@given(st.text(alphabet="abcdelmostu_|=.+", max_size=80))
def test_no_text_breaks_the_reading_of_fields(text):
    parse_metric_field(text)


@given(st.floats(min_value=0, max_value=1e6))
def test_a_value_falls_into_the_first_bucket_that_holds_it(value):
    bound = float(bucket(METRIC_DEFINITIONS["queue_wait_seconds"], value))
    assert value <= bound
    assert all(lower < value for lower in SECONDS if lower < bound)


def test_an_observation_adds_to_one_bucket_the_sum_and_the_count():
    assert observation("batch_size", IRIS, 17) == {
        "batch_size_bucket|model=iris|model_version=v1|le=32.0": 1,
        "batch_size_sum|model=iris|model_version=v1": 17,
        "batch_size_count|model=iris|model_version=v1": 1,
    }
