"""A client's knowledge on disk, which outlives every fault: sent, accepted, ended.

A line is flushed to disk before its consequence: that a job is sent, before it is; that it was
accepted, before anything else is done with it. So the file has every promise afterwards.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

What = Literal["sent", "accepted", "canceled", "ended", "fault"]


class History:
    """One file of lines; safe for threads.

    Args:
        path: A new file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("x", encoding="utf-8")
        self._lock = threading.Lock()

    def add(self, what: What, entries: Iterable[dict[str, Any]]) -> None:
        """Write entries, and return when they are on disk."""
        at = time.time()
        lines = [json.dumps({"what": what, "at": at} | entry) + "\n" for entry in entries]
        with self._lock:
            self._file.writelines(lines)
            self._file.flush()
            os.fsync(self._file.fileno())

    def read(self, what: What) -> Iterator[dict[str, Any]]:
        """The entries of one kind, in order."""
        with self.path.open(encoding="utf-8") as lines:
            for line in lines:
                entry = json.loads(line)
                if entry["what"] == what:
                    yield entry

    def close(self) -> None:
        """Close the file; it can be read all the same."""
        self._file.close()
