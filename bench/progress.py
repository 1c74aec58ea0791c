"""One line at a time on what is going on, on the error stream, so that the report stays clean."""

from __future__ import annotations

import sys
import time

_STARTED = time.monotonic()


def say(text: str) -> None:
    """Print it with the time since the start."""
    passed = int(time.monotonic() - _STARTED)
    print(f"[{passed // 60:2d}:{passed % 60:02d}] {text}", file=sys.stderr, flush=True)
