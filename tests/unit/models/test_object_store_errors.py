"""Errors of an object store in our own words, with none of the store's."""

from __future__ import annotations

import pytest
from obstore.exceptions import (
    BaseError,
    GenericError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from models.store.object_store_errors import masked, reason_of

_QUOTED = "Error performing GET http://10.0.0.1/b?X-Amz-Signature=5EC12E7 in 3ms"


@pytest.mark.parametrize(
    ("error", "reason", "may_pass"),
    [
        (PermissionDeniedError(_QUOTED), "access is denied (no credentials)", False),
        (
            PermissionDeniedError(
                f"{_QUOTED} - Server returned non-2xx status code: 403 Forbidden: "
                "<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>5EC12E7</AWSAccessKeyId>"
            ),
            "access is denied (403 SignatureDoesNotMatch)",
            False,
        ),
        (UnauthenticatedError(f"{_QUOTED} status code: 401"), "access is denied (401)", False),
        (GenericError(f"{_QUOTED} status code: 503 <Code>SlowDown</Code>"), "503 SlowDown", True),
        (GenericError(f"{_QUOTED} status code: 429"), "it answers 429", True),
        (GenericError(f"{_QUOTED} status code: 400"), "it answers 400", False),
        (
            GenericError(f"{_QUOTED} status code: 404 Not Found: <Code>ContainerNotFound</Code>"),
            "there is no such bucket",
            False,
        ),
        (GenericError(f"{_QUOTED}\nkind: Timeout,"), "no answer in time", True),
        (GenericError(f"{_QUOTED}\nkind: Connect,"), "no connection", True),
        (GenericError(_QUOTED), "it does not answer (GenericError)", True),
    ],
)
def test_a_refusal_has_its_status_and_code_and_nothing_of_the_request(
    error: BaseError, reason: str, may_pass: bool
):
    said, passes = reason_of(error)
    assert reason in said
    assert passes is may_pass
    assert "5EC12E7" not in said
    assert "10.0.0.1" not in said


def test_what_is_shown_of_a_bad_configuration_has_no_secret(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0")
    assert masked("cannot decode 'c2VjcmV0'") == "cannot decode '***'"
