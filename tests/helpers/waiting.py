"""Waits for a condition, so that no test sleeps for a fixed time, and bounds on what must not wait.

The machine may do other things meanwhile: a bound is no measurement. Those of waits only end a test
that has failed, and `ends_soon` is far from what a thing takes and from what it would take without
what is tested.
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
    """The first true value of ``condition``, called until then; none in time fails the test."""
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
    """Fails where the block waited for something that it must not wait for."""
    began = time.monotonic()
    yield
    took_s = time.monotonic() - began
    assert took_s < within_s, f"it took {took_s:.1f} s"
