"""``modelyard status``, ``logs`` and ``stop``: a yard that `modelyard up` runs on this machine.

The yard is found as by all commands (`yard.local`): the one on the data folder, else the only one,
or the one that ``--yard`` names. Logs are shown also of a yard that has ended.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from modelyard.options import examples, plain, print_facts, print_json
from yard import local
from yard.errors import ConfigurationError, ModelyardError
from yard.settings import Settings

if TYPE_CHECKING:
    from yard.status import Status

#: Logs that a yard writes, in the order in which they are shown.
_LOGS = ("gateway", "pool", "redis", "examples")

#: Seconds between two looks at a log that is followed, and at a yard that stops.
_LOOK_S = 0.1

#: Bytes read at a time, and of the end of a log at most.
_CHUNK, _MOST = 2**16, 2**24

_named = click.option(
    "--yard",
    metavar="NAME|PATH",
    help="The running yard, by its name or folder.  [default: the one on ./data, else your only "
    "one]",
)


@click.command(epilog=examples("modelyard status", "modelyard status --yard shop --json"))
@_named
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def status(ctx: click.Context, /, yard: str | None, as_json: bool) -> None:
    """Show the running yard: where it is, whether it is ready, and what it does.

    Exit status 0 if it runs and is ready to predict, else 1.
    """
    known = local.found(Settings.load(yard=yard))
    document = _document(known)
    if as_json:
        print_json(document)
    else:
        print_facts(_facts(document), 8)
    ctx.exit(0 if document["ready"] else 1)


@click.command(epilog=examples("modelyard logs", "modelyard logs pool -n 100", "modelyard logs -f"))
@click.argument("names", metavar="[gateway|pool|redis]...", type=click.Choice(_LOGS), nargs=-1)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    "count",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    help="Last lines of each log.",
)
@_named
def logs(names: Sequence[str], follow: bool, count: int, yard: str | None) -> None:
    """Show the logs of the yard's processes: the last lines of each, and what follows.

    A line has the name of its log before it if there are several. The logs of a yard that has ended
    are found from the folder that it ran in.
    """
    settings = Settings.load(yard=yard)
    folder, is_running = _log_folder(settings)
    found = [_Log(folder / f"{name}.log") for name in _LOGS if name in (names or _LOGS)]
    if missing := [log.path for log in found if names and not log.path.exists()]:
        raise ConfigurationError(f"there is no log {str(missing[0])!r}: nothing of it runs here")
    for log in found:
        _print(log, log.last_lines(count), is_named=len(found) > 1)
    with suppress(KeyboardInterrupt):
        while follow and is_running:
            is_running = local.running(folder.parent) is not None
            for log in found:
                _print(log, log.new_lines(), is_named=len(found) > 1)
            time.sleep(_LOOK_S)


@click.command(epilog=examples("modelyard stop", "modelyard stop --yard shop --timeout 10"))
@_named
@click.option("--now", is_flag=True, help="Kill the workers; their jobs go back to the queue.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="Wait at most so long; the yard goes on stopping.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def stop(yard: str | None, now: bool, timeout_s: float, as_json: bool) -> None:
    """Stop the running yard, as Ctrl-C does, and wait until it has ended.

    Requests and batches are finished first; jobs that wait are there at the next start. Exit status
    0 if it has ended, 1 if not in time.
    """
    known = local.found(Settings.load(yard=yard))
    began = time.monotonic()
    click.echo(f"stopping {plain(str(known))}: requests and batches are finished first", err=True)
    _signal(known)
    until = began + timeout_s
    is_gone = _wait_for_end(known, min(until, began + _SECOND_S) if now else until)
    if now and not is_gone:
        _signal(known)
        is_gone = _wait_for_end(known, until)
    took_s = time.monotonic() - began
    if as_json:
        print_json({"name": known.name, "data": known.data, "stopped": is_gone, "took_s": took_s})
    if not is_gone:
        raise click.ClickException(
            f"{known.name} has not ended within {timeout_s:g} s; it goes on stopping: "
            "`modelyard logs` shows what it does, `modelyard stop --now` kills its workers"
        )
    if not as_json:
        click.echo(f"stopped {known.name} after {took_s:.1f} s")


#: Signals that come closer together than a quarter of a second count as one, see
#: `yard.platform.signals`.
_SECOND_S = 0.5


def _signal(known: local.Yard) -> None:
    try:
        os.kill(known.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError:
        raise ConfigurationError(
            f"process {known.pid} of {known} belongs to another user, who may stop it"
        ) from None


def _wait_for_end(known: local.Yard, until: float) -> bool:
    """Waits until the yard's file is gone, which it removes after all of its processes."""
    while True:
        left = local.running(Path(known.data))
        if left is None or left.pid != known.pid:
            return True
        if time.monotonic() >= until:
            return False
        time.sleep(_LOOK_S)


