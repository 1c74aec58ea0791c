"""The gateway's processes: granian's parent, and worker processes with one application each.

The parent checks the settings, makes the folder in which the processes share their metrics, and
watches the workers; each worker loads the application by itself. The parent passes a SIGTERM on;
waits end within `WAITS_END_S`, and workers that still run after `KILL_S` are killed. Workers get a
SIGTERM when their parent dies, so that a killed gateway leaves nothing behind.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog

from gateway import endpoint
from yard import local
from yard.broker import connections
from yard.platform import logs, prctl, run_folder, signals
from yard.settings import Settings

if TYPE_CHECKING:
    from gateway.services import Services

#: Seconds after a SIGTERM when waits end; their jobs are answered as they stand.
WAITS_END_S = 5.0
#: Seconds after a SIGTERM when a worker that still runs is killed.
KILL_S = 8

#: Connections of one process at once, idle ones included.
_CONNECTIONS = 4096
_OPEN_FILES = 65_536
_HEADERS_MS = 10_000
_HEADER_BYTES = 65_536

_STOPS = (signal.SIGTERM, signal.SIGINT)
_METRICS = "modelyard-metrics-"

_log = structlog.get_logger("gateway")


def serve(settings: Settings) -> None:
    """Serves until a signal to stop.

    Raises:
        ConfigurationError: No Redis is found, or the port is taken.
        SystemExit: With status 1, if the workers die as fast as they are started.
    """
    settings = settings.model_copy(update={"redis_url": local.redis_url(settings)})
    # An invalid URL shows here, not in a worker.
    connections.fast(str(settings.redis_url)).close()
    endpoint.check_free(settings.host, settings.port)  # granian would share the port
    logs.configure(settings)
    os.environ.update(settings.environ())
    _raise_open_files()
    # Counts of workers that died stay in it, so that no counter ever falls.
    with run_folder(_METRICS) as folder:
        # Read by prometheus_client when it is imported, so it comes before the application.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        import gateway.server.rsgi  # noqa: F401  # once, before the workers are forked

        server = _server(settings)
        _log.info(
            "gateway is listening",
            address=endpoint.address(settings.host, settings.port),
            processes=settings.gateway_processes,
            waits=settings.gateway_waits,
            redis=settings.redis_url,
        )
        server.serve(target_loader=load_app, wrap_loader=False)
    _log.info("gateway has stopped")


def load_app() -> Any:
    """Returns a worker process' application, by the environment; runs in its main thread.

    Raises:
        ConfigurationError: The environment's settings are invalid.
    """
    from gateway.app import create_app
    from gateway.server.rsgi import RsgiApp
    from producer.client import Client

    settings = Settings.load()
    logs.configure(settings)
    _die_with_parent()
    return RsgiApp(
        lambda loop: create_app(settings, Client(settings=settings), loop),
        _on_start,
    )


def _on_start(services: Services) -> None:
    _end_on_stop(services.async_client.end_within)
    # Objects that exist now stay: collections, 10 ms or more each with them, skip them from now on.
    gc.collect()
    gc.freeze()


def _server(settings: Settings) -> Any:
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces, Loops
    from granian.http import HTTP1Settings
    from granian.log import LogLevels

    server = Granian(
        "gateway",
        address=_ip(settings.host),
        port=settings.port,
        interface=Interfaces.RSGI,
        loop=Loops.asyncio,  # the one that is tested, also if others are installed
        workers=settings.gateway_processes,
        backpressure=_CONNECTIONS,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(
            header_read_timeout=_HEADERS_MS, max_buffer_size=_HEADER_BYTES
        ),
        websockets=False,
        respawn_failed_workers=True,
        workers_kill_timeout=KILL_S,
        # Its lines go through the root's handler, as all others.
        log_level=LogLevels.warning,
        log_dictconfig={"handlers": {}, "loggers": {"_granian": {"propagate": True}}},
    )
    server.on_startup(lambda: _listen_to_signals(server))
    return server


def _listen_to_signals(server: Any) -> None:
    """Called when granian's handlers are in place, before its workers are started."""
    # A closed terminal stops the gateway; granian would restart its workers.
    signal.signal(signal.SIGHUP, server.signal_handler_interrupt)
    _on_stop(server.signal_handler_interrupt)
    # A worker must not write to the wake-up descriptor that it inherits: it is its parent's.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    if signals.is_waiting():  # a worker that gets its signal while it starts ends late
        sys.exit(0)
    signals.release()


def _ip(host: str) -> str:
    """Returns the address of a host name; granian takes no names."""
    return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])


def _raise_open_files() -> None:
    """Raises the limit on open files: connections are such, and the usual limit is below ours."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _die_with_parent() -> None:
    """Requests a SIGTERM for when the parent dies, also by SIGKILL."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    prctl.die_with_parent(signal.SIGTERM)
    if os.getppid() != parent.pid:  # it died before the request was made: no signal will come
        os._exit(1)


def _end_on_stop(end_waits: Callable[[float], None]) -> None:
    """Ends waits at a signal to stop, which granian handles without passing it on.

    Granian's event loop reads signals from a descriptor, so a handler of ours can be set as well. A
    process whose parent is gone, and cannot kill it, ends itself.
    """

    def end(_number: int, _frame: object) -> None:
        end_waits(WAITS_END_S)
        threading.Thread(target=give_up, name="stop", daemon=True).start()

    def give_up() -> None:
        time.sleep(KILL_S + 1)
        os._exit(1)

    for number in _STOPS:
        signal.signal(number, end)


def _on_stop(act: Callable[[], None]) -> None:
    """Calls ``act`` in a thread of its own at a signal to stop, beside the signal's handler.

    A signal between the main thread's last check and its wait for a lock (granian waits like that)
    runs no handler until the next signal; SIGSTOP and SIGCONT open such a window. The kernel's
    write to the wake-up descriptor is never lost.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        while os.read(reader, 1)[0] not in _STOPS:
            pass
        act()

    threading.Thread(target=watch, name="stop", daemon=True).start()
