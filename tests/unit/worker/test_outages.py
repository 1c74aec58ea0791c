"""What the log says of an error: a Redis that refuses is not away."""

from __future__ import annotations

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from worker.queue import describe_outage


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RedisConnectionError("gone"), "Redis is away: gone"),
        (RedisTimeoutError("silent"), "Redis is away: silent"),
        (OSError("broken"), "Redis is away: broken"),
        (OutOfMemoryError("full"), "Redis refuses: full"),
        (
            ResponseError("WRONGTYPE of a key"),
            "Redis refuses: WRONGTYPE of a key: `modelyard doctor` names the key",
        ),
    ],
)
def test_an_outage_is_described_as_what_it_is(error: Exception, said: str):
    assert describe_outage(error) == said
