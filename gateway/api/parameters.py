"""Request parameters, checked: names in the path, seconds, preferences, the body.

All functions are pure. `gateway.http.body_reader` reads bodies, with bounds.
"""

from __future__ import annotations

import re
from typing import Any

from werkzeug.exceptions import BadRequest, UnsupportedMediaType
from werkzeug.http import parse_options_header

from gateway.http import HttpRequest, declared_bytes
from yard.contract import ModelRef, check_job_id, is_name, wire
from yard.errors import (
    InvalidInput,
    InvalidJson,
    InvalidName,
    TooLarge,
    UnknownJob,
    UnknownModel,
    UnknownVersion,
)

#: The longest wait for a job, in seconds.
MAX_WAIT_S = 60.0

_ETAGS = re.compile(r'(W/)?"([0-9]{1,15})"')
#: A number as JSON writes it, not negative: the schema in the document says `number`.
_SECONDS = re.compile(r"[0-9]{1,20}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?")
_ALPHABET = "names are 1 to 63 of a-z 0-9 . _ -, the first a letter or digit, without '..'"


def model_in_path(request: HttpRequest) -> str:
    """Returns the model that the path names.

    Raises:
        UnknownModel: It is no valid name, so the model cannot exist.
    """
    model = request.path_parameters["model"]
    if not is_name(model):
        raise UnknownModel(f"there is no model {model[:80]!r}: {_ALPHABET}")
    return model


def version_in_path(request: HttpRequest) -> ModelRef:
    """Returns the version that the path names.

    Raises:
        UnknownModel, UnknownVersion: It is no valid name, so the version cannot exist.
    """
    model, version = model_in_path(request), request.path_parameters["version"]
    if not is_name(version):
        raise UnknownVersion(f"there is no version {version[:80]!r}: {_ALPHABET}")
    return ModelRef(model, version)


def job_id_in_path(request: HttpRequest) -> str:
    """Returns the job id that the path names.

    Raises:
        UnknownJob: It is no valid id, so the job cannot exist.
    """
    try:
        return check_job_id(request.path_parameters["job_id"])
    except InvalidName as error:
        raise UnknownJob(error.message) from None


def version_in_query(request: HttpRequest) -> str | None:
    """Returns the version or alias that the query names, if it names one.

    Raises:
        InvalidInput: It is no name.
    """
    version = request.query("version")
    if version is not None and not is_name(version):
        raise InvalidInput.at(["version"], _ALPHABET)
    return version


def idempotency_key(request: HttpRequest) -> str | None:
    """Returns the ``Idempotency-Key``, if there is one.

    Raises:
        InvalidInput: It has characters other than ASCII, which a field does not carry.
    """
    key = request.fields.get("idempotency-key", None)
    if key is not None and not key.isascii():
        raise InvalidInput.at(["Idempotency-Key"], "must be ASCII")
    return key


def seconds_in_query(request: HttpRequest, name: str, default: float) -> float:
    """Returns seconds of the query, from 0 to `MAX_WAIT_S`.

    Raises:
        InvalidInput: The parameter is no such number.
    """
    text = request.query(name)
    if text is None:
        return default
    if _SECONDS.fullmatch(text) is None or float(text) > MAX_WAIT_S:
        msg = f"must be a number of seconds from 0 to {MAX_WAIT_S:g}"
        raise InvalidInput.at([name], msg)
    return float(text)


def preferred_wait(request: HttpRequest) -> float:
    """Returns the seconds of ``Prefer: wait=SECONDS`` (RFC 7240), at most `MAX_WAIT_S`; else 0.

    An invalid preference is ignored, as the RFC says.
    """
    for preference in request.fields.get("prefer", "").split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            text = value.strip().strip('"')
            return min(float(text), MAX_WAIT_S) if _SECONDS.fullmatch(text) else 0.0
    return 0.0


def expected_revisions(request: HttpRequest) -> set[int] | None:
    """Returns the revisions that ``If-Match`` accepts; None if any will do.

    A weak tag matches none, nor does one that is no revision of ours (RFC 9110, section 13.1.1).
    """
    given = request.fields.get("if-match", "*").strip()
    if given == "*":
        return None
    return {int(digits) for weak, digits in _ETAGS.findall(given) if not weak}


def json_in_body(request: HttpRequest, max_bytes: int) -> Any:
    """Returns the value of a JSON body.

    Raises:
        HTTPException, ModelyardError: As `body_of`.
        InvalidJson: It is no strict JSON.
    """
    return wire.loads(body_of(request, max_bytes))


def body_of(request: HttpRequest, max_bytes: int) -> bytes:
    """Returns the whole body of a request, of which nothing is parsed; the request lets go of it.

    Raises:
        UnsupportedMediaType: Its type is not JSON in UTF-8.
        TooLarge: It has more than ``max_bytes`` bytes.
        InvalidJson: It is empty.
        BadRequest: It ended before its Content-Length.
    """
    _check_media_type(request)
    body, declared = request.take_body(), declared_bytes(request.fields) or 0
    if declared > max_bytes:
        raise TooLarge(f"the body has {declared} bytes, the bound is {max_bytes}")
    if len(body) > max_bytes:
        raise TooLarge(f"the body has more than {max_bytes} bytes, the bound")
    if len(body) < declared:
        raise BadRequest("the body ended before its Content-Length")
    if not body:
        raise InvalidJson("the request has no body")
    return body


def _check_media_type(request: HttpRequest) -> None:
    """Raises unless the body is JSON in UTF-8, which is assumed without a Content-Type."""
    given = request.fields.get("content-type", "")
    if given != "application/json":  # the common case needs no parsing
        mimetype, parameters = parse_options_header(given)
        if mimetype.lower() not in ("", "application/json"):
            raise UnsupportedMediaType(f"the body must be application/json, not {mimetype[:80]}")
        if parameters.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
            raise UnsupportedMediaType("the body must be in UTF-8")
    if request.fields.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("the body must not be compressed")
