"""What a Redis that is away raises, and how to go on until it is back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from redis.exceptions import RedisError

_log = logging.getLogger(__name__)

#: What a broken connection, or a Redis that refuses for a while, raises.
OUTAGE = (RedisError, OSError)

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0


class GaveUp(BaseException):
    """Redis is still away, and the process is to end: nothing was written.

    No `Exception`: while a model is loaded, those are the model's fault.
    """


def backoff() -> Iterator[float]:
    """The pauses between tries, in seconds: short at first, so that a restart is hardly seen."""
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)


def retry_until_up(
    action: Callable[[], Any],
    wait: Callable[[float], object],
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Repeat ``action``, which must be safe to repeat, until Redis has answered.

    Args:
        action: What to do.
        wait: How to pass so many seconds.
        is_over: Asked after each failure whether to give up.

    Raises:
        GaveUp: ``is_over`` says so.
    """
    for pause_s in backoff():
        try:
            action()
            return
        except OUTAGE as error:
            if is_over():
                raise GaveUp from error
            _log.warning("Redis is away, trying again: %s", error)
            wait(pause_s)
