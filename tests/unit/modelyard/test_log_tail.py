"""The lines of the children's logs that reach the terminal."""

from __future__ import annotations

import json

import pytest

from modelyard.up.log_tail import MOST_LINES, Tail, last_line, worth_seeing


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('{"level": "info", "event": "claimed"}', None),
        ('{"level": "warning", "event": "slow", "model": "iris"}', "warning: slow (model=iris)"),
        ('{"level": "error", "event": "lost", "timestamp": "x", "logger": "y"}', "error: lost"),
        ('{"level": "error"}', "error: "),
        ("error: port 8000 is taken", "error: port 8000 is taken"),
        ("2026-01-02 [warning  ] slow", "2026-01-02 [warning  ] slow"),
        ("2026-01-02 [info     ] fine", None),
        ("no error here", None),
        ("[1, 2]", None),
        ("", None),
    ],
)
def test_warnings_and_errors_are_shown_and_nothing_else(line, shown):
    assert worth_seeing(line) == (shown.strip() if shown else shown)


def test_a_log_cannot_steer_the_terminal():
    record = json.dumps({"level": "error", "event": "\x1b[2J\x07gone\r\nerror: fake"})
    shown = worth_seeing(record)
    assert shown is not None
    assert shown.isprintable()


def test_a_long_line_is_cut():
    assert len(worth_seeing("error: " + "x" * 10_000) or "") < 400


def test_a_tail_shows_what_came_since_it_last_looked(tmp_path):
    log = tmp_path / "log"
    log.write_text("error: old\n")
    tail = Tail(log)
    assert tail.new_warnings() == []
    with log.open("a") as file:
        file.write("error: one\nfine\nerror: tw")
        file.flush()
        assert tail.new_warnings() == ["error: one"]
        file.write("o\n")
        file.flush()
    assert tail.new_warnings() == ["error: two"]
    assert tail.new_warnings() == []


def test_a_flood_is_counted_not_shown(tmp_path):
    log = tmp_path / "log"
    tail = Tail(log)
    log.write_text("error: again\n" * 100)
    shown = tail.new_warnings()
    assert len(shown) == MOST_LINES + 1
    assert shown[-1] == f"... and {100 - MOST_LINES} more like these, see {log}"


def test_a_log_that_was_begun_anew_is_read_from_its_start(tmp_path):
    log = tmp_path / "log"
    log.write_text("error: a long old line that was there before\n")
    tail = Tail(log)
    log.write_text("error: new\n")
    assert tail.new_warnings() == ["error: new"]


def test_the_last_line_says_why_a_child_ended(tmp_path):
    log = tmp_path / "log"
    assert last_line(log) == "it said nothing"
    log.write_text("first\nerror: the port is taken\n\n")
    assert last_line(log) == "the port is taken"
    log.write_text("Traceback\nValueError: bad\n")
    assert last_line(log) == "ValueError: bad"
    log.write_text('{"level": "critical", "event": "out", "port": 1}\n')
    assert last_line(log) == "critical: out (port=1)"
