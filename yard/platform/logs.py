"""Logging of every process: one event, one line of JSON, on standard error.

structlog's loggers and the standard library's (RQ, granian, redis-py) write the same form, with
``timestamp``, ``level``, ``logger``, ``event`` and the context that is bound: a request's id, a
job, a model and its version. Payloads are never logged; a password in a URL is redacted everywhere.
Make a logger by ``structlog.get_logger(__name__)``.

structlog comes with the gateway's and the worker's extras, not with the client's, so it is imported
only where a process is set up.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any, TextIO, cast

import orjson

if TYPE_CHECKING:
    from yard.settings import Settings

_CREDENTIALS = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s\"'<>]*@")

#: Loggers that repeat at "info" what our own lines say.
_QUIET = ("rq.worker", "rq.scheduler", "werkzeug")

_Event = MutableMapping[str, Any]


class _Sturdy:
    """A stream that drops a line rather than fail: a full disk must not fail requests and jobs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # no room, no reader, or closed at the end of the process
            pass

    def flush(self) -> None:
        """Does nothing: every write is flushed."""


class _Lines:
    """Logger that structlog writes to. A line is one write, so no fork can leave a lock locked.

    It writes straight to the stream: through the standard library's handlers a line costs twice as
    much.
    """

    def __init__(self, stream: _Sturdy, name: str) -> None:
        self._stream = stream
        self.name = name

    def msg(self, line: str) -> None:
        self._stream.write(line + "\n")

    debug = info = warning = error = critical = msg


def redact(text: str) -> str:
    """Returns ``text`` without the user and password of any URL in it."""
    return _CREDENTIALS.sub(r"\1***@", text) if "://" in text else text


def configure(settings: Settings, stream: TextIO | None = None) -> None:
    """Sets up logging for this process; call it before the first line.

    Args:
        settings: ``log_level`` and ``log_format``.
        stream: Target of the lines; standard error by default.
    """
    import structlog

    target = stream or sys.stderr
    sturdy = _Sturdy(target)
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Any] = [structlog.processors.format_exc_info, _json]
    if settings.log_format == "text":
        last = [_text(target)]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda name="modelyard": _Lines(sturdy, name),
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    _catch_standard_logging(cast("TextIO", sturdy), formatter, level)


def _catch_standard_logging(stream: TextIO, formatter: logging.Formatter, level: int) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _json(_logger: Any, _method: str, event: _Event) -> str:
    head = {
        name: event.pop(name) for name in ("timestamp", "level", "logger", "event") if name in event
    }
    whole = head | dict(event)
    try:
        line = orjson.dumps(whole, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError:  # a lone surrogate, say of a file's name that is no UTF-8
        line = json.dumps(whole, default=repr)
    return redact(line)


def _text(stream: TextIO) -> Callable[[Any, str, _Event], str]:
    import structlog

    # Its default shows every local variable of a traceback, and so payloads.
    plain = structlog.dev.plain_traceback
    console = structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)

    def render(logger: Any, method: str, event: _Event) -> str:
        return redact(str(console(logger, method, event)))

    return render
