"""Format version of the data in Redis, by which releases detect that they cannot share it.

Releases run side by side during a rolling update. A release may add fields to a job's hash, to an
announcement or to a manifest, and whole keys; readers ignore what they do not know. `FORMAT` rises
only for a change that an older release would misread. The first pool writes the number to Redis. A
pool that finds a higher one than its own does not start, or drains if it runs; a gateway is not
ready. So an operator who goes back to an older release learns why it does not serve. Raising the
number, and rewriting what is there, is up to the newer release.
"""

from __future__ import annotations

from redis import Redis
from redis.exceptions import ResponseError

from yard.broker import redis_reachable
from yard.contract import keys
from yard.errors import ConfigurationError

#: Format that this release writes and reads. 1: that of the first release.
FORMAT = 1


def settle_format(redis: Redis) -> None:
    """Writes this release's format, unless Redis has one already.

    Raises:
        ConfigurationError: Redis has a newer one.
        Unavailable: Redis does not answer, or takes no writes.
    """
    with redis_reachable():
        redis.set(keys.FORMAT, FORMAT, nx=True)
        problem = format_problem(redis)
    if problem:
        raise ConfigurationError(problem)


def format_problem(redis: Redis) -> str:
    """Returns why this release must keep off a Redis, or an empty text.

    A value that is no number is no format.

    Raises:
        RedisError: Redis does not answer.
    """
    try:
        found: object = redis.get(keys.FORMAT)
    except ResponseError:  # the key holds another type
        return ""
    text = found.decode("ascii", "replace") if isinstance(found, bytes) else ""
    if not text.isdecimal() or int(text) <= FORMAT:
        return ""
    return (
        f"this Redis is used by a newer Modelyard (format {text}, this release knows {FORMAT}): "
        f"run that release, or set {keys.FORMAT} back if it has never served"
    )
