"""Bad input over HTTP: each is refused with its code and its place, and no job exists after it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis

from gateway.api import schemas
from tests.helpers.gateways import new_app
from tests.helpers.refusals import (
    BAD_IDEMPOTENCY_KEYS,
    BAD_MEMBERS,
    BAD_NAMES,
    BAD_OUTPUTS,
    BAD_ROWS,
)
from tests.helpers.stand_ins import IRIS, ROW, TEXT, publish
from yard.contract import keys
from yard.contract.values import Column, Output, Signature

NARROW_FLOATS = Signature(
    inputs=[Column(name=name, type="float32") for name in ("a", "b", "c", "d")],
    outputs=[Output(name="predictions", type="float64")],
)

#: A row of iris with something else in its first cell.
CELL = '{{"instances": [[1, 2, 3, 4], [{}, 2, 3, 4]]}}'
GOOD = {"instances": [ROW]}


@pytest.fixture
def http(redis: Redis, redis_url: str) -> Iterator[FlaskClient]:
    publish(redis, "iris", "v1", signature=IRIS, active="v1")
    publish(redis, "iris", "v2", signature=NARROW_FLOATS, active="v1")
    publish(redis, "sentiment", "v1", signature=TEXT, active="v1")
    publish(redis, "idle", "v1", signature=IRIS)
    with new_app(redis_url, rows=10, body_bytes=4096, queue_bound=2) as app:
        yield app.test_client()


def refused(redis: Redis, response: Any, status: int, code: str) -> dict[str, Any]:
    """The problem that the answer is, after which there is no job anywhere."""
    assert response.mimetype == "application/problem+json"
    problem: dict[str, Any] = schemas.Problem.model_validate(response.json).model_dump()
    assert (response.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert problem["detail"]
    assert not redis.keys("rq:job:*")
    assert not redis.keys("rq:queue:*")
    assert not redis.keys("modelyard:bell:*")
    return problem


#: Bad requests, those that HTTP alone can meet first -> body, status, code, place.
CASES: dict[str, tuple[Any, int, str, list[str | int] | None]] = {
    "no body": (b"", 400, "invalid_json", None),
    "only spaces": (b"  ", 400, "invalid_json", None),
    "broken JSON": (b'{"instances": [[1, 2', 400, "invalid_json", None),
    "a second value": (b"{} {}", 400, "invalid_json", None),
    "nested 2,000 deep": (b"[" * 2_000, 400, "invalid_json", None),
    "nested 2,000 deep and closed": (b"[" * 2_000 + b"]" * 2_000, 400, "invalid_json", None),
    "a number of 3,000 digits": (CELL.format("1" * 3_000), 400, "invalid_json", None),
    "a number beyond a double": (CELL.format("1e999"), 400, "invalid_json", None),
    "NaN": (CELL.format("NaN"), 400, "invalid_json", None),
    "infinity": (CELL.format("Infinity"), 400, "invalid_json", None),
    "minus infinity": (CELL.format("-Infinity"), 400, "invalid_json", None),
    "a key twice": (b'{"instances": [], "instances": []}', 400, "invalid_json", None),
    "a lone surrogate": (CELL.format(r'"\ud800"'), 400, "invalid_json", None),
    "a NUL": (CELL.format("\0"), 400, "invalid_json", None),
    "a byte-order mark": (b"\xef\xbb\xbf{}", 400, "invalid_json", None),
    "UTF-16": (json.dumps(GOOD).encode("utf-16"), 400, "invalid_json", None),
    "Latin-1": ('{"instances": ["é"]}'.encode("latin-1"), 400, "invalid_json", None),
    "null for a body": (b"null", 422, "invalid_input", []),
    "a list for a body": (b"[]", 422, "invalid_input", []),
    "an unknown member": (GOOD | {"extra": 1}, 422, "invalid_input", ["extra"]),
    "a number too large for 32 bits": (
        {"instances": [[1e39, 1, 1, 1]], "version": "v2"},
        422,
        "invalid_input",
        ["instances", 0, 0],
    ),
    "too many rows": ({"instances": [ROW] * 11}, 413, "too_large", None),
    "a body over the bound": (b" " * 4097, 413, "too_large", None),
    "an unknown version": (GOOD | {"version": "v9"}, 404, "unknown_version", None),
    **{
        f"the version {name!r}": (GOOD | {"version": name}, 422, "invalid_input", ["version"])
        for name in BAD_NAMES
    },
    **{
        what: (refusal.arguments, 422, refusal.code, refusal.loc)
        for what, refusal in (BAD_ROWS | BAD_OUTPUTS | BAD_MEMBERS).items()
    },
}


@pytest.mark.parametrize("call", ["jobs", "predict"])
@pytest.mark.parametrize(("body", "status", "code", "place"), CASES.values(), ids=CASES)
def test_a_bad_body_makes_no_job(http, redis: Redis, call, body, status, code, place):
    raw = body if isinstance(body, bytes) else body if isinstance(body, str) else json.dumps(body)
    response = http.post(f"/v1/models/iris/{call}", data=raw, content_type="application/json")
    problem = refused(redis, response, status, code)
    if place is not None:
        assert place in [fault["loc"] for fault in problem["errors"]]


def test_a_number_is_no_text(http, redis: Redis):
    response = http.post("/v1/models/sentiment/jobs", json={"instances": ["good", 5]})
    problem = refused(redis, response, 422, "invalid_input")
    assert problem["errors"] == [{"loc": ["instances", 1], "msg": "must be a string, not a number"}]


def test_an_answer_names_twenty_places_at_most(http, redis: Redis):
    response = http.post("/v1/models/iris/jobs", json={"instances": [["x"] * 4] * 10})
    assert len(refused(redis, response, 422, "invalid_input")["errors"]) == 20


@pytest.mark.parametrize(
    ("kind", "headers"),
    [
        ("text/plain", {}),
        ("application/x-www-form-urlencoded", {}),
        ("multipart/form-data; boundary=x", {}),
        ("application/json; charset=latin-1", {}),
        ("application/json", {"Content-Encoding": "gzip"}),
    ],
)
def test_what_is_not_plain_json_is_refused_by_its_type(http, redis: Redis, kind, headers):
    body = json.dumps(GOOD).encode()
    sent = gzip.compress(body) if headers else body
    response = http.post("/v1/models/iris/jobs", data=sent, content_type=kind, headers=headers)
    refused(redis, response, 415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["application/json; charset=UTF-8", "Application/JSON"])
def test_json_in_utf_8_may_say_so(http, kind):
    body = json.dumps(GOOD)
    assert http.post("/v1/models/iris/jobs", data=body, content_type=kind).status_code == 202


@pytest.mark.parametrize(
    "model",
    [
        "nope",
        "IRIS",
        "iris@v1",
        "a" * 64,
        ".iris",
        "a..b",
        "iris%0a",
        "\uff49ris",
        "%2e%2e",
        "con%20",
    ],
)
def test_a_model_that_there_is_not_is_unknown(http, redis: Redis, model):
    for path in (f"/v1/models/{model}/jobs", f"/v1/models/{model}/predict"):
        refused(redis, http.post(path, json=GOOD), 404, "unknown_model")
    for path in (f"/v1/models/{model}", f"/v1/models/{model}/route"):
        refused(redis, http.get(path), 404, "unknown_model")
    refused(
        redis, http.put(f"/v1/models/{model}/route", json={"active": "v1"}), 404, "unknown_model"
    )


@pytest.mark.parametrize("version", ["v9", "V1", "v1%0a", "a..b", "a" * 64])
def test_a_version_that_there_is_not_is_unknown(http, redis: Redis, version):
    refused(redis, http.get(f"/v1/models/iris/versions/{version}"), 404, "unknown_version")


@pytest.mark.parametrize("path", ["/v1/models/..%2firis/jobs", "/v1//models/iris/jobs", "/v1/x"])
def test_a_path_that_leads_elsewhere_leads_nowhere(http, redis: Redis, path):
    refused(redis, http.post(path, json=GOOD, headers={"Host": "evil"}), 404, "not_found")


def test_a_model_without_an_active_version_takes_no_jobs_of_its_own_choice(http, redis: Redis):
    problem = refused(redis, http.post("/v1/models/idle/jobs", json=GOOD), 409, "no_active_version")
    assert "modelyard:active:idle" in problem["detail"]


def test_a_full_queue_says_when_to_try_again(http, redis: Redis):
    for _ in range(2):
        assert http.post("/v1/models/iris/jobs", json=GOOD).status_code == 202
    response = http.post("/v1/models/iris/jobs", json=GOOD)
    assert (response.status_code, response.json["code"]) == (429, "queue_full")
    assert int(response.headers["Retry-After"]) >= 1
    assert redis.llen(keys.key("queue", "iris@v1")) == len(redis.keys("rq:job:*")) == 2


@pytest.mark.parametrize("key", BAD_IDEMPOTENCY_KEYS.values(), ids=BAD_IDEMPOTENCY_KEYS)
def test_an_idempotency_key_has_1_to_256_characters(http, redis: Redis, key):
    response = http.post("/v1/models/iris/jobs", json=GOOD, headers={"Idempotency-Key": key})
    problem = refused(redis, response, 422, "invalid_input")
    assert problem["errors"][0]["loc"] == ["Idempotency-Key"]


@pytest.mark.parametrize("seconds", ["61", "-1", "soon", "nan", "1e3"])
def test_a_timeout_that_is_no_number_of_seconds_makes_no_job(http, redis: Redis, seconds):
    response = http.post("/v1/models/iris/predict", query_string={"timeout": seconds}, json=GOOD)
    assert refused(redis, response, 422, "invalid_input")["errors"][0]["loc"] == ["timeout"]


def test_names_that_callers_make_up_leave_nothing_behind(http, redis: Redis):
    before = set(redis.keys("*"))
    for number in range(200):
        http.post("/v1/models/iris/jobs", json=GOOD | {"version": f"x{number}"})
        http.post(f"/v1/models/x{number}/jobs", json=GOOD)
        http.get(f"/x{number}", headers={"X-Model-Version": f"x{number}"})
    assert set(redis.keys("*")) == before
    shown = http.get("/metrics").get_data(as_text=True)
    assert "x1" not in shown
    assert 'route="unmatched"' in shown
