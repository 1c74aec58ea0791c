"""Waits for a condition, so that no test sleeps for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T | None],
    timeout_s: float = 5.0,
    what: str = "",
    interval_s: float = 0.01,
) -> T:
    """The first true value of ``condition``, called until then; none in time fails the test."""
    until = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > until:
            raise AssertionError(
                f"not within {timeout_s:g} s: {what or condition}; the last value was {value!r}"
            )
        time.sleep(interval_s)
    return value
