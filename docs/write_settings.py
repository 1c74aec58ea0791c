"""Writes the table of `docs/settings.md` from `yard.settings`; ``--check`` only compares."""

from __future__ import annotations

import sys
from pathlib import Path

from yard.settings import table

PAGE = Path(__file__).parent / "settings.md"


def main(arguments: list[str]) -> int:
    """Exit status: 0, or 1 if the page was to be checked and is not up to date."""
    text = PAGE.read_text(encoding="utf-8")
    head, _, _ = text.partition("| variable |")
    page = head + table()
    if page == text:
        return 0
    if "--check" in arguments:
        sys.stderr.write("docs/settings.md is not up to date: run `make docs`\n")
        return 1
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
