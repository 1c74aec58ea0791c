"""Redis clients in three profiles, because no single timeout fits all calls.

redis-py waits 5 s and tries 10 times by default: a gateway would hang for most of a minute on a
Redis that is gone, a blocking read longer than 5 s would fail, and a worker would repeat calls that
may not be repeated. So each caller picks a profile: `fast` must answer at once, `steady` works in a
loop that knows what is safe to repeat, `blocking` waits for something to come. None decodes
replies. A URL names a Redis, or the Sentinels that know the primary. In a forked child, a client
has connections of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, OutOfMemoryError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from yard.broker import sentinel
from yard.errors import AccessDenied, ConfigurationError, Unavailable
from yard.platform import renew_in_children
from yard.settings import variable

#: Oldest server that the scripts run on; every Valkey is newer.
OLDEST_REDIS = (6, 2)

#: Most connections of one client; redis-py's own bound of 100 is below a gateway's threads.
MOST_CONNECTIONS = 512

#: Seconds that a loop waits for a reply or a connection: well within a lease, so that a worker
#: whose claim was not answered takes the batch up again before others take the worker for dead.
_ANSWER_S = 2.0

#: Tries of `is_up`.
_CONNECTS = 3

#: Seconds after which an idle connection is tried with a PING before it is used.
_HEALTH_CHECK_S = 15


def fast(url: str, name: str = "modelyard") -> Redis:
    """Returns a client whose calls end in under 1 s, by a reply or an error.

    A connection that turns out to be closed (Redis was restarted) is replaced once. A call without
    a reply in time is not repeated. Each Sentinel that does not answer adds 0.3 s.

    Raises:
        ConfigurationError: ``url`` is none of Redis.
    """
    return _client(
        url,
        retries=1,
        client_name=name,
        socket_connect_timeout=0.5,
        socket_timeout=0.8,
        health_check_interval=_HEALTH_CHECK_S,
    )


def steady(url: str, name: str = "modelyard") -> Redis:
    """Returns a client for loops that retry by themselves: 2 s for a reply, nothing repeated.

    Raises:
        ConfigurationError: ``url`` is none of Redis.
    """
    return _client(
        url,
        retries=0,
        client_name=name,
        socket_connect_timeout=_ANSWER_S,
        socket_timeout=_ANSWER_S,
    )


def blocking(url: str, block_s: float, name: str = "modelyard") -> Redis:
    """Returns a client for calls that block up to ``block_s`` on purpose; nothing repeated.

    A repeated BLPOP could take a second element where the reply with the first was lost.

    Raises:
        ConfigurationError: ``url`` is none of Redis.
    """
    return _client(
        url,
        retries=0,
        client_name=name,
        socket_connect_timeout=_ANSWER_S,
        socket_timeout=block_s + _ANSWER_S,
    )


def is_up(redis: Redis) -> bool:
    """True if new connections to the server can be made.

    One that is closed while it is made, as ``CLIENT KILL`` does, is made again a few times.
    """
    pool = redis.connection_pool
    for _ in range(_CONNECTS):
        connection = pool.connection_class(**pool.connection_kwargs)
        try:
            connection.connect()
            return True
        except RedisTimeoutError:  # it does not answer: another try would wait as long
            return False
        except (RedisError, OSError):
            continue
        finally:
            connection.disconnect()
    return False


@contextmanager
def redis_reachable() -> Iterator[None]:
    """Turns every form of Redis' absence into `Unavailable`."""
    try:
        yield
    except BrokenPipeError:  # the reader of our output has left; redis-py raises its own types
        raise
    except (RedisConnectionError, RedisTimeoutError, OSError) as error:
        raise absence(error, type(error).__name__) from error
    except RedisError as error:
        # Redis 6.2 wraps what a script met into an error of no class of its own.
        if isinstance(error, OutOfMemoryError) or "-OOM" in str(error):
            raise Unavailable("Redis is full, it takes no new jobs at present") from error
        raise Unavailable(f"Redis refuses: {error}") from error


