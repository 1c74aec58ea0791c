"""A gateway in this process that real connections reach: tests see what it holds meanwhile."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from gateway.app import create_app
from gateway.server.rsgi import RsgiApp
from gateway.services import Services
from tests.helpers.stand_ins import new_client
from tests.helpers.waiting import wait_until
from tests.helpers.yards import free_port


class CountedApp(RsgiApp):
    """An application that counts the requests which are being answered."""

    running = 0

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        self.running += 1
        try:
            await super().__rsgi__(scope, protocol)
        finally:
            self.running -= 1


class LiveGateway:
    """One gateway, served by granian on a thread of this process.

    Attributes:
        port: Where it listens.
        app: The application.
        services: Its services.
    """

    def __init__(self, app: CountedApp, services: Services, port: int) -> None:
        self.app = app
        self.services = services
        self.port = port

    def connect(self, sent: bytes, source: str = "127.0.0.1") -> socket.socket:
        """Returns a connection, from some loopback address, on which something was sent."""
        made = socket.create_connection(("127.0.0.1", self.port), 10, source_address=(source, 0))
        made.sendall(sent)
        return made

    def answers(self, sent: bytes) -> bytes:
        """Returns all that is answered to a request, on a connection of its own."""
        with self.connect(sent) as connection:
            return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    """Returns what comes on a connection until it is closed, or a whole response has come."""
    got = b""
    while piece := connection.recv(65_536):
        got += piece
        head, _, body = got.partition(b"\r\n\r\n")
        for line in head.lower().splitlines():
            if line.startswith(b"content-length:") and len(body) >= int(line.split(b":")[1]):
                return got
    return got


def reset(connection: socket.socket) -> None:
    """Closes a connection rudely: by RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def hang_up(connection: socket.socket) -> None:
    """Closes a connection politely: by FIN."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextmanager
def live_gateway(url: str, **settings: Any) -> Iterator[LiveGateway]:
    """A gateway that real connections reach, gone when the context ends."""
    port, loop = free_port(), asyncio.new_event_loop()
    with new_client(url, **settings) as client:
        app = create_app(client.settings, client, loop)
        known: list[Services] = []
        served = CountedApp(lambda _loop: app, known.append)
        server = Server(
            served,
            port=port,
            interface=Interfaces.RSGI,
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(header_read_timeout=10_000, max_buffer_size=65_536),
            websockets=False,
            log_enabled=False,
        )
        thread = threading.Thread(target=_serve, args=(loop, server), name="live")
        thread.start()
        try:
            wait_until(lambda: _listens(port), 30, "the gateway listens")
            yield LiveGateway(served, known[0], port)
        finally:
            loop.call_soon_threadsafe(server.stop)
            thread.join(30)


def _serve(loop: asyncio.AbstractEventLoop, server: Server) -> None:
    asyncio.set_event_loop(loop)
    with suppress(asyncio.CancelledError):
        loop.run_until_complete(server.serve())
    loop.close()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
