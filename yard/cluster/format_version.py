"""The version of what travels through Redis, and what two releases make of it.

Releases run side by side during a rolling update. A release may add: fields of a job's hash, of
what is announced, of a manifest, whole keys; readers pass over what they do not know. Only what an
older release would misread makes `FORMAT` rise. The number is in Redis, written by the first pool
that comes, and a pool that finds a higher one than its own does not start, or drains if it runs;
a gateway is not ready. So an operator who goes back to an older release is told why it does not
serve. Raising the number, and rewriting what is there, is the newer release's business.
"""

from __future__ import annotations

from redis import Redis
from redis.exceptions import ResponseError

from yard.broker import redis_reachable
from yard.contract import keys
from yard.errors import ConfigurationError

#: What this release writes and reads. 1: as it was in the first release.
FORMAT = 1


def settle_format(redis: Redis) -> None:
    """Write this release's format, unless Redis has one already.

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
    """Why this release must keep off a Redis; empty if it need not. What is no number is no format.

    Raises:
        RedisError: Redis does not answer.
    """
    try:
        found: object = redis.get(keys.FORMAT)
    except ResponseError:  # somebody's own under a name of ours
        return ""
    text = found.decode("ascii", "replace") if isinstance(found, bytes) else ""
    if not text.isdecimal() or int(text) <= FORMAT:
        return ""
    return (
        f"this Redis is used by a newer Modelyard (format {text}, this release knows {FORMAT}): "
        f"run that release, or set {keys.FORMAT} back if it has never served"
    )
