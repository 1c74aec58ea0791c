"""What a request says, read with bounds: names in the path, seconds, preferences, the body.

A body is refused by its Content-Length before a byte of it is read, and cut off at the bound
whatever its length claims to be. A client that sends slowly holds a thread while it does, and a
read cannot be broken off, so only so many threads may read at once; the others are left for
requests without a body and for waits.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import IO, Any

from flask import request
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from gateway.observe import note_read
from producer import wire
from producer.contract import ModelRef, check_job_id, is_name
from producer.errors import (
    InvalidInput,
    InvalidJson,
    InvalidName,
    TooLarge,
    Unavailable,
    UnknownJob,
    UnknownModel,
    UnknownVersion,
)

#: A wait for a job is at most this long.
MOST_WAIT_S = 60.0

#: Where all readers are busy, how long a request waits for one. Most bodies are there already.
_PATIENCE_S = 0.1

#: A body of up to this many times the bound is read to its end, so that the refusal is seen.
_MOST_DROPPED = 4

_ETAGS = re.compile(r'(W/)?"([0-9]{1,15})"')
_SECONDS = re.compile(r"[0-9]{1,3}(\.[0-9]{1,9})?")
_ALPHABET = "names are 1 to 63 of a-z 0-9 . _ -, the first a letter or digit, without '..'"


def model_in_path() -> str:
    """The model that the path names.

    Raises:
        UnknownModel: It is no name, so there cannot be one.
    """
    model = _in_path("model")
    if not is_name(model):
        raise UnknownModel(f"there is no model {model[:80]!r}: {_ALPHABET}")
    return model


def version_in_path() -> ModelRef:
    """The version that the path names.

    Raises:
        UnknownModel, UnknownVersion: It is no name, so there cannot be one.
    """
    model, version = model_in_path(), _in_path("version")
    if not is_name(version):
        raise UnknownVersion(f"there is no version {version[:80]!r}: {_ALPHABET}")
    return ModelRef(model, version)


def job_id_in_path() -> str:
    """The job that the path names.

    Raises:
        UnknownJob: It is no job id, so there cannot be one.
    """
    try:
        return check_job_id(_in_path("job_id"))
    except InvalidName as error:
        raise UnknownJob(error.message) from None


def _in_path(name: str) -> str:
    return str((request.view_args or {})[name])


def seconds_in_query(name: str, default: float) -> float:
    """Seconds from 0 to `MOST_WAIT_S` of the query.

    Raises:
        InvalidInput: They are no such number.
    """
    text = request.args.get(name)
    if text is None:
        return default
    if _SECONDS.fullmatch(text) is None or float(text) > MOST_WAIT_S:
        msg = f"must be a number of seconds from 0 to {MOST_WAIT_S:g}"
        raise InvalidInput.at([name], msg)
    return float(text)


def preferred_wait() -> float:
    """Seconds of ``Prefer: wait=SECONDS`` (RFC 7240), cut to `MOST_WAIT_S`; 0 without one.

    A preference that makes no sense is passed over, as the RFC has it.
    """
    for preference in request.headers.get("Prefer", "").split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            text = value.strip().strip('"')
            return min(float(text), MOST_WAIT_S) if _SECONDS.fullmatch(text) else 0.0
    return 0.0


def expected_revisions() -> set[int] | None:
    """The revisions that ``If-Match`` accepts; None where any will do.

    A weak tag matches none, and one that is no revision of ours neither (RFC 9110, section 13.1.1).
    """
    given = request.headers.get("If-Match", "*").strip()
    if given == "*":
        return None
    return {int(digits) for weak, digits in _ETAGS.findall(given) if not weak}


class Intake:
    """Reads bodies; safe for threads.

    Args:
        most_bytes: The bound on a body.
        readers: Threads that may read bodies at once.
    """

    def __init__(self, most_bytes: int, readers: int) -> None:
        self._most_bytes = most_bytes
        self._readers = threading.BoundedSemaphore(readers)

    def json(self) -> Any:
        """The value of the request's body.

        Raises:
            UnsupportedMediaType: It is said to be something else than JSON in UTF-8.
            TooLarge: It is over the bound.
            InvalidJson: It is empty, or no strict JSON.
            BadRequest: It ended too soon.
            Unavailable: Too many clients send slowly.
        """
        _check_media_type()
        declared = request.content_length
        if declared is not None and declared > self._most_bytes:
            raise TooLarge(f"the body has {declared} bytes, the bound is {self._most_bytes}")
        body = self._read(request.stream)
        if len(body) > self._most_bytes:
            raise TooLarge(f"the body has more than {self._most_bytes} bytes, the bound")
        note_read()
        if declared is not None and len(body) < declared:
            raise BadRequest("the body ended before its Content-Length")
        if not body:
            raise InvalidJson("the request has no body")
        return wire.loads(body)

    def _read(self, stream: IO[bytes]) -> bytes:
        """The body, or one byte more than the bound."""
        if not self._readers.acquire(timeout=_PATIENCE_S):
            raise Unavailable("too many clients are sending their bodies slowly")
        try:
            return stream.read(self._most_bytes + 1)
        finally:
            self._readers.release()

    def drop(self, environ: Mapping[str, Any]) -> None:
        """Read what is left of a body, unless it is far too large or all readers are busy."""
        left = _MOST_DROPPED * self._most_bytes
        if int(environ.get("CONTENT_LENGTH") or 0) > left:
            return
        if not self._readers.acquire(blocking=False):
            return
        try:
            while left > 0 and (piece := environ["wsgi.input"].read(min(left, 65_536))):
                left -= len(piece)
        finally:
            self._readers.release()


def _check_media_type() -> None:
    """Raise unless the body is JSON in UTF-8, as is taken for granted where nothing is said."""
    if request.environ.get("CONTENT_TYPE") == "application/json" and not _is_encoded():
        return  # the common case, without parsing
    if request.mimetype not in ("", "application/json"):
        raise UnsupportedMediaType(
            f"the body must be application/json, not {request.mimetype[:80]}"
        )
    if request.mimetype_params.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise UnsupportedMediaType("the body must be in UTF-8")
    if _is_encoded():
        raise UnsupportedMediaType("the body must not be compressed")


def _is_encoded() -> bool:
    encoding: str = request.environ.get("HTTP_CONTENT_ENCODING", "identity")
    return encoding.lower() != "identity"
