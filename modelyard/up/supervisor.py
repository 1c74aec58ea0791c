"""`modelyard up`: supervises Redis, a gateway and a pool of workers as child processes.

Starts the children, waits until the gateway is ready, prints addresses and commands, and stays: a
child that dies is started again. The order of stopping matters: the gateway first, so that no job
comes and its waiting requests still get their answers; then the pool, which finishes its batches;
then Redis, which writes its file. No process is left, however this one ends.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from redis.exceptions import RedisError

from gateway import endpoint
from modelyard.options import pool_settings, workers
from modelyard.up.banner import banner
from modelyard.up.child_process import Child
from modelyard.up.log_tail import Tail, last_line
from modelyard.up.redis_server import EmbeddedRedis
from yard import local
from yard.broker import connections
from yard.contract import keys
from yard.errors import ConfigurationError, ModelyardError
from yard.platform import StopSignals, child_environment, exit_cause, signals
from yard.registry import catalog
from yard.routing import routed_versions, warmup
from yard.settings import Settings

#: Seconds to wait for a gateway that answers, with the examples in place, to become ready; after
#: it the banner is shown all the same: the keys may be at fault.
_READY_S = 20.0

#: Seconds that the gateway gets to finish its requests; longer waits are cut, their jobs live on.
_GATEWAY_DRAIN_S = 10.0

#: Seconds to wait until the versions that get traffic are loaded, and how many are at most.
_WARM_S, _MOST_WARM = 5.0, 16

#: Seconds between progress messages during the start.
_PATIENCE_S = 10.0


class _StopRequested(Exception):
    """A signal asks this yard to stop."""


class Up:
    """One run of a yard, from start to stop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.data = Path(settings.data)
        self.address = endpoint.address(settings.host, settings.port)
        self.url = settings.redis_url or ""
        self.redis: EmbeddedRedis | None = None
        self.signals = StopSignals()
        self.started_at = time.monotonic()
        self._lock: int | None = None
        self._children: dict[str, Child] = {}
        self._tails: list[Tail] = []

    def run(self) -> None:
        """Start, serve until asked to stop, and stop.

        Raises:
            ConfigurationError: Something did not start; everything is stopped again.
        """
        with self.signals:
            try:
                self._lock = local.hold(self.data, pause=self._pause)
                self._find_redis(self._lock)
                endpoint.check_free(self.settings.host, self.settings.port)
                self._announce()
                self._start_children()
                detail = self._wait_until_ready()
                self._warm_up()
                self._show_banner(detail)
                while True:
                    self._pause(0.25)
                    self._restart_dead()
                    self._show_log_lines()
            except _StopRequested:
                _say("Stopping: requests and batches are finished first. Ctrl-C again kills.")
                self._drain()
                _say("Stopped.")
            finally:
                self._stop()
                signals.hold()  # one more Ctrl-C must not end this by a signal while it exits

    def _pause(self, timeout_s: float) -> None:
        self.signals.wait(timeout_s)
        if self.signals.count:
            raise _StopRequested

    def _find_redis(self, lock: int) -> None:
        if self.url:
            with connections.fast(self.url) as redis:
                return connections.check_server(redis)
        self.redis = EmbeddedRedis(self.data, lock)
        self.redis.launch()
        return self._wait_for_redis(self.redis)

    def _announce(self) -> None:
        """Write the file by which other commands find this yard."""
        me = os.getpid()
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        store = self.settings.store_location
        local.write(self.data, local.Yard(me, local.birth(me), self.url, self.address, store, now))

    def _wait_for_redis(self, redis: EmbeddedRedis) -> None:
        patience = time.monotonic() + _PATIENCE_S
        while not redis.is_ready():
            if time.monotonic() > patience:
                patience += _PATIENCE_S
                _say(f"Redis loads its data (see {redis.log}) ...")
            self._pause(0.005)
        self.url = redis.url
        if redis.has_moved:
            _say(f"The path of {self.data} is too long for a socket; it is {redis.socket}.")

    def _start_children(self) -> None:
        _say("Starting the gateway and the workers ...")
        # The next yard on this folder needs this port, so its lock waits for this gateway, too.
        self._start_child("gateway", keeps=[self._lock] if self._lock is not None else [])
        self._start_child("pool")
        if self._needs_examples():
            _say("Publishing the example models ...")
            self._start_child("examples", "--if-empty")

    def _start_child(self, name: str, *options: str, keeps: Sequence[int] = ()) -> None:
        logs = self.data / "logs"
        logs.mkdir(mode=0o700, exist_ok=True)
        environ = self.settings.model_copy(update={"redis_url": self.url}).environ()
        child = Child(
            name, [name, *options], child_environment(environ), logs / f"{name}.log", keeps
        )
        self._tails.append(Tail(child.log))
        child.start()
        self._children[name] = child

    def _needs_examples(self) -> bool:
        # A store by URL is not listed here: `examples --if-empty` does, if Redis has no models.
        is_remote = self.settings.is_store_remote
        is_stored = is_remote or any(self.settings.store_path.glob("*/*/manifest.json"))
        with connections.fast(self.url) as redis:
            return not (is_stored and redis.exists(keys.MODELS))

    def _wait_until_ready(self) -> str | None:
        """Returns None once the gateway is ready, or after `_READY_S` the reason why it is not."""
        patience = time.monotonic() + _PATIENCE_S
        settled_at = None
        while True:
            self._check_start()
            status, detail = endpoint.ask_ready(self.settings.host, self.settings.port)
            now = time.monotonic()
            is_settled = status is not None and "examples" not in self._children
            if is_settled and status == 200:
                return None
            if is_settled:
                settled_at = settled_at or now
                if now - settled_at > _READY_S:
                    return detail
            if now > patience:
                patience += _PATIENCE_S
                _say(f"Not ready yet: {detail} ..." if is_settled else "Still at it ...")
            self._show_log_lines()
            self._pause(0.05)

    def _warm_up(self) -> None:
        """Have the versions that get traffic loaded, so that the first job need not wait for it.

        Best effort: what is not loaded after `_WARM_S` is loaded by its first job.
        """
        if self.settings.pool_min == 0:
            return
        with suppress(RedisError, ModelyardError), connections.fast(self.url) as redis:
            routed = sorted(routed_versions(redis, catalog.model_names(redis)))[:_MOST_WARM]
            if routed:
                warmup.warm(redis, routed, _WARM_S, self._pause)

    def _check_start(self) -> None:
        """Check that all children live; drop `examples` from them once it has succeeded.

        Raises:
            ConfigurationError: A child has ended that should not have.
        """
        for name, child in list(self._children.items()):
            if child.status == 0 and name == "examples":
                del self._children[name]
            elif child.status is not None:
                raise ConfigurationError(
                    f"`modelyard {name}` did not start: {last_line(child.log)} "
                    f"(its log is {child.log})"
                )
        if self.redis is not None and self.redis.has_ended:
            raise ConfigurationError(f"Redis has ended: {last_line(self.redis.log)}")

    def _show_banner(self, detail: str | None) -> None:
        with connections.fast(self.url) as redis:
            models = [catalog.read_versions(redis, name) for name in catalog.model_names(redis)]
        known = [entry for versions in models for entry in versions.values()]
        took_s = time.monotonic() - self.started_at
        _say(banner(self.address, self.url, self.data / "logs", known, took_s))
        if detail:
            _say(f"Not ready to predict: {detail} (`modelyard doctor` says more)")

    def _show_log_lines(self) -> None:
        for tail in self._tails:
            for line in tail.new_warnings():
                _say(f"{tail.path.stem}: {line}")

    def _restart_dead(self) -> None:
        """Restart Redis and the children that have died, after a backoff."""
        if self.redis is not None and self.redis.has_ended:
            _say(f"Redis has ended ({last_line(self.redis.log)}): starting it again.")
            self.redis.launch()
            self._wait_for_redis(self.redis)
        for child in self._children.values():
            if child.restart_at is not None:
                if time.monotonic() >= child.restart_at:
                    child.start()
            elif child.status is not None:
                delay_s = child.plan_restart()
                _say(
                    f"The {child.name} has ended ({exit_cause(child.status)}): "
                    f"starting it again in {delay_s:g} s."
                )

    def _drain(self) -> None:
        """Stop the children one after the other, each within its time."""
        waits_s = {
            "examples": 1.0,
            "gateway": _GATEWAY_DRAIN_S,
            "pool": self.settings.drain_s + 5.0,
        }
        for name, wait_s in waits_s.items():
            if name in self._children:
                self._drain_child(self._children[name], wait_s)

    def _drain_child(self, child: Child, wait_s: float) -> None:
        until = time.monotonic() + wait_s
        child.terminate()
        while child.is_running and self.signals.count < 2 and time.monotonic() < until:
            self.signals.wait(0.1)
        if child.is_running and self.signals.count < 2:
            _say(f"The {child.name} did not finish within {wait_s:g} s: killed.")
            child.kill()

    def _stop(self) -> None:
        """Kill the children that still run; release the lock and the yard's file."""
        for child in self._children.values():
            child.kill()
            child.sweep(signal.SIGKILL)
        if self.redis is not None:
            self.redis.stop()
        known = local.running(self.data)
        if known is not None and known.pid == os.getpid():
            local.remove(self.data)
        if self._lock is not None:
            os.close(self._lock)


def _say(text: str) -> None:
    with suppress(OSError):  # the terminal may be gone; the children must be stopped all the same
        click.echo(text)


@click.command()
@click.option("--host", metavar="ADDRESS", help="Address of the gateway. [127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the gateway. [8000]")
@click.option("--data", metavar="FOLDER", help="Folder of Redis' files and the logs. [data]")
@click.option("--store", metavar="FOLDER|URL", help="The artefact store. [store]")
@click.option("--redis-url", metavar="URL", help="The Redis to use, instead of an embedded one.")
@workers
def up(pool_min: int | None, pool_max: int | None, **flags: Any) -> None:
    """Run everything on this machine: Redis, a gateway and workers.

    Without MODELYARD_REDIS_URL it starts a Redis of its own, on a socket in the data folder; its
    data is there again at the next start. If there are no models, the examples are published.
    Runs in the foreground: Ctrl-C finishes requests and batches and stops everything, a second
    Ctrl-C kills.
    """
    Up(pool_settings(pool_min, pool_max, **flags)).run()
