"""Headers and logs of every answer, the OpenAPI document and its page."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis

from gateway.services.container import services_of
from tests.helpers.gateways import new_app
from tests.helpers.stand_ins import ROW, publish
from yard.platform import logs
from yard.settings import Settings


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """The log of the test."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    stream = io.StringIO()
    logs.configure(Settings.load({}), stream)
    yield stream
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def app(redis: Redis, redis_url: str, logged: io.StringIO) -> Iterator[Flask]:
    publish(redis, "iris", "v1", active="v1")
    with new_app(redis_url) as made:
        yield made


@pytest.fixture
def http(app: Flask) -> FlaskClient:
    return app.test_client()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().split("\n")[:-1]]


# Ids and headers


@pytest.mark.parametrize("given", ["abc-1", "A.b_c:9", "x" * 128])
def test_a_sane_request_id_is_kept(http, given):
    response = http.get("/healthz", headers={"X-Request-Id": given})
    assert response.headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", " ", 'a {"level":"x"}', "x" * 129, "é", "\x1b[31m", "a b"])
def test_another_request_id_is_replaced(http, given):
    response = http.get("/healthz", headers={"X-Request-Id": given})
    assert re.fullmatch(r"[\w-]{33}", response.headers["X-Request-Id"])


@pytest.mark.parametrize("path", ["/healthz", "/nowhere", "/v1/jobs/x", "/docs", "/metrics"])
def test_every_answer_has_the_safe_headers(http, path):
    headers = http.get(path).headers
    assert headers["X-Request-Id"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert "Server" not in headers


# Logs


def test_a_request_leaves_one_line_with_its_job(http, logged: io.StringIO):
    response = http.post(
        "/v1/models/iris/jobs", json={"instances": [ROW]}, headers={"X-Request-Id": "r-1"}
    )
    (line,) = lines(logged)
    assert line["request_id"] == "r-1"
    assert (line["method"], line["route"], line["status"]) == (
        "POST",
        "/v1/models/{model}/jobs",
        202,
    )
    assert (line["job"], line["model"], line["version"]) == (response.json["id"], "iris", "v1")
    assert line["ms"] > 0
    told = [value for name, value in line.items() if name not in ("ms", "timestamp")]
    assert not any(str(number) in str(told) for number in ROW), "no value of a caller's"


def test_an_unknown_error_is_in_the_log_under_the_requests_id(
    app: Flask, logged: io.StringIO, monkeypatch: pytest.MonkeyPatch
):
    async def fail(_job_id: str) -> None:
        raise RuntimeError("a cause that callers must not see")

    monkeypatch.setattr(services_of(app).async_client, "get", fail)
    response: Any = app.test_client().get("/v1/jobs/abc", headers={"X-Request-Id": "r-2"})
    assert (response.status_code, response.json["code"]) == (500, "internal")
    assert "cause" not in response.get_data(as_text=True)
    error, access = lines(logged)
    assert error["request_id"] == access["request_id"] == response.headers["X-Request-Id"] == "r-2"
    assert "a cause that callers must not see" in error["exception"]
    assert access["status"] == 500


def test_a_request_cannot_write_lines_of_its_own(http, logged: io.StringIO):
    http.get('/v1/models/x%0a{"level":"error"}/route', headers={"X-Request-Id": 'a"b'})
    (line,) = lines(logged)
    assert (line["level"], line["status"]) == ("info", 404)


# The document


@pytest.fixture
def document(http):
    response = http.get("/openapi.json")
    assert (response.status_code, response.mimetype) == (200, "application/json")
    return response.json


def test_the_document_is_openapi_3_1_and_has_every_call(document: dict[str, Any]):
    assert document["openapi"] == "3.1.0"
    calls = {(method, path) for path, item in document["paths"].items() for method in item}
    assert calls == {
        ("post", "/v1/models/{model}/jobs"),
        ("post", "/v1/models/{model}/predict"),
        ("get", "/v1/jobs/{job_id}"),
        ("delete", "/v1/jobs/{job_id}"),
        ("get", "/v1/models"),
        ("get", "/v1/models/{model}"),
        ("get", "/v1/models/{model}/versions/{version}"),
        ("get", "/v1/models/{model}/route"),
        ("put", "/v1/models/{model}/route"),
        ("get", "/v1/scaling"),
        ("get", "/health"),
        ("get", "/healthz"),
        ("get", "/readyz"),
        ("get", "/metrics"),
    }


def test_every_reference_in_the_document_leads_somewhere(document: dict[str, Any]):
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert names
    assert names <= document["components"]["schemas"].keys()


def test_every_call_says_what_it_takes_and_answers(document: dict[str, Any]):
    ids = []
    for path, item in document["paths"].items():
        for method, operation in item.items():
            ids.append(operation["operationId"])
            assert operation["summary"], path
            assert "<br" not in operation["description"]
            assert "200" in operation["responses"], path
            assert "default" in operation["responses"], path
            told = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
            assert told == set(re.findall(r"{(\w+)}", path))
            assert ("requestBody" in operation) == (method in ("post", "put")), path
    assert len(ids) == len(set(ids))


def test_the_problems_of_a_submission_are_told_by_their_codes(document: dict[str, Any]):
    responses = document["paths"]["/v1/models/{model}/predict"]["post"]["responses"]
    assert "`queue_full`" in responses["429"]["description"]
    assert "`unsupported_media_type`" in responses["415"]["description"]
    assert "application/problem+json" in responses["504"]["content"]


# The page


def test_the_page_needs_nothing_from_elsewhere(http):
    page = http.get("/docs")
    assert (page.status_code, page.mimetype) == (200, "text/html")
    text = page.get_data(as_text=True)
    links = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert links
    assert all(link.startswith("/") and not link.startswith("//") for link in links)
    for link in links:
        response = http.get(link)
        assert response.status_code == 200, link
        assert response.data
    assert "<script>" not in text  # the policy allows no script in the page itself
    assert "style=" not in text


@pytest.mark.parametrize("name", ["nothing.js", "..%2f..%2fplugins.py", "../plugins.py", "%2fetc"])
def test_the_page_has_no_other_files(http, name):
    assert http.get(f"/docs/assets/{name}").status_code == 404
