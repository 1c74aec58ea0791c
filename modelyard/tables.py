"""Text for terminals: tables, facts and paragraphs within a width, and times as ages.

A terminal that breaks long lines by itself makes a table unreadable, so cells are wrapped within
their columns: nothing is lost, and ids, which are copied, stay whole. Output that goes to a file or
a pipe has one line a row, for `grep` and `awk`.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from yard.contract import timestamps

#: Columns narrower than this are not made narrower.
_LEAST = 8

#: Spaces between two columns.
_GAP = "  "

_UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def terminal_width() -> int | None:
    """Columns of the terminal, or ``COLUMNS``; None where output goes to a file or a pipe."""
    if os.environ.get("COLUMNS", "").isdigit() or sys.stdout.isatty():
        return max(20, shutil.get_terminal_size((80, 24)).columns)
    return None


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int | None = None,
    right: Sequence[bool] = (),
    *,
    keeps_first: bool = False,
) -> list[str]:
    """Returns the lines of aligned columns under their headers.

    Args:
        headers: One for each column.
        rows: Printable cells.
        width: Characters of a line at most, as far as headers and `_LEAST` allow.
        right: True for each column that is aligned right.
        keeps_first: True if no cell of the first column may be broken, as ids that are copied.
    """
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    if width is not None:
        least = [max(_LEAST, len(header)) for header in headers]
        if keeps_first:
            least[0] = widths[0]
        _narrow(widths, least, width)
    lines = []
    for row in [headers, *rows]:
        cells = [wrap(cell, most) for cell, most in zip(row, widths, strict=True)]
        for parts in zip_longest(*cells, fillvalue=""):
            padded = [
                part.rjust(most) if place < len(right) and right[place] else part.ljust(most)
                for place, (part, most) in enumerate(zip(parts, widths, strict=True))
            ]
            lines.append(_GAP.join(padded).rstrip())
    return lines


def facts(pairs: Iterable[tuple[str, str]], name_width: int, width: int | None = None) -> list[str]:
    """Returns lines of a name and its value; a long value goes on below its beginning."""
    lines = []
    for name, value in pairs:
        room = None if width is None else max(_LEAST, width - name_width - 1)
        first, *more = wrap(value, room)
        lines.append(f"{name:<{name_width}} {first}".rstrip())
        lines += [" " * (name_width + 1) + line for line in more]
    return lines


def wrap(text: str, width: int | None) -> list[str]:
    """Returns the lines of a text, broken at spaces, or within a word that is too long."""
    if width is None or len(text) <= width:
        return [text]
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]


def age(moment: str | None, now_s: float | None = None) -> str:
    """Returns how long ago a time of RFC 3339 was: ``3 min``; ``-`` if there is none."""
    then_s = timestamps.parse_epoch_s(moment)
    if then_s is None:
        return "-"
    gone_s = max(0.0, (time.time() if now_s is None else now_s) - then_s)
    for unit, seconds in _UNITS:
        if gone_s >= seconds:
            return f"{gone_s // seconds:.0f} {unit}"
    return "0 s"


def _narrow(widths: list[int], least: Sequence[int], width: int) -> None:
    """Takes what is too much from the widest columns, down to the least width of each."""
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - width
    while excess > 0:
        spare = [place for place, wide in enumerate(widths) if wide > least[place]]
        if not spare:
            return
        widths[max(spare, key=widths.__getitem__)] -= 1
        excess -= 1
