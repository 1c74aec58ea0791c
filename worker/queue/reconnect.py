"""Redis is away: the errors that say so, and how to go on until it is back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

_log = logging.getLogger(__name__)

#: Errors of a Redis that cannot be reached: another call now would wait for it in vain.
UNREACHABLE = (RedisConnectionError, RedisTimeoutError)

#: Those, and errors of a broken socket or a Redis that refuses for a while (full, read-only).
OUTAGE = (RedisError, OSError)


_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0

_T = TypeVar("_T")


def describe_outage(error: Exception) -> str:
    """Returns what an error of `OUTAGE` means: that Redis is away, or that it refuses a call."""
    if isinstance(error, ResponseError) and not isinstance(error, NoScriptError):
        hint = ": `modelyard doctor` names the key" if "WRONGTYPE" in str(error) else ""
        return f"Redis refuses: {error}{hint}"
    return f"Redis is away: {error}"


class GaveUp(BaseException):
    """Redis is still away, and the process is to end: nothing was written.

    Not an `Exception`: while a model is loaded, those are the model's fault.
    """


class Retry(Protocol):
    """Repeats an action, which must be safe to repeat, until Redis has answered."""

    def __call__(self, action: Callable[[], _T]) -> _T:
        """Return what ``action`` returns.

        Raises:
            GaveUp: The process is to end, and Redis is still away.
        """


def backoff() -> Iterator[float]:
    """Yield the pauses between tries, in seconds: short at first, for a restart of Redis."""
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)


def retry_until_up(
    action: Callable[[], _T],
    wait: Callable[[float], object],
    is_over: Callable[[], bool] = lambda: False,
) -> _T:
    """Repeat ``action``, which must be safe to repeat, until Redis has answered.

    Args:
        action: The call.
        wait: Waits for a number of seconds.
        is_over: Called after each failure; True to give up.

    Returns:
        What ``action`` returns.

    Raises:
        GaveUp: ``is_over`` returned True.
    """
    for pause_s in backoff():
        try:
            return action()
        except OUTAGE as error:
            if is_over():
                raise GaveUp from error
            _log.warning("trying again: %s", describe_outage(error))
            wait(pause_s)
    raise AssertionError  # the pauses never end
