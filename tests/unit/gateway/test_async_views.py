"""The calls that the event loop answers itself, and those that it hands to Flask."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.api import ASYNC_VIEWS, AsyncViewIndex
from gateway.http.messages import HttpRequest
from gateway.http.wsgi import environ

INDEX = AsyncViewIndex(ASYNC_VIEWS)


@pytest.mark.parametrize(
    ("method", "path", "template", "names"),
    [
        ("POST", "/v1/models/iris/predict", "/v1/models/{model}/predict", {"model": "iris"}),
        ("POST", "/v1/models/é /jobs", "/v1/models/{model}/jobs", {"model": "é "}),
        ("POST", "/v1/models/predict/jobs", "/v1/models/{model}/jobs", {"model": "predict"}),
        ("GET", "/v1/jobs/abc", "/v1/jobs/{job_id}", {"job_id": "abc"}),
        ("HEAD", "/v1/jobs/abc", "/v1/jobs/{job_id}", {"job_id": "abc"}),
        ("GET", "/healthz", "/healthz", {}),
    ],
)
def test_a_call_is_found_with_what_its_path_names(method, path, template, names):
    found = INDEX.find(method, path)
    assert found is not None
    assert (found[0].template, found[1]) == (template, names)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models/iris/predict"),
        ("DELETE", "/v1/jobs/abc"),
        ("POST", "/v1/models//predict"),
        ("POST", "/v1/models/predict"),
        ("POST", "/v1/models/a/b/predict"),
        ("POST", "/v1/models/iris/predict/"),
        ("POST", "//v1/models/iris/predict"),
        ("GET", "/v1/jobs/"),
        ("GET", "/v1/jobs/a/b"),
        ("GET", "/healthz/"),
        ("GET", "*"),
    ],
)
def test_everything_else_is_for_flask(method, path):
    assert INDEX.find(method, path) is None


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("", None),
        ("wait=5", "5"),
        ("a=1&wait=5&wait=6", "5"),
        ("wait", ""),
        ("wait=", ""),
        ("wait=%2B1", "+1"),
        ("Wait=5", None),
        ("%77ait=5", "5"),
        ("wait=%ff", "\ufffd"),
    ],
)
def test_a_parameter_of_the_query_is_read_as_flask_reads_it(query, value):
    fields: Any = {}
    assert HttpRequest({}, query, fields, b"").query("wait") == value


class Scope:
    """A request of granian's."""

    method, http_version, scheme = "PUT", "1.1", "http"
    path, query_string = "/v1/models/é/route", "wait=0"
    server, client = "127.0.0.1:8000", "127.0.0.1:5555"

    class headers:  # as granian has it
        """Its fields."""

        @staticmethod
        def items() -> list[tuple[str, str]]:
            return [
                ("host", "x"),
                ("content-type", "application/json"),
                ("content-length", "2"),
                ("x-forwarded-for", "a"),
                ("x-forwarded-for", "b"),
            ]


def test_a_request_for_flask_is_as_wsgi_has_it():
    scope: Any = Scope
    known = environ(scope, b"{}")
    assert known["PATH_INFO"].encode("latin-1").decode() == "/v1/models/é/route"
    assert (known["REQUEST_METHOD"], known["QUERY_STRING"]) == ("PUT", "wait=0")
    assert (known["CONTENT_TYPE"], known["CONTENT_LENGTH"]) == ("application/json", "2")
    assert (known["HTTP_HOST"], known["HTTP_X_FORWARDED_FOR"]) == ("x", "a,b")
    assert (known["SERVER_NAME"], known["SERVER_PORT"]) == ("127.0.0.1", "8000")
    assert known["REMOTE_ADDR"] == "127.0.0.1"
    assert known["wsgi.input"].read() == b"{}"
