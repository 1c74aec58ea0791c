"""The gateway as processes: granian in front, one application in each worker process.

The parent checks what can be checked, makes the folder in which the processes share their metrics,
and watches; each worker loads the application by itself. On SIGTERM the parent passes it on, waits
in flight end within `WAITS_END_S`, and what still runs after `KILL_S` is killed. Workers get a
SIGTERM when their parent dies, so that a killed gateway leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from gateway import endpoint
from yard import local
from yard.broker import connections
from yard.platform import logs, signals
from yard.settings import Settings

if TYPE_CHECKING:
    from gateway.services import Services

#: After a SIGTERM, waits for jobs go on for this long; then they are answered as they stand.
WAITS_END_S = 5.0
#: After a SIGTERM, a process that has not ended by then is killed.
KILL_S = 8

#: Connections that one process holds at once, idle ones included.
_CONNECTIONS = 4096
_OPEN_FILES = 65_536
_HEADERS_MS = 10_000
_HEADER_BYTES = 65_536

_STOPS = (signal.SIGTERM, signal.SIGINT)
_PR_SET_PDEATHSIG = 1
_METRICS = "modelyard-metrics-"

_log = structlog.get_logger("gateway")


def serve(settings: Settings) -> None:
    """Serve until a signal to stop.

    Raises:
        ConfigurationError: There is no Redis to be found, or the port is taken.
        SystemExit: With status 1, where the workers die as fast as they are started.
    """
    settings = settings.model_copy(update={"redis_url": local.redis_url(settings)})
    connections.fast(
        str(settings.redis_url)
    ).close()  # a URL that is none shows here, not in a worker
    endpoint.check_free(settings.host, settings.port)  # granian would share the port
    logs.configure(settings)
    os.environ.update(settings.environ())
    _raise_open_files()
    with _metrics_folder() as folder:
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
    """The application of one worker process, by the environment; runs in its main thread.

    Raises:
        ConfigurationError: The environment's settings cannot be used.
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
    # Objects that are here now stay: collections skip them, each of which would take 10 ms or more.
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
        loop=Loops.asyncio,  # the one that is tested, whatever else is installed
        workers=settings.gateway_processes,
        backpressure=_CONNECTIONS,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(
            header_read_timeout=_HEADERS_MS, max_buffer_size=_HEADER_BYTES
        ),
        websockets=False,
        respawn_failed_workers=True,
        workers_kill_timeout=KILL_S,
        # Its lines go the way of all others, through the root's handler.
        log_level=LogLevels.warning,
        log_dictconfig={"handlers": {}, "loggers": {"_granian": {"propagate": True}}},
    )
    server.on_startup(lambda: _listen_to_signals(server))
    return server


def _listen_to_signals(server: Any) -> None:
    """Called when granian's handlers are in place, before its workers are started."""
    # A terminal that is closed stops the gateway; granian would only start its workers anew.
    signal.signal(signal.SIGHUP, server.signal_handler_interrupt)
    _on_stop(server.signal_handler_interrupt)
    # A worker's signals are its own: the descriptor that it inherits is its parent's.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    if signals.is_waiting():  # a worker that is stopped while it starts would take its time
        sys.exit(0)
    signals.release()


def _ip(host: str) -> str:
    """The address that a name stands for; granian takes no names."""
    return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])


def _raise_open_files() -> None:
    """Connections are open files, and the usual bound on those is below ours."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def _metrics_folder() -> Iterator[str]:
    """A private folder for this run's metrics; those of killed gateways are cleared away.

    What a worker that died has counted stays in it, so that no counter ever falls.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{_METRICS}*"):
        with contextlib.suppress(OSError):  # another gateway that starts may have been faster
            _clear_if_left(left)
    folder = tempfile.mkdtemp(prefix=f"{_METRICS}{os.getpid()}-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _clear_if_left(folder: Path) -> None:
    pid = folder.name.removeprefix(_METRICS).partition("-")[0]
    if pid.isdecimal() and folder.lstat().st_uid == os.getuid() and not _is_alive(int(pid)):
        shutil.rmtree(folder)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _die_with_parent() -> None:
    """Get a SIGTERM when the parent dies, also by SIGKILL."""
    parent = multiprocessing.parent_process()
    if sys.platform != "linux" or parent is None:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent.pid:  # it died before the request was made: no signal will come
        os._exit(1)


def _end_on_stop(end_waits: Callable[[float], None]) -> None:
    """End waits when a signal to stop comes; granian handles the signal, and tells nobody.

    It has the event loop read signals from a descriptor, so that a handler of ours may stand beside
    it. A process whose parent is gone, so that nobody kills it, ends itself.
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
    """Call ``act`` in a thread of its own when a signal to stop comes, beside its handler.

    A signal between the main thread's last look and its wait for a lock (which is how granian
    waits) runs no handler until another one comes, and stopping and going on (SIGSTOP, SIGCONT)
    makes such an instant. The kernel's write to the wake-up descriptor is never lost.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        while os.read(reader, 1)[0] not in _STOPS:
            pass
        act()

    threading.Thread(target=watch, name="stop", daemon=True).start()
