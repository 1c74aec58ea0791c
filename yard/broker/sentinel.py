"""Connections to a Redis behind Sentinels: they name the primary, no setting does.

``redis+sentinel://user:password@host:port,host:port/service/db`` names the Sentinels and their name
of the server; `rediss+sentinel` is the same by TLS. A new connection asks the first Sentinel that
answers; a connection whose server has become a replica is closed, and the next one asks again. To
callers a failover is an outage like any other, and the same code handles it.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, unquote

from redis.backoff import NoBackoff
from redis.connection import SSLConnection, parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool

#: Seconds that one Sentinel may take to answer; then the next is asked.
_ASK_S = 0.3

_DEFAULT_PORT = 26379

_URL = re.compile(
    r"redis(?P<tls>s?)\+sentinel://(?:(?P<user>[^/]*)@)?(?P<hosts>[^/@?#]+)"
    r"/(?P<service>[^/?#]+)(?:/(?P<db>\d+))?/?(?:\?(?P<options>[^#]*))?"
)
_HOST = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:]+))(?::(?P<port>\d{1,5}))?")

#: Form of a URL, for messages.
FORM = "redis+sentinel://[[user]:password@]host[:port][,host[:port]...]/service[/db]"

#: Options of the URL for the Sentinels, which have passwords of their own.
_OF_SENTINELS = {"sentinel_username": "username", "sentinel_password": "password"}


def is_sentinel(url: str) -> bool:
    """True if a URL names Sentinels rather than a Redis."""
    return url.startswith(("redis+sentinel://", "rediss+sentinel://"))


class Sentinels(Sentinel):
    """The Sentinels; their errors are one line, and name no option of a connection."""

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Returns host and port of the primary.

        Raises:
            MasterNotFoundError: None answers, or none knows a primary that is up; a
                ``ConnectionError`` of redis-py's.
        """
        try:
            found = super().discover_master(service_name)  # type: ignore[no-untyped-call]
        except MasterNotFoundError:
            raise MasterNotFoundError(
                f"no Sentinel names a primary {service_name!r} that is up: {self}"
            ) from None
        host, port = found
        return str(host), int(port)

    def __str__(self) -> str:
        """Addresses of the Sentinels."""
        known = (one.connection_pool.connection_kwargs for one in self.sentinels)
        return ", ".join(sorted(f"{at['host']}:{at['port']}" for at in known))


class PrimaryPool(SentinelConnectionPool):
    """Connections to the primary of the moment; closing it closes those to the Sentinels."""

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Closes the connections; only idle ones where the primary has changed."""
        super().disconnect(inuse_connections)
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                sentinel.close()


def pool(url: str, **options: Any) -> PrimaryPool:
    """Returns a pool of connections to the primary; asks nothing before the first is made.

    Args:
        url: In the form of `FORM`; options after ``?`` are those of a Redis URL, and
            `sentinel_username` and `sentinel_password`.
        options: Of the pool and its connections, over those of the URL.

    Raises:
        ValueError: ``url`` is not of that form.
    """
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError("not of the form of a Sentinel URL")
    known = _parse(found) | options
    secrets = {own: known.pop(name) for name, own in _OF_SENTINELS.items() if name in known}
    is_tls = bool(found["tls"])
    tls = {name: value for name, value in known.items() if name.startswith("ssl_")}
    sentinels = Sentinels(  # type: ignore[no-untyped-call]  # of redis-py
        [_address(host) for host in found["hosts"].split(",")],
        sentinel_kwargs={
            "socket_connect_timeout": _ASK_S,
            "socket_timeout": _ASK_S,
            # Its connections are idle for days; one that was closed meanwhile is replaced.
            "retry": Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
            "ssl": is_tls,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
            "driver_info": None,
            **(tls if is_tls else {}),
            **secrets,
        },
    )
    service = unquote(found["service"])
    return PrimaryPool(  # type: ignore[no-untyped-call]  # of redis-py
        service, sentinels, ssl=is_tls, **known
    )


def _parse(found: re.Match[str]) -> dict[str, Any]:
    """User, password, database and options, read as redis-py reads those of a Redis URL."""
    user = f"{found['user']}@" if found["user"] is not None else ""
    plain = f"redis{found['tls']}://{user}primary/{found['db'] or 0}?{found['options'] or ''}"
    if {"host", "port", "path"} & parse_qs(found["options"] or "").keys():
        raise ValueError("its options name a server")
    known: dict[str, Any] = dict(
        parse_url(plain)  # type: ignore[no-untyped-call]  # of redis-py
    )
    if known.pop("host", None) != "primary" or known.pop("connection_class", None) not in (
        None,
        SSLConnection,
    ):
        raise ValueError("its user is not as a URL writes it")
    return known


def _address(text: str) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    port = int(found["port"] or _DEFAULT_PORT) if found else 0
    if found is None or not 0 < port < 65_536:
        raise ValueError("a Sentinel's address is host or host:port")
    return found["ipv6"] or found["name"], port