def _document(known: local.Yard) -> dict[str, Any]:
    from gateway import endpoint
    from yard.broker import redact_url

    parts = urlsplit(known.gateway)
    code, detail = endpoint.ask_ready(parts.hostname or "", parts.port or 0, timeout_s=2.0)
    document: dict[str, Any] = {
        "name": known.name,
        "data": known.data,
        "store": known.store,
        "gateway": known.gateway,
        "redis_url": redact_url(known.redis_url),
        "pid": known.pid,
        "started_at": known.started_at,
        "ready": code == 200,
        "detail": "" if code == 200 else detail,
        "suspended": None,
        "pools": None,
        "workers": None,
        "models": None,
        "queued": None,
        "running": None,
    }
    try:
        return document | _work(known.redis_url)
    except ModelyardError as error:
        return document | {"ready": False, "detail": error.message}


def _work(redis_url: str) -> dict[str, Any]:
    """What the yard does, as Redis says.

    Raises:
        Unavailable: It does not answer.
    """
    from yard.broker import connections, redis_reachable
    from yard.contract import keys
    from yard.status import read_status

    with redis_reachable(), connections.fast(redis_url) as redis:
        known: Status = read_status(redis)
        is_suspended = bool(redis.exists(keys.SUSPENDED))
    queues = [queue for model in known.models for queue in model.queues.values()]
    return {
        "suspended": is_suspended,
        "pools": len(known.presence.pools),
        "workers": len(known.presence.workers),
        "models": len(known.models),
        "queued": sum(queue.depth for queue in queues),
        "running": sum(queue.inflight for queue in queues),
    }


def _facts(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from modelyard.tables import age

    yield "yard", f"{document['name']}, process {document['pid']}, up {age(document['started_at'])}"
    yield "state", "ready" if document["ready"] else f"not ready: {document['detail']}"
    yield "gateway", f"{document['gateway']}, docs at {document['gateway']}/docs"
    yield "Redis", document["redis_url"]
    yield "data", document["data"]
    yield "store", document["store"]
    if document["pools"] is not None:
        yield "workers", f"{document['workers']} of {document['pools']} pools"
        yield "jobs", f"{document['queued']} wait, {document['running']} run"
        yield "models", f"{document['models']}: `modelyard models` lists them"
    if document["suspended"]:
        yield "problem", "`rq suspend` holds all workers back: `rq resume`"


def _log_folder(settings: Settings) -> tuple[Path, bool]:
    """Folder of the logs, and whether their yard runs.

    Raises:
        ConfigurationError: No yard runs, and none has left logs in the data folder.
    """
    try:
        return Path(local.found(settings).data) / "logs", True
    except ConfigurationError:
        folder = Path(settings.data).absolute() / "logs"
        if settings.yard is not None or not folder.is_dir():
            raise
        return folder, False


def _print(log: _Log, lines: Sequence[str], *, is_named: bool) -> None:
    before = f"{log.path.stem:<8} | " if is_named else ""
    for line in lines:
        click.echo(before + plain(line))
    if lines:
        sys.stdout.flush()


@dataclass(slots=True)
class _Log:
    """One log file, which its writer may put aside and begin again."""

    path: Path
    _inode: int = 0
    _position: int = 0
    _rest: bytes = field(default=b"")

    def last_lines(self, count: int) -> list[str]:
        """The last lines; what comes later is read by `new_lines`."""
        try:
            with self.path.open("rb") as file:
                self._inode = os.fstat(file.fileno()).st_ino
                self._position = begin = file.seek(0, os.SEEK_END)
                tail = b""
                while begin and tail.count(b"\n") <= count and len(tail) < _MOST:
                    size = min(_CHUNK, begin)
                    begin = file.seek(begin - size)
                    tail = file.read(size) + tail
        except OSError:
            return []
        *whole, self._rest = tail.split(b"\n")
        return [_text(line) for line in whole[len(whole) - min(count, len(whole)) :]]

    def new_lines(self) -> list[str]:
        """The lines since the last call."""
        try:
            with self.path.open("rb") as file:
                known = os.fstat(file.fileno())
                if known.st_ino != self._inode or known.st_size < self._position:
                    self._inode, self._position, self._rest = known.st_ino, 0, b""
                file.seek(self._position)
                news = file.read(_MOST)
        except OSError:
            return []
        self._position += len(news)
        *whole, self._rest = (self._rest + news).split(b"\n")
        return [_text(line) for line in whole]


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")
