"""The logs of child processes, as the person at the terminal sees them: only what is worth a look.

Children append to files of their own, so that they can log whatever becomes of their parent; the
parent reads what comes to the files and shows warnings and errors, a few at a time.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

#: Lines of one log that are shown at one look; the rest is counted.
MOST_LINES = 5

#: Characters of a line that are shown.
_WIDTH = 300

_LEVELS = {"warning", "error", "critical"}

#: Warnings in logs for people: ``error: ...``, ``... [warning  ] ...``.
_MARKED = re.compile(r"^(?:error|warning): |\[(?:warning|error|critical)\s*\]")

#: Members of a JSON line that say nothing to a person who sees it as it comes.
_DULL = {"event", "level", "timestamp", "logger", "exception", "exc_info"}


class Tail:
    """One log file, read from where it ended when this was made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def news(self) -> list[str]:
        """What is worth seeing of the lines that came since the last call, at most `MOST_LINES`."""
        seen = [text for line in self._lines() if (text := worth_seeing(line)) is not None]
        if len(seen) > MOST_LINES:
            more = len(seen) - MOST_LINES
            return [*seen[:MOST_LINES], f"... and {more} more like these, see {self.path}"]
        return seen

    def _lines(self) -> list[str]:
        try:
            with self.path.open("rb") as file:
                if file.seek(0, 2) < self._position:  # emptied by somebody
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
    """A warning or an error as one line for people, else None."""
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
    """The last line of a log that says something."""
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
    """``text`` for a terminal: short, and nothing in it that would steer the terminal."""
    shown = "".join(c if c.isprintable() else " " for c in text.strip())
    return shown if len(shown) <= _WIDTH else f"{shown[:_WIDTH]}..."
