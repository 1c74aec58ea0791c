"""A gateway as seen from outside: where it is reached, whether the port is free, what it says."""

from __future__ import annotations

import errno
import json
import socket
from contextlib import suppress
from http.client import HTTPConnection, HTTPException

from yard.errors import ConfigurationError
from yard.settings import variable

#: Where this machine reaches what listens on all of its addresses.
_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def address(host: str, port: int) -> str:
    """The URL by which this machine reaches a gateway that listens on ``host``."""
    name = _LOCAL.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def check_free(host: str, port: int) -> None:
    """Nothing, if a gateway can listen there: better known at once than from its log.

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
    """What a gateway's ``/readyz`` says: its status (None: no answer) and what is missing."""
    status, said = _ask("/readyz", host, port, timeout_s)
    return status, _detail(said) if status is not None else said.decode()


def ask_alive(host: str, port: int, timeout_s: float = 1.0) -> tuple[bool, str]:
    """Whether a gateway's process serves, by its ``/healthz``, and what it answers if not."""
    status, said = _ask("/healthz", host, port, timeout_s)
    if status is None:
        return False, said.decode()
    return status == 200, f"the gateway answers {status}"


def _ask(path: str, host: str, port: int, timeout_s: float) -> tuple[int | None, bytes]:
    """The status and the body; None, and why, if no answer comes."""
    asked = HTTPConnection(_LOCAL.get(host, host), port, timeout=timeout_s)
    try:
        asked.request("GET", path, headers={"Accept": "application/json"})
        answer = asked.getresponse()
        return answer.status, answer.read(65_536)
    except (OSError, HTTPException) as error:
        return None, f"the gateway does not answer ({type(error).__name__})".encode()
    finally:
        asked.close()


def _detail(body: bytes) -> str:
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(body)["detail"])
    return "the gateway does not say why"
