"""Calls for operators over HTTP: catalogue, routes, health, metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from gateway.api import schemas
from tests.helpers.gateways import announce_pool, announce_worker, new_app
from tests.helpers.redis_server import RedisServer
from tests.helpers.stand_ins import ROW, publish, queued, start
from yard.cluster.metrics import METRIC_DEFINITIONS, field, observation
from yard.cluster.presence import read_presence
from yard.contract import keys
from yard.contract.values import ModelRef
from yard.registry import lifecycle

ROUTE = "/v1/models/iris/route"
V1 = {"model": "iris", "model_version": "v1"}
V2 = {"model": "iris", "model_version": "v2"}


@pytest.fixture
def http(redis: Redis, redis_url: str) -> Iterator[FlaskClient]:
    publish(redis, "iris", "v1", "v2", active="v1")
    with new_app(redis_url) as app:
        yield app.test_client()


def submit(http, **members: Any):
    response = http.post("/v1/models/iris/jobs", json={"instances": [ROW]} | members)
    assert response.status_code == 202
    return response.json["id"]


def test_a_retired_version_is_shown_and_gets_no_jobs(http, redis):
    lifecycle.retire(redis, ModelRef("iris", "v2"))
    versions = http.get("/v1/models/iris").json["versions"]
    assert [version["state"] for version in versions] == ["published", "retired"]
    detail = http.get("/v1/models/iris/versions/v2").json
    assert schemas.VersionDetail.model_validate(detail).state == "retired"
    for path in ("jobs", "predict"):
        body = {"instances": [ROW], "version": "v2"}
        response = http.post(f"/v1/models/iris/{path}", json=body)
        assert (response.status_code, response.json["code"]) == (404, "unknown_version")
        assert "retired" in response.json["detail"]
    response = http.put(ROUTE, json={"active": "v2"})
    assert (response.status_code, response.json["code"]) == (422, "invalid_route")


# Presence


def test_who_is_alive_is_read_with_what_they_hold(redis: Redis):
    announce_pool(redis, "b", idle=1, busy=2)
    announce_pool(redis, "a", starting=1)
    announce_worker(redis, "w1", versions={"iris@v1": 100, "iris@v2": 50})
    announce_worker(redis, "w2", versions={"iris@v1": 100})
    presence = read_presence(redis)
    assert [pool.name for pool in presence.pools] == ["a", "b"]
    states = [presence.count(state) for state in ("starting", "idle", "busy", "suspended")]
    assert states == [1, 1, 2, 0]
    assert [worker.name for worker in presence.holders("iris@v1")] == ["w1", "w2"]
    assert presence.holders("iris@v9") == ()


def test_who_has_gone_silent_is_not_alive(redis: Redis):
    announce_pool(redis, idle=1)
    redis.zadd(keys.PRESENCE, {"pool:here": 1})
    assert read_presence(redis).pools == ()


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"\xff\xfe", b"7", b'{"workers": [1]}'])
def test_garbage_is_nobody(redis: Redis, garbage):
    announce_pool(redis, "good", idle=1)
    seconds, _ = redis.time()
    later = (seconds + 5) * 1000
    for member in (b"pool:bad", b"worker:bad", b"\xff", b"x"):
        redis.zadd(keys.PRESENCE, {member: later})
    redis.set(keys.key("pool", "bad"), garbage, ex=5)
    redis.set(keys.key("loaded", "bad"), garbage, ex=5)
    presence = read_presence(redis)
    assert "good" in [pool.name for pool in presence.pools]
    assert presence.count("idle") == 1
    assert presence.holders("iris@v1") == ()


# Catalogue


def test_the_catalogue_tells_all_there_is_of_a_model(http, redis: Redis):
    announce_worker(redis, "w1", versions={"iris@v1": 1234})
    redis.hset(keys.key("aliases", "iris"), "champion", "v2")
    submit(http)
    submit(http, version="v2")
    response = http.get("/v1/models")
    assert response.status_code == 200
    schemas.Models.model_validate(response.json)
    (model,) = response.json["models"]
    assert http.get("/v1/models/iris").json == model
    assert (model["model"], model["queue_depth"]) == ("iris", 2)
    assert model["route"]["active"] == "v1"
    v1, v2 = model["versions"]
    assert (v1["version"], v1["active"], v1["share"], v1["aliases"]) == ("v1", True, 1.0, [])
    assert (v2["version"], v2["active"], v2["share"], v2["aliases"]) == (
        "v2",
        False,
        0.0,
        ["champion"],
    )
    assert v1["loaded"] == [{"worker": "w1", "host": "h", "bytes": 1234}]
    assert v2["loaded"] == []
    assert (v1["queue"], v1["queue_depth"], v1["digest"]) == ("iris@v1", 1, "0" * 64)
    assert [column["name"] for column in v1["signature"]["inputs"]] == ["a", "b", "c", "d"]


def test_a_version_is_shown_with_its_manifest(http):
    response = http.get("/v1/models/iris/versions/v2")
    assert response.status_code == 200
    schemas.VersionDetail.model_validate(response.json)
    assert response.json["version"] == "v2"
    assert response.json["manifest"]["digest"] == "0" * 64


def test_a_manifest_that_is_odd_hides_no_other(http, redis: Redis):
    good = json.loads(redis.hget(keys.key("versions", "iris"), "v1") or b"")
    odd = good | {"digest": 7, "files": [1, {"size_bytes": "x"}], "note": None, "created_at": []}
    redis.hset(keys.key("versions", "iris"), mapping={"v2": json.dumps(odd), "v3": "{", "V!": "{}"})
    response = http.get("/v1/models/iris")
    assert response.status_code == 200
    schemas.Model.model_validate(response.json)
    assert [version["version"] for version in response.json["versions"]] == ["v1", "v2"]


def test_an_empty_yard_has_no_models(redis: Redis, redis_url: str):
    with new_app(redis_url) as app:
        assert app.test_client().get("/v1/models").json == {"models": []}


# Routes


def test_a_route_is_what_is_in_force_and_what_the_keys_say(http, redis: Redis):
    redis.set(keys.key("active", "iris"), "v9")
    response = http.get(ROUTE)
    assert response.status_code == 200
    schemas.Route.model_validate(response.json)
    assert (response.json["active"], response.json["mode"]) == ("v1", "active")
    assert response.json["keys"]["active"] == "v9"
    assert "v9" in response.json["problems"][0]
    assert response.headers["ETag"] == f'"{response.json["revision"]}"'


def test_the_active_version_is_flipped(http, redis: Redis):
    response = http.put(ROUTE, json={"active": "v2"})
    assert (response.status_code, response.json["active"]) == (200, "v2")
    assert redis.get(keys.key("active", "iris")) == b"v2"
    submit(http)
    assert len(queued(redis, "iris@v2")) == 1


def test_traffic_is_split_and_the_split_is_cleared(http, redis: Redis):
    response = http.put(ROUTE, json={"weights": {"v1": 90, "v2": 10}})
    assert (response.status_code, response.json["mode"]) == (200, "weights")
    assert response.json["shares"] == {"v1": 0.9, "v2": 0.1}
    assert response.json["active"] == "v1"
    assert http.put(ROUTE, json={"weights": {}}).json["mode"] == "active"
    assert not redis.exists(keys.key("weights", "iris"))


def test_both_are_set_at_once(http):
    route = http.put(ROUTE, json={"active": "v2", "weights": {"v1": 1, "v2": 3}}).json
    assert (route["active"], route["shares"]) == ("v2", {"v1": 0.25, "v2": 0.75})


def test_a_change_holds_only_for_the_revision_that_was_seen(http):
    seen = http.get(ROUTE).headers["ETag"]
    first = http.put(ROUTE, json={"active": "v2"}, headers={"If-Match": seen})
    assert first.status_code == 200
    late = http.put(ROUTE, json={"active": "v1"}, headers={"If-Match": seen})
    assert (late.status_code, late.json["code"]) == (412, "revision_mismatch")
    assert http.get(ROUTE).json["active"] == "v2"


@pytest.mark.parametrize(
    ("match", "status"),
    [
        ("*", 200),
        ('"{now}"', 200),
        ('"999", "{now}"', 200),
        ('"999", "998"', 412),
        ('W/"{now}"', 412),
        ('"x"', 412),
        ('"-1"', 412),
        ('""', 412),
        ('"99999999999999999999"', 412),
    ],
)
def test_if_match_is_read_as_http_has_it(http, match, status):
    now = http.get(ROUTE).json["revision"]
    headers = {"If-Match": match.format(now=now)}
    assert http.put(ROUTE, json={"active": "v2"}, headers=headers).status_code == status


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_route"),
        ({"active": None}, "invalid_route"),
        ({"active": "v9"}, "invalid_route"),
        ({"weights": {"v9": 1}}, "invalid_route"),
        ({"weights": {"v1": -1}}, "invalid_route"),
        ({"weights": {"v1": 0}}, "invalid_route"),
        ({"active": "v2", "weights": {"v1": 0}}, "invalid_route"),
        ({"weights": {"v1": "9"}}, "invalid_input"),
        ({"weights": {"v1": True}}, "invalid_input"),
        ({"weights": {"v1": None}}, "invalid_input"),
        ({"weights": {"V 1": 1}}, "invalid_input"),
        ({"weights": [1]}, "invalid_input"),
        ({"active": 2}, "invalid_input"),
        ({"active": "../v2"}, "invalid_input"),
        ({"shadow": "v2"}, "invalid_input"),
        ([], "invalid_input"),
    ],
)
def test_a_route_that_cannot_be_obeyed_changes_nothing(http, body, code):
    before = http.get(ROUTE).json
    response = http.put(ROUTE, json=body)
    assert (response.status_code, response.json["code"]) == (422, code)
    assert http.get(ROUTE).json == before


# Health


def test_a_yard_that_can_serve_is_ready(http, redis: Redis):
    announce_pool(redis, idle=1)
    response = http.get("/readyz")
    assert response.status_code == 200
    schemas.Readiness.model_validate(response.json)
    assert set(response.json["checks"].values()) == {"ok"}


def test_a_yard_without_a_pool_names_the_pool(http):
    response = http.get("/readyz")
    assert (response.status_code, response.json["code"]) == (503, "not_ready")
    assert {name for name, state in response.json["checks"].items() if state != "ok"} == {"pools"}
    assert "modelyard pool" in response.json["detail"]


def test_a_pool_that_is_there_and_does_not_look_at_the_queues_is_stuck(http, redis: Redis):
    announce_pool(redis, "stuck", looked_s=keys.STUCK_S + 2, idle=1)
    response = http.get("/readyz")
    assert response.status_code == 503
    assert "stuck has completed no look" in response.json["checks"]["pools"]
    assert "pools_alive 0.0" in http.get("/metrics").text
    announce_pool(redis, "well", idle=1)
    assert http.get("/readyz").status_code == 200


def test_a_yard_without_an_active_version_names_the_key(redis: Redis, redis_url: str):
    publish(redis, "iris", "v1")
    announce_pool(redis, idle=1)
    with new_app(redis_url) as app:
        response: Any = app.test_client().get("/readyz")
    assert response.status_code == 503
    assert "modelyard:active:iris" in response.json["checks"]["models"]
    assert response.json["checks"]["pools"] == "ok"


def test_an_empty_yard_names_everything(redis: Redis, redis_url: str):
    with new_app(redis_url) as app:
        response: Any = app.test_client().get("/readyz")
    checks = response.json["checks"]
    assert checks["redis"] == "ok"
    assert checks["models"] == "no model is published"
    assert checks["pools"] != "ok"


def test_without_redis_the_process_lives_and_is_not_ready(http, redis_server: RedisServer):
    redis_server.kill()
    assert http.get("/healthz").json == {"status": "ok"}
    response = http.get("/readyz")
    assert (response.status_code, list(response.json["checks"])) == (503, ["redis"])


# Metrics


def samples(http) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of a scrape, which must be in Prometheus' own form."""
    response = http.get("/metrics")
    assert response.status_code == 200
    found = {}
    for family in text_string_to_metric_families(response.get_data(as_text=True)):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def series(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def test_the_names_are_the_contracts(http, redis: Redis):
    redis.hset(
        keys.METRICS,
        mapping={
            field(metric.name, V1 | {"status": "finished", "error_type": "expired"}): 1
            for metric in METRIC_DEFINITIONS.values()
            if metric.kind == "counter"
        },
    )
    for metric in METRIC_DEFINITIONS.values():
        if metric.kind == "histogram":
            for name, amount in observation(metric.name, V1, 0.01).items():
                redis.hset(keys.METRICS, name, amount)
    names = {name for name, _ in samples(http)}
    wanted = (
        *("model_prediction_requests_total", "model_prediction_errors_total", "route_problems"),
        *(
            "model_inference_latency_seconds_bucket",
            "model_load_time_seconds_count",
            "batch_size_sum",
        ),
        *("model_version_active", "model_route_weight", "loaded_model_versions", "queue_depth"),
        *("queue_oldest_seconds", "queue_wait_seconds_bucket", "jobs_inflight", "pool_workers"),
        *("jobs_reaped_total", "worker_crashes_total", "jobs_quarantined_total"),
    )
    for name in wanted:
        assert name in names, name
    assert "http_request_duration_seconds_count" in {name for name, _ in samples(http)}


def test_the_state_of_the_yard_is_measured_at_the_scrape(http, redis: Redis):
    redis.hset(keys.key("weights", "iris"), mapping={"v1": 90, "v2": 10})
    first = submit(http, version="v1")
    submit(http, version="v1")
    start(redis, first)
    redis.hset(keys.key("job", queued(redis, "iris@v1")[0]), "created_at", "2026-01-01T00:00:00Z")
    announce_pool(redis, idle=1, busy=2)
    announce_worker(redis, "w1", versions={"iris@v1": 1})
    found = samples(http)
    assert found[series("modelyard_redis_up")] == 1
    assert found[series("model_version_active", **V1)] == 1
    assert found[series("model_version_active", **V2)] == 0
    assert found[series("model_route_weight", **V1)] == 90
    assert found[series("model_route_weight", **V2)] == 10
    assert found[series("loaded_model_versions", **V1)] == 1
    assert found[series("loaded_model_versions", **V2)] == 0
    assert found[series("queue_depth", **V1)] == 1
    assert found[series("queue_depth", **V2)] == 0
    assert found[series("queue_oldest_seconds", **V1)] > 0
    assert found[series("queue_oldest_seconds", **V2)] == 0
    assert found[series("jobs_inflight", **V1)] == 1
    assert found[series("pool_workers", state="busy")] == 2
    assert found[series("pool_workers", state="suspended")] == 0
    assert found[series("route_problems", model="iris")] == 0


def test_a_bad_key_shows_as_a_problem(http, redis: Redis):
    redis.set(keys.key("active", "iris"), "v9")
    found = samples(http)
    assert found[series("route_problems", model="iris")] == 1
    assert found[series("model_version_active", **V1)] == 1


def test_what_workers_counted_is_shown_with_buckets_added_up(http, redis: Redis):
    for value in (0.0004, 0.003, 0.003, 90):
        for name, amount in observation("queue_wait_seconds", V1, value).items():
            redis.hincrbyfloat(keys.METRICS, name, amount)
    redis.hset(
        keys.METRICS,
        field("model_prediction_requests_total", V1 | {"status": "finished"}),
        4,
    )
    found = samples(http)
    assert found[series("model_prediction_requests_total", status="finished", **V1)] == 4
    buckets = [
        found[series("queue_wait_seconds_bucket", le=le, **V1)] for le in ("0.0005", "0.005")
    ]
    assert buckets == [1, 3]
    assert found[series("queue_wait_seconds_bucket", le="60.0", **V1)] == 3
    assert found[series("queue_wait_seconds_bucket", le="+Inf", **V1)] == 4
    assert found[series("queue_wait_seconds_count", **V1)] == 4
    assert found[series("queue_wait_seconds_sum", **V1)] == pytest.approx(90.0064)


def test_labels_come_from_the_catalogue_only(http, redis: Redis):
    stranger = {"model": "stranger", "model_version": "v1"}
    redis.hset(
        keys.METRICS,
        mapping={
            field("jobs_reaped_total", stranger): 5,
            field("jobs_reaped_total", V1): "nan",
            field("jobs_reaped_total", V2): 2,
            "jobs_reaped_total|x": 1,
            b"\xff\xfe": 1,
        },
    )
    shown = {key: value for key, value in samples(http).items() if key[0] == "jobs_reaped_total"}
    assert shown == {series("jobs_reaped_total", **V2): 2}


def test_requests_are_counted_by_template_method_and_status(http):
    submit(http)
    http.get("/v1/jobs/nobody")
    http.get("/nowhere/at/all")
    http.open("/healthz", method="BREW")
    found = samples(http)
    name = "http_request_duration_seconds_count"
    submitted = series(name, route="/v1/models/{model}/jobs", method="POST", status="202")
    assert found[submitted] == 1
    assert found[series(name, route="/v1/jobs/{job_id}", method="GET", status="404")] == 1
    assert found[series(name, route="unmatched", method="GET", status="404")] == 1
    assert found[series(name, route="unmatched", method="other", status="501")] == 1


def test_without_redis_a_scrape_shows_what_the_process_knows(http, redis_server: RedisServer):
    submit(http)
    redis_server.kill()
    found = samples(http)
    assert found[series("modelyard_redis_up")] == 0
    assert "queue_depth" not in {name for name, _ in found}
    name = "http_request_duration_seconds_count"
    assert found[series(name, route="/v1/models/{model}/jobs", method="POST", status="202")] == 1
