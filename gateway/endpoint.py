"""A gateway as seen from outside: its address, its port, and its answers to health checks."""

from __future__ import annotations

import errno
import json
import socket
from contextlib import suppress
from http.client import HTTPConnection, HTTPException

from yard.errors import ConfigurationError
from yard.settings import variable

#: Addresses by which this machine reaches a server that listens on all of its own.
_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def address(host: str, port: int) -> str:
    """Returns the URL by which this machine reaches a gateway that listens on ``host``."""
    name = _LOCAL.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def check_free(host: str, port: int) -> None:
    """Checks that a gateway can listen there; an error now is easier to see than one in its log.

    Raises:
        ConfigurationError: The port is taken, or the address is not this machine's.
    """
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"port {port} on {host} is taken: stop what listens there, or set "
                f"{variable('port')} to another"
            ) from None
        raise ConfigurationError(
            f"cannot listen on {host}, port {port}: {error.strerror}; "
            f"see {variable('host')} and {variable('port')}"
        ) from None


def ask_ready(host: str, port: int, timeout_s: float = 1.0) -> tuple[int | None, str]:
    """Returns the status of a gateway's ``/readyz`` (None: no answer) and what is missing."""
    status, body = _ask("/readyz", host, port, timeout_s)
    return status, _detail(body) if status is not None else body.decode()


def ask_alive(host: str, port: int, timeout_s: float = 1.0) -> tuple[bool, str]:
    """Returns whether a gateway's process serves, by its ``/healthz``, and a reason if not."""
    status, body = _ask("/healthz", host, port, timeout_s)
    if status is None:
        return False, body.decode()
    return status == 200, f"the gateway answers {status}"


def _ask(path: str, host: str, port: int, timeout_s: float) -> tuple[int | None, bytes]:
    """Returns the status and the body; None and the reason if there is no answer."""
    connection = HTTPConnection(_LOCAL.get(host, host), port, timeout=timeout_s)
    try:
        connection.request("GET", path, headers={"Accept": "application/json"})
        response = connection.getresponse()
        return response.status, response.read(65_536)
    except (OSError, HTTPException) as error:
        return None, f"the gateway does not answer ({type(error).__name__})".encode()
    finally:
        connection.close()


def _detail(body: bytes) -> str:
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(body)["detail"])
    return "the gateway does not say why"
