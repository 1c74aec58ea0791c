"""Ids of jobs and calls: the time of creation, then 128 random bits.

Redis keeps jobs in sorted sets, by the second and then by id: ids in the order of time are added
next to each other, at the end, which takes half as long as anywhere in a large set.

The random part comes from the system by the hundred. Each system call gives up the interpreter's
lock, and under load a thread waits for the lock as long as everything else on a request takes. So
one call serves many ids.
"""

from __future__ import annotations

import base64
import os
import time

_BYTES = 16
_AT_ONCE = 256

_ready: list[str] = []


def new_id() -> str:
    """Returns a unique id; safe for threads.

    Returns:
        11 hex digits, the milliseconds since 1970, and 22 characters of URL-safe Base64.
    """
    while True:
        try:
            return f"{time.time_ns() // 1_000_000:011x}{_ready.pop()}"
        except IndexError:
            drawn = os.urandom(_BYTES * _AT_ONCE)
            each = (drawn[place : place + _BYTES] for place in range(0, len(drawn), _BYTES))
            _ready.extend(base64.urlsafe_b64encode(one)[:-2].decode() for one in each)


# A forked process must not return the ids that its parent will.
os.register_at_fork(after_in_child=_ready.clear)