def absence(error: Exception, reason: str | None = None) -> Unavailable:
    """Returns the error for what redis-py raised because Redis did not answer, or let nobody in.

    Args:
        error: A connection error, a time-out or an `OSError`.
        reason: What is said of it; by default its own words, which may name the address.
    """
    if isinstance(error, AuthenticationError):
        text = str(error).lower()  # of AUTH, or of HELLO without a password
        asks = "authentication required" in text or "already authenticated" in text
        said = "asks for a password" if asks else f"refuses the user or the password ({error})"
        form = "redis://[USER]:PASSWORD@HOST:PORT"
        return AccessDenied(f"Redis {said}: put the right one into {variable('redis_url')}, {form}")
    if isinstance(error, BusyLoadingError):
        return Unavailable("Redis is loading its data: try again in a moment")
    if "max number of clients" in str(error):
        return Unavailable("Redis has as many clients as it takes: raise its `maxclients`")
    return Unavailable(f"Redis does not answer: {reason or error}")


def redact_url(url: str) -> str:
    """Returns ``url`` without its password, for logs and messages."""
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        return "..."  # no URL, so any part of it may be secret
    if not rest.startswith("/"):  # a path has no user; in an address the user ends at the last @
        user, at, place = rest.rpartition("@")
        hidden = f"{user.partition(':')[0]}:***" if ":" in user else "***"
        rest = f"{hidden}@{place}" if at else place
    return f"{scheme}://" + re.sub(r"(?i)\b(\w*password)=[^&]*", r"\1=***", rest)


def server_version(redis: Redis) -> tuple[int, ...]:
    """Returns the server's Redis version; a Valkey names the one that it is compatible with.

    Raises:
        Unavailable: It does not answer.
    """
    return _version_of(_server_info(redis))


def check_server(redis: Redis) -> None:
    """Checks that Modelyard can run on the server.

    Raises:
        ConfigurationError: It is too old, or a Redis Cluster.
        Unavailable: It does not answer.
    """
    info = _server_info(redis)
    version = _version_of(info)
    if version < OLDEST_REDIS:
        raise ConfigurationError(
            f"Redis {'.'.join(map(str, version))} is too old: "
            "Modelyard needs Redis 6.2 or Valkey 7.2"
        )
    if info.get("redis_mode") == "cluster":
        raise ConfigurationError("Redis Cluster is not supported: use a single Redis with replicas")


def _server_info(redis: Redis) -> dict[str, Any]:
    try:
        info: dict[str, Any] = redis.info("server")
    except (RedisConnectionError, RedisTimeoutError, OSError) as error:
        raise absence(error) from error
    except RedisError as error:
        raise ConfigurationError(f"Redis refuses INFO: {error}") from error
    return info


def _version_of(info: dict[str, Any]) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", str(info.get("redis_version", "")))[:3]))


def _client(url: str, *, retries: int, **options: Any) -> Redis:
    connections: Callable[..., ConnectionPool] = (
        sentinel.pool if sentinel.is_sentinel(url) else ConnectionPool.from_url
    )

    def make_pool() -> ConnectionPool:
        return connections(
            url,
            max_connections=MOST_CONNECTIONS,
            # Not on a timeout: the call may have been carried out, and the time is used up.
            retry=Retry(NoBackoff(), retries, supported_errors=(RedisConnectionError,)),
            # Each costs a round trip per connection, and the first may stretch the timeouts.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
            driver_info=None,
            **options,
        )

    def renew(redis: Redis) -> None:
        # redis-py empties the pool of a forked process, too, but under a lock that a thread of the
        # parent may have held. Sockets are closed here without a word to the server.
        redis.connection_pool = make_pool()

    try:
        pool = make_pool()
        # Connects to nothing; an option that does not exist fails now, not at the first call.
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError, RedisError) as error:
        raise _bad_url(url, error) from None
    if pool.connection_kwargs.get("decode_responses"):
        raise ConfigurationError(f"{redact_url(url)}: decode_responses must not be set")
    redis = Redis.from_pool(pool)
    renew_in_children(redis, renew)
    return redis


def _bad_url(url: str, error: Exception) -> ConfigurationError:
    """The message never quotes ``error`` in full: it may hold a part of the password."""
    option = re.search(r"keyword argument '(\w+)'|Invalid value for '(\w+)'", str(error))
    if option:
        reason = f"has the option {option[1] or option[2]!r}, which is unknown or has a bad value"
    else:
        reason = "is no Redis URL: redis://[[user]:password@]host[:port][/db], rediss://..., "
        reason += f"unix:///path/to/socket or {sentinel.FORM}"
    return ConfigurationError(f"{variable('redis_url')}={redact_url(url)!r} {reason}")
