"""Problems: every error has a status, and unknown errors show no details."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from werkzeug.exceptions import MethodNotAllowed, UnsupportedMediaType

from gateway.middleware import problems
from yard import errors


def every(kind: type[errors.ModelyardError]) -> Iterator[type[errors.ModelyardError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:  # others stay within their own package
            yield from every(child)


#: Errors that no caller of the gateway can bring about.
OURS: set[type[errors.ModelyardError]] = {
    errors.ModelyardError,
    errors.ConfigurationError,
    errors.InvalidManifest,
    *(set(every(errors.JobFailed)) - {errors.ModelUnavailable}),  # a flip's, where a pool says so
}


def name_of(kind: Any) -> str:
    return str(kind.__name__)


def answer(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    status, headers, body = problems.problem_of(error)
    assert dict(headers)["Content-Type"] == "application/problem+json"
    return status, json.loads(body), dict(headers)


@pytest.mark.parametrize("kind", sorted(set(every(errors.ModelyardError)) - OURS, key=name_of))
def test_every_error_that_a_caller_can_cause_has_a_status(kind):
    found = problems.status_of(kind)
    assert found is not None
    assert 400 <= found[0] < 600


@pytest.mark.parametrize("kind", sorted(OURS, key=name_of))
def test_an_error_of_our_own_has_none(kind):
    assert problems.status_of(kind) is None


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidJson("x"), 400),
        (errors.InvalidInput("x"), 422),
        (errors.TooLarge("x"), 413),
        (errors.IdempotencyMismatch("x"), 422),
        (errors.UnknownModel("x"), 404),
        (errors.UnknownVersion("x"), 404),
        (errors.UnknownJob("x"), 404),
        (errors.NoActiveVersion("x"), 409),
        (errors.JobEnded("x"), 409),
        (errors.ModelUnavailable("x"), 409),
        (errors.RevisionMismatch("x"), 412),
        (errors.InvalidRoute("x"), 422),
        (errors.QueueFull("x"), 429),
        (errors.Unavailable("x"), 503),
        (errors.Timeout("x", "id"), 504),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_status_of_an_error_is_the_contracts(error, status):
    found, body, _ = answer(error)
    assert found == body["status"] == status
    assert body["code"] == error.code
    assert body["type"] == f"urn:modelyard:problem:{error.code}"
    assert body["detail"] == "x"
    assert body["title"]


def test_an_invalid_input_names_the_places():
    _, body, _ = answer(errors.InvalidInput.at(["instances", 3, 1], "must be a number"))
    assert body["errors"] == [{"loc": ["instances", 3, 1], "msg": "must be a number"}]


def test_a_timeout_names_the_job_that_lives_on():
    _, body, _ = answer(errors.Timeout("too slow", "abc"))
    assert (body["job_id"], body["url"]) == ("abc", "/v1/jobs/abc")


@pytest.mark.parametrize(
    ("error", "seconds"), [(errors.QueueFull("full", 7), "7"), (errors.Unavailable("gone"), "1")]
)
def test_what_may_succeed_later_says_when(error, seconds):
    _, _, headers = answer(error)
    assert headers["Retry-After"] == seconds


def test_what_flask_refuses_is_a_problem_too():
    status, body, _ = answer(UnsupportedMediaType("no text"))
    assert (status, body["code"], body["detail"]) == (415, "unsupported_media_type", "no text")


def test_a_wrong_method_says_which_ones_are_right():
    status, body, headers = answer(MethodNotAllowed(["GET", "HEAD"]))
    assert (status, body["code"]) == (405, "method_not_allowed")
    assert "GET" in headers["Allow"]


@pytest.mark.parametrize("error", [RuntimeError("the secret"), errors.ConfigurationError("secret")])
def test_an_unknown_error_is_told_by_a_fixed_text(error):
    status, body, _ = answer(error)
    assert (status, body["code"]) == (500, "internal")
    assert "secret" not in json.dumps(body)
