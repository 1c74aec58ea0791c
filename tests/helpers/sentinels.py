"""A primary, a replica and a Sentinel of a test's own, as real processes."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from tests.helpers.redis_server import RedisServer
from tests.helpers.waiting import wait_until
from tests.helpers.yards import free_port
from yard.broker.connections import steady
from yard.platform import pdeathsig

SERVICE = "yard"


class WatchedRedis:
    """The servers behind a `redis+sentinel://` URL: a primary and a replica.

    Args:
        folder: Folder of all their files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers = [RedisServer(self._new(name), "everysec") for name in ("first", "second")]
        self.port = free_port()
        self._sentinel: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL; the first Sentinel that it names is not there, so that clients ask the next."""
        return f"redis+sentinel://127.0.0.1:1,127.0.0.1:{self.port}/{SERVICE}/0"

    def start(self) -> None:
        """Start all of them, and wait until the Sentinel knows both servers."""
        first, second = self.servers
        first.start()
        second.start()
        with first.client() as primary:
            primary.config_set("repl-diskless-sync-delay", 0)  # which waits for more replicas
        with second.client() as replica:
            replica.replicaof("127.0.0.1", str(first.port))
            wait_until(lambda: replica.info("replication")["master_link_status"] == "up", 60)
        self._sentinel = self._watch(first)
        wait_until(self._knows_both, 60, "the Sentinel knows the replica")

    def fail_over(self) -> None:
        """Fail over as an operator does: the primary lives on as the replica."""

        def is_begun() -> bool:
            with Redis(port=self.port) as sentinel:
                try:
                    return bool(sentinel.execute_command("SENTINEL", "FAILOVER", SERVICE))
                except ResponseError:  # it does not know the replica's state yet
                    return False

        wait_until(is_begun, 60, "the Sentinel begins a failover", interval_s=0.1)

    def primary(self) -> RedisServer:
        """The server that runs and takes writes."""

        def found() -> RedisServer | None:
            for server in self.servers:
                if server.is_running and _is_primary(server):
                    return server
            return None

        return wait_until(found, 60, "a server is the primary")

    def end(self) -> None:
        """Kill all."""
        if self._sentinel is not None:
            self._sentinel.kill()
            self._sentinel.wait()
        for server in self.servers:
            server.kill()

    def _new(self, name: str) -> Path:
        place = self.folder / name
        place.mkdir()
        return place

    def _watch(self, first: RedisServer) -> subprocess.Popen[bytes]:
        place = self._new("sentinel")
        lines = (
            "bind 127.0.0.1",
            f"port {self.port}",
            f"dir {place}",
            f"logfile {place / 'log'}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {first.port} 1",
            f"sentinel down-after-milliseconds {SERVICE} 500",
            f"sentinel failover-timeout {SERVICE} 3000",
        )
        file = place / "sentinel.conf"
        file.write_text("\n".join([*lines, ""]))
        argv = [str(first.server.path), str(file), "--sentinel"]
        return subprocess.Popen(
            pdeathsig.command(argv, signal.SIGKILL), stdin=subprocess.DEVNULL, process_group=0
        )

    def _knows_both(self) -> bool:
        with Redis(port=self.port) as sentinel:
            try:
                known: int = sentinel.sentinel_masters()[SERVICE]["num-slaves"]
            except (RedisError, KeyError):
                return False
        return known == 1


def _is_primary(server: RedisServer) -> bool:
    with steady(server.url) as client:
        try:
            return bool(client.info("replication")["role"] == "master")
        except RedisError:
            return False


@contextmanager
def watched_redis(folder: Path) -> Iterator[WatchedRedis]:
    """A primary, a replica and a Sentinel that are gone when the context ends."""
    with ExitStack() as stack:
        found = WatchedRedis(folder)
        stack.callback(found.end)
        found.start()
        yield found
