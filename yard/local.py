"""The running yard of a data folder: its file ``yard.json``, and the lock that keeps it single.

`modelyard up` holds the data folder's lock and writes ``yard.json`` there; every other command
finds Redis and the gateway through it. The lock is the kernel's and goes with the last process that
holds it, and the file names a process, so neither a killed yard's lock nor its file is in the way.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from yard.errors import ConfigurationError
from yard.settings import Settings, variable

_FILE = "yard.json"
_LOCK = "yard.lock"


@dataclass(frozen=True, slots=True)
class Yard:
    """A yard as it describes itself in its file.

    Attributes:
        pid: The process of `modelyard up`.
        birth: Start of that process in the kernel's ticks, so that a later process with the same id
            is not taken for it; 0 where the kernel has none.
        redis_url: The Redis that it uses.
        gateway: Address of its gateway: ``http://127.0.0.1:8000``.
        store: Absolute path, or URL, of its artefact store.
        started_at: RFC 3339, UTC.
    """

    pid: int
    birth: int
    redis_url: str
    gateway: str
    store: str
    started_at: str


def redis_url(settings: Settings) -> str:
    """Returns the URL of the Redis to use: the one that is set, else the running yard's.

    Raises:
        ConfigurationError: None is set and no yard runs on the data folder.
    """
    if settings.redis_url is not None:
        return settings.redis_url
    yard = running(Path(settings.data))
    if yard is None:
        raise ConfigurationError(
            f"no Redis: no yard is running in {settings.data!r}. Start one with `modelyard up`, "
            f"or set {variable('redis_url')}"
        )
    return yard.redis_url


def running(data: Path) -> Yard | None:
    """Returns the yard that runs on a data folder; None also for the remains of a killed one."""
    try:
        yard = Yard(**json.loads((data / _FILE).read_bytes()))
        return yard if _is_alive(yard) else None
    except (OSError, ValueError, TypeError):  # not there, or not what `write` writes
        return None


def write(data: Path, yard: Yard) -> None:
    """Writes the yard's file for other commands: atomically, readable by its owner only."""
    draft = data / f".{_FILE}.{os.getpid()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(yard), file, indent=2)
        file.write("\n")
    draft.replace(data / _FILE)


def remove(data: Path) -> None:
    """Removes the file that `write` wrote."""
    (data / _FILE).unlink(missing_ok=True)


def hold(data: Path, wait_s: float = 15.0, pause: Callable[[float], None] = time.sleep) -> int:
    """Takes the lock of ``data``, which is made if need be; returns a descriptor to keep open.

    A child that inherits the descriptor holds the lock, too: a killed yard's Redis, still writing
    its file, and its gateway, still on its port, keep the next yard waiting, for up to ``wait_s``.

    Raises:
        ConfigurationError: Another yard holds it, or the folder cannot be used.
    """
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(data / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"the data folder {str(data)!r} cannot be used: {error.strerror}; "
            f"set {variable('data')} to another"
        ) from None
    try:
        _lock(descriptor, data, time.monotonic() + wait_s, pause)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def birth(pid: int) -> int:
    """Returns a process' start in ticks since boot; 0 where the kernel has none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _lock(descriptor: int, data: Path, until: float, pause: Callable[[float], None]) -> None:
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yard = running(data)
            if yard is not None or time.monotonic() > until:
                raise _taken(data, yard) from None
        except OSError as error:
            raise ConfigurationError(
                f"the data folder {str(data)!r} cannot be locked: {error.strerror}; "
                f"set {variable('data')} to one on a local disk"
            ) from None
        pause(0.05)


def _taken(data: Path, yard: Yard | None) -> ConfigurationError:
    if yard is None:
        what = f"what an earlier yard started on {str(data)!r} still runs: end it"
    else:
        what = f"a yard is running in {str(data)!r} already (process {yard.pid}, {yard.gateway}): "
        what += "stop it"
    return ConfigurationError(f"{what}, or set {variable('data')} to another folder")


def _is_alive(yard: Yard) -> bool:
    try:
        os.kill(yard.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it lives, as another user
        pass
    return yard.pid > 0 and yard.birth == birth(yard.pid)
