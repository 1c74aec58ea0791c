"""Gateways for tests: the application in this process, or `modelyard gateway` as real ones."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Flask
from redis import Redis

from gateway.app import create_app
from gateway.server.rsgi import RsgiApp
from tests.helpers.rsgi import RsgiOverWsgi
from tests.helpers.stand_ins import finish, new_client, queued
from tests.helpers.waiting import wait_until
from tests.helpers.yards import clean_environ, free_port
from yard.broker.connections import steady
from yard.contract import keys
from yard.platform import pdeathsig
from yard.settings import Settings

RESULT = {
    "predictions": ["setosa"],
    "probabilities": [[0.98, 0.01, 0.01]],
    "classes": ["setosa", "versicolor", "virginica"],
}


@contextmanager
def running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="loop")
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def new_app(url: str, **settings: Any) -> Iterator[Flask]:
    """The application in this process, on a Redis that need not be there.

    Its test client's requests go the way of all others: over the event loop and the middleware.
    """
    with new_client(url, **settings) as client, running_loop() as loop:
        app = create_app(client.settings, client, loop)
        served = RsgiApp(lambda _loop: app, lambda _services: None)
        served.__rsgi_init__(loop)
        app.wsgi_app = RsgiOverWsgi(served, loop)  # type: ignore[method-assign]  # as Flask has it
        try:
            yield app
        finally:
            served.__rsgi_del__(loop)


@contextmanager
def stand_in_worker(url: str, *queues: str, result: Any = RESULT) -> Iterator[None]:
    """Ends every job of some queues with one result, as soon as their doorbells ring."""
    is_over = threading.Event()

    def work() -> None:
        with steady(url) as redis:
            while not is_over.is_set():
                redis.blpop([keys.key("bell", queue) for queue in queues], timeout=0.1)
                for queue in queues:
                    for job_id in queued(redis, queue):
                        finish(redis, job_id, result)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def announce_pool(
    redis: Redis, name: str = "here", looked_s: float = 0.0, host: str = "h", **workers: int
) -> None:
    """Announce a pool that looked ``looked_s`` ago, as `yard.cluster.presence.announce` does."""
    seconds, _ = redis.time()
    looked_ms = int((seconds - looked_s) * 1000)
    known = {"host": host, "pid": 1, "workers": workers, "looked_ms": looked_ms}
    _announce(redis, "pool", "pool", name, known)


def announce_worker(redis: Redis, name: str, **loaded: Any) -> None:
    """Announce a worker; ``versions`` are those it has loaded."""
    _announce(redis, "worker", "loaded", name, {"pool": "here", "host": "h", "pid": 2} | loaded)


def announce(redis: Redis, kind: str, name: str, what: dict[str, Any]) -> None:
    """Announce a ``pool`` or ``worker`` with these fields alone."""
    _announce(redis, kind, {"pool": "pool", "worker": "loaded"}[kind], name, what)


def _announce(redis: Redis, kind: str, family: str, name: str, what: dict[str, Any]) -> None:
    seconds, _ = redis.time()
    redis.set(keys.key(family, name), json.dumps(what), ex=keys.PRESENCE_TTL_S)
    redis.zadd(keys.PRESENCE, {f"{kind}:{name}": (seconds + keys.PRESENCE_TTL_S) * 1000})


@dataclass(frozen=True)
class Answer:
    """A real gateway's answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class RunningGateway:
    """One `modelyard gateway` and its processes.

    Args:
        url: The Redis, which need not be there.
        log: The file that it logs to.
        settings: Other settings, by name.
    """

    def __init__(self, url: str, log: Path, **settings: Any) -> None:
        self.port = free_port()
        self.log = log
        wanted = {"redis_url": url, "port": self.port} | settings
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                pdeathsig.command(
                    [sys.executable, "-P", "-m", "modelyard.cli", "gateway"], signal.SIGTERM
                ),
                env=clean_environ() | Settings.load({}, **wanted).environ(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
            )

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> Answer:
        """Send one request on a new connection; a body that is not bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"} if sent is not None else {}
        try:
            connection.request(method, path, sent, kind | (headers or {}))
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def wait_until_serving(self) -> None:
        """Wait until it answers, with or without Redis."""

        def serves() -> bool:
            with suppress(OSError):
                return self.call("GET", "/healthz").status == 200
            assert self.process.poll() is None, self.log.read_text()
            return False

        wait_until(serves, 60, "the gateway serves")

    def workers(self) -> list[int]:
        """The ids of the processes that serve."""
        parent = self.process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text()
        return [int(pid) for pid in children.split()]

    def events(self) -> list[dict[str, Any]]:
        """The lines of its log; each must be JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def stop(self, timeout_s: float = 60.0) -> int:
        """Send a SIGTERM and return the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout_s)


@contextmanager
def running_gateway(url: str, folder: Path, **settings: Any) -> Iterator[RunningGateway]:
    """A gateway that serves, and is gone when the context ends."""
    gateway = RunningGateway(url, folder / "gateway.log", **settings)
    try:
        gateway.wait_until_serving()
        yield gateway
    finally:
        try:
            gateway.stop()
        except subprocess.TimeoutExpired:
            gateway.process.kill()
            gateway.process.wait()
