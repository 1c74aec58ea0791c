"""Warnings and errors from the logs of child processes, for the terminal.

Each child appends to a file of its own, so that it can log even when its parent has died. The
parent follows the files and shows warnings and errors, a few at a time.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

#: Most lines of one log that one call of `Tail.new_warnings` returns; the rest is counted.
MOST_LINES = 5

#: Characters of a line that are shown.
_WIDTH = 300

_LEVELS = {"warning", "error", "critical"}

#: Warnings in logs for people: ``error: ...``, ``... [warning  ] ...``.
_MARKED = re.compile(r"^(?:error|warning): |\[(?:warning|error|critical)\s*\]")

#: Members of a JSON line that are not shown again, or are of no use at a terminal.
_DULL = {"event", "level", "timestamp", "logger", "exception", "exc_info"}


class Tail:
    """Follows one log file from its end at construction."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def new_warnings(self) -> list[str]:
        """Warnings and errors since the last call, at most `MOST_LINES` and a count of the rest."""
        seen = [text for line in self._lines() if (text := worth_seeing(line)) is not None]
        if len(seen) > MOST_LINES:
            more = len(seen) - MOST_LINES
            return [*seen[:MOST_LINES], f"... and {more} more like these, see {self.path}"]
        return seen

    def _lines(self) -> list[str]:
        try:
            with self.path.open("rb") as file:
                if file.seek(0, 2) < self._position:  # the file was truncated
                    self._position, self._rest = 0, b""
                file.seek(self._position)
                news = file.read(2**20)
        except OSError:
            return []
        self._position += len(news)
        *whole, self._rest = (self._rest + news).split(b"\n")
        self._rest = self._rest[-(2**20) :]
        return [line.decode("utf-8", "replace") for line in whole]


def worth_seeing(line: str) -> str | None:
    """A log line as text for people if it is a warning or an error, else None."""
    try:
        record = json.loads(line)
    except ValueError:
        return printable(line) if _MARKED.search(line) else None
    if not isinstance(record, dict) or record.get("level") not in _LEVELS:
        return None
    facts = ", ".join(f"{k}={v}" for k, v in record.items() if k not in _DULL)
    return printable(
        f"{record['level']}: {record.get('event', '')}{f' ({facts})' if facts else ''}"
    )


def last_line(path: Path) -> str:
    """The last line of a log that is not blank."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 8192))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    spoken = (line for line in reversed(lines) if line.strip())
    last = next(spoken, "it said nothing")
    return (worth_seeing(last) or printable(last)).removeprefix("error: ")


def printable(text: str) -> str:
    """``text`` for a terminal: at most `_WIDTH` characters and no control characters."""
    shown = "".join(c if c.isprintable() else " " for c in text.strip())
    return shown if len(shown) <= _WIDTH else f"{shown[:_WIDTH]}..."
