"""Errors of an object store in our words.

obstore's errors quote the request, with its address and headers, and the store's answer. None of
that goes into a message: only the status, the store's own code, and the kind of failure.
"""

from __future__ import annotations

import os
import re

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

#: Variables that allow http://, by the store's kind; obstore reads them as well.
ALLOW_HTTP = {"s3": "AWS_ALLOW_HTTP", "gs": "GOOGLE_ALLOW_HTTP", "az": "AZURE_ALLOW_HTTP"}

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
_KIND = re.compile(r"kind: (Connect|Timeout|Request|Decode)\b")
_KINDS = {
    "Connect": "no connection",
    "Timeout": "no answer in time",
    "Request": "the connection broke",
    "Decode": "the connection broke",
}


def lacks_bucket(error: Exception) -> bool:
    """True if a store says that there is no such bucket, in the words of S3, Google or Azure."""
    return any(code in str(error) for code in _NO_BUCKET)


def reason_of(error: BaseError) -> tuple[str, bool]:
    """Returns the reason in our words, and True if a retry may succeed."""
    text = str(error)
    code = _CODE.search(text)
    status = _STATUS.search(text)
    answer = " ".join(found[1] for found in (status, code) if found)
    is_denied = isinstance(error, PermissionDeniedError | UnauthenticatedError)
    if is_denied or answer[:3] in ("401", "403"):
        return f"access is denied ({answer or 'no credentials'})", False
    if "BadScheme" in text:
        names = ", ".join(ALLOW_HTTP.values())
        return f"its endpoint is http://, which one of {names} must allow by `true`", False
    if answer:
        reason = "there is no such bucket" if lacks_bucket(error) else f"it answers {answer}"
        return reason, not answer.startswith("4") or answer.startswith("429")
    if found := _KIND.search(text):
        return f"it does not answer: {_KINDS[found[1]]}", True
    return f"it does not answer ({type(error).__name__})", True


def masked(text: str) -> str:
    """Returns ``text`` without the values of variables that hold secrets."""
    for name, value in os.environ.items():
        if len(value) > 3 and re.search("SECRET|KEY|TOKEN|PASSWORD|SIGNATURE|CREDENTIAL", name):
            text = text.replace(value, "***")
    return text[:300]
