"""Tables and facts: within the terminal, nothing lost, the first column whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard import tables

_WORD = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=40)


def test_numbers_are_aligned_right_and_text_left():
    assert tables.table(["NAME", "N"], [["a", "5"], ["bcdef", "10"]], right=[False, True]) == [
        "NAME    N",
        "a       5",
        "bcdef  10",
    ]


def test_no_width_means_one_line_a_row():
    assert len(tables.table(["A", "B"], [["x" * 60, "y " * 60]])) == 2


def test_a_cell_that_is_too_long_goes_on_in_its_column():
    lines = tables.table(
        ["ID", "SAYS"], [["0123456789abcdef", "some words that are too long"]], 32, keeps_first=True
    )
    assert lines == [
        "ID                SAYS",
        "0123456789abcdef  some words",
        "                  that are too",
        "                  long",
    ]


@given(rows=st.lists(st.tuples(_WORD, _WORD, _WORD), max_size=4), width=st.integers(70, 120))
def test_a_table_fits_and_loses_nothing(rows, width):
    lines = tables.table(["ONE", "TWO", "THREE"], rows, width, keeps_first=True)
    assert max(map(len, lines)) <= width
    assert sorted("".join("".join(lines).split())) == sorted(
        "ONETWOTHREE" + "".join("".join(row) for row in rows)
    )
    assert all(any(line.startswith(row[0]) for line in lines) for row in rows)


def test_a_long_fact_goes_on_below_its_beginning():
    assert tables.facts([("name", "one two three"), ("x", "")], 6, 15) == [
        "name   one two",
        "       three",
        "x",
    ]


@pytest.mark.parametrize(
    ("later_s", "said"),
    [
        (-5, "0 s"),
        (0.2, "0 s"),
        (1, "1 s"),
        (119, "1 min"),
        (7200, "2 h"),
        (2e6, "23 d"),
    ],
)
def test_a_time_is_shown_as_its_age(later_s, said):
    assert tables.age("1970-01-02T00:00:00Z", 86_400 + later_s) == said
    assert tables.age(None) == "-"


def test_the_width_is_that_of_a_terminal_or_of_the_variable(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert tables.terminal_width() is None
    monkeypatch.setenv("COLUMNS", "80")
    assert tables.terminal_width() == 80
