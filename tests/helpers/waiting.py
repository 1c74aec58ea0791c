"""Waits for a condition instead of fixed sleeps, and a bound for calls that must not wait.

The machine may be busy, so a bound is no measurement. The bound of a wait only ends a test that has
failed. That of `ends_soon` lies far above the usual time and far below the time without the
behaviour under test.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T | None],
    timeout_s: float = 60.0,
    what: str = "",
    interval_s: float = 0.01,
) -> T:
    """Call ``condition`` until its value is true, and return it; after the bound, fail the test."""
    until = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > until:
            raise AssertionError(
                f"not within {timeout_s:g} s: {what or condition}; the last value was {value!r}"
            )
        time.sleep(interval_s)
    return value


@contextmanager
def ends_soon(within_s: float = 5.0) -> Iterator[None]:
    """Fail if the block takes longer than the bound."""
    began = time.monotonic()
    yield
    took_s = time.monotonic() - began
    assert took_s < within_s, f"it took {took_s:.1f} s"
