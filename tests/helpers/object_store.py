"""An S3 server on a free loopback port, which tests kill, freeze and start again."""

from __future__ import annotations

import secrets
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore

from models.store.disk_cache import DiskCache
from models.store.object_store import ObjectStore
from models.store.repository import Repository
from tests.helpers.waiting import wait_until
from tests.helpers.yards import free_port
from yard.platform import pdeathsig

#: A secret that no log and no message may show.
SECRET = "wJalrXUtnFEMI-bPxRfiCYEXAMPLEKEY"


class S3Server:
    """Server processes, one after the other, on one port; each begins without objects.

    Args:
        log: The file that they log to.
    """

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environ(self) -> dict[str, str]:
        """The variables that its clients need."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            return
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                pdeathsig.command(command, signal.SIGKILL), stdout=log, stderr=log
            )
        wait_until(self._answers, 60, "the S3 server answers")

    def freeze(self) -> None:
        """Stop its answers; it still takes connections."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def make_bucket(self, name: str = "") -> str:
        """Make a bucket and return its URL, with a prefix."""
        name = name or f"models-{secrets.token_hex(4)}"
        address = f"{self.environ['AWS_ENDPOINT_URL']}/{name}"
        with urllib.request.urlopen(urllib.request.Request(address, method="PUT")) as reply:
            assert reply.status == 200
        return f"s3://{name}/some/prefix"

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 0.2).close()
        except OSError:
            return False
        return True


@contextmanager
def running_s3(folder: Path) -> Iterator[S3Server]:
    """A server that is gone when the context ends."""
    server = S3Server(folder / "s3.log")
    server.start()
    try:
        yield server
    finally:
        server.kill()


def client(url: str) -> Any:
    """A client of the store itself, beside `models`."""
    return ObjectStore.at(url)._reader


def objects(url: str) -> dict[str, bytes]:
    """Every object below the URL, by its key there."""
    store = client(url)
    keys = [entry["path"] for page in obstore.list(store) for entry in page]
    return {key: bytes(obstore.get(store, key).bytes()) for key in sorted(keys)}


def put_objects(url: str, contents: dict[str, bytes]) -> None:
    """Write objects as they are."""
    for key, content in contents.items():
        obstore.put(client(url), key, content)


def repository(url: str, folder: Path, limit_bytes: int = 2**30) -> Repository:
    """The versions at the URL, read through a cache folder of the test's own."""
    return Repository(ObjectStore.at(url), cache=DiskCache(folder / "cache", limit_bytes))
