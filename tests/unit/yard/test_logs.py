"""Logs: an event of any library is one line of JSON, and holds no password."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from yard.platform import logs
from yard.settings import Settings


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Gives the process its own set-up back."""
    root = logging.getLogger()
    before, level = root.handlers, root.level
    yield
    root.handlers, root.level = before, level
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def configured(**settings: str) -> io.StringIO:
    stream = io.StringIO()
    logs.configure(Settings.load({}, **settings), stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_both_kinds_of_loggers_write_the_same_form():
    stream = configured()
    structlog.contextvars.bind_contextvars(request_id="r1")
    structlog.get_logger("ours").info("hello", job="j1")
    logging.getLogger("theirs").warning("hello %s", "there")
    ours, theirs = lines(stream)
    assert list(ours)[:4] == list(theirs)[:4] == ["timestamp", "level", "logger", "event"]
    assert (ours["level"], ours["logger"], ours["event"], ours["job"]) == (
        "info",
        "ours",
        "hello",
        "j1",
    )
    assert (theirs["level"], theirs["logger"], theirs["event"]) == (
        "warning",
        "theirs",
        "hello there",
    )
    assert ours["request_id"] == theirs["request_id"] == "r1"
    assert ours["timestamp"].endswith("Z")


@pytest.mark.parametrize("text", ['a\n{"level":"info"}', "\x1b[31mred", "\r\n", "\u2028", "\udcff"])
def test_an_event_is_one_line_whatever_it_holds(text):
    stream = configured()
    structlog.get_logger("x").info(text, value=text)
    (line,) = stream.getvalue().split("\n")[:-1]
    assert json.loads(line)["value"] == text
    assert "\x1b" not in line


def test_a_traceback_is_in_its_events_line():
    stream = configured()
    try:
        raise ValueError("bad")
    except ValueError:
        structlog.get_logger("ours").exception("failed")
        logging.getLogger("theirs").exception("failed")
    for line in lines(stream):
        assert line["exception"].endswith("ValueError: bad")
        assert line["level"] == "error"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at redis://:s3cret@host:6379/0 now", "at redis://***@host:6379/0 now"),
        ("rediss://me:s3/c@ret@host/0", "rediss://***@host/0"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("me@example.org", "me@example.org"),
    ],
)
def test_a_password_in_a_url_is_blotted_out(text, shown):
    stream = configured()
    structlog.get_logger("x").info("e", url=text)
    logging.getLogger("x").info(text)
    first, second = lines(stream)
    assert first["url"] == second["event"] == shown


def test_the_level_holds_for_both_kinds_of_loggers():
    stream = configured(log_level="warning")
    for log in (structlog.get_logger("ours"), logging.getLogger("theirs")):
        log.info("quiet")
        log.warning("loud")
    assert [line["event"] for line in lines(stream)] == ["loud", "loud"]


def test_text_is_for_people():
    stream = configured(log_format="text")
    structlog.get_logger("x").info("hello", job="j1")
    assert "hello" in stream.getvalue()
    assert "job=j1" in stream.getvalue()


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_traceback_shows_no_values(log_format):
    stream = configured(log_format=log_format)
    payload = "5.1, 3.5"
    try:
        raise ValueError("bad")
    except ValueError:
        structlog.get_logger("ours").exception("failed")
        logging.getLogger("theirs").exception("failed")
    assert stream.getvalue().count("ValueError: bad") == 2
    assert payload not in stream.getvalue()


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_full_disk_loses_lines_and_fails_nothing(capsys):
    logs.configure(Settings.load({}), FullDisk())
    structlog.get_logger("ours").info("hello")
    logging.getLogger("theirs").warning("hello")
    assert capsys.readouterr().err == ""
