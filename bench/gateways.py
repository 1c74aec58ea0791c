"""A gateway of ours, as its command starts it, and when it serves."""

from __future__ import annotations

import http.client
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bench.yard import Process, Yard, free_port, wait_until

_START_S = 60.0


@contextmanager
def gateway(yard: Yard, **settings: object) -> Iterator[int]:
    """A gateway that serves, with the settings that differ; its port."""
    port = free_port()
    argv = [sys.executable, "-P", "-m", "modelyard.cli", "gateway"]
    with yard.running(argv, yard.environ(port=port, **settings)) as process:
        wait_until_serving(process, port, "/healthz")
        yield port


def wait_until_serving(process: Process, port: int, path: str) -> None:
    """Return when the server answers 200 there.

    Raises:
        RuntimeError: It has ended.
        TimeoutError: It does not, in time.
    """

    def serves() -> bool:
        process.check()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with suppress(OSError):
            connection.request("GET", path)
            return connection.getresponse().status == 200
        return False

    wait_until(serves, _START_S, look_s=0.1)
