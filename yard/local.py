"""The running yards of this user: file ``yard.json`` and lock of each, and the one to use.

`modelyard up` holds the data folder's lock and writes ``yard.json`` there; every other command
finds Redis and the gateway through it. The lock is the kernel's and goes with the last process that
holds it, and the file names a process, so neither a killed yard's lock nor its file is in the way.

A note in the user's state folder (``$XDG_STATE_HOME/modelyard/yards``, by default under
``~/.local/state``) names the data folder of each running yard, so that a yard is found from any
folder. The notes of ended yards are ignored and removed; a folder that others may write to is not
read, for a note decides which Redis a client talks to.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
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
        data: Absolute path of its data folder; `write` fills it in.
    """

    pid: int
    birth: int
    redis_url: str
    gateway: str
    store: str
    started_at: str
    data: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """The data folder's name; that of the folder around it where it is called ``data``."""
        path = Path(self.data)
        return path.parent.name or path.name if path.name == "data" else path.name

    def __str__(self) -> str:
        return f"{self.name} ({self.data}, {self.gateway})"


def redis_url(settings: Settings) -> str:
    """Returns the URL of the Redis to use: the one that is set, else that of the yard found.

    Raises:
        ConfigurationError: None is set and no yard runs, or several do.
    """
    return settings.redis_url if settings.redis_url is not None else found(settings).redis_url


def found(settings: Settings) -> Yard:
    """Returns the yard that `find` finds.

    Raises:
        ConfigurationError: There is none, or several run.
    """
    yard = find(settings)
    if yard is None:
        raise ConfigurationError(
            f"no yard is running on {str(Path(settings.data).absolute())!r}{_elsewhere(settings)}: "
            f"start one with `modelyard up`, set {variable('data')} to the data folder of one that "
            f"runs, or set {variable('redis_url')} to a Redis"
        )
    return yard


def joined(settings: Settings) -> Settings:
    """Returns settings with the Redis and, where none is set, the store of the yard found.

    Raises:
        ConfigurationError: No yard runs, or several do.
    """
    yard = found(settings)
    more = {"redis_url": yard.redis_url}
    if "store" not in settings.model_fields_set:
        more["store"] = yard.store
    return settings.model_copy(update=more)


def find(settings: Settings) -> Yard | None:
    """Returns the yard that the settings mean, or None.

    It is the one that ``yard`` names; else the one on the data folder; else, where no data folder
    is set, the only one that this user runs on this machine.

    Raises:
        ConfigurationError: The named yard does not run, or several yards run and none is named.
    """
    if settings.yard is not None:
        return named(settings.yard)
    here = running(Path(settings.data))
    if here is not None or "data" in settings.model_fields_set:
        return here
    yards = running_yards()
    if len(yards) > 1:
        raise ConfigurationError(
            f"several yards are running: {_listed(yards)}. Name one by --yard NAME or PATH, or set "
            f"{variable('yard')}"
        )
    return yards[0] if yards else None


def named(name: str) -> Yard:
    """Returns the running yard with this name, or on this data folder or the folder around it.

    Raises:
        ConfigurationError: There is none, or several have the name.
    """
    yards = running_yards()
    same = [yard for yard in yards if yard.name == name]
    if len(same) > 1:
        raise ConfigurationError(f"several yards are called {name!r}: give the path of {_or(same)}")
    path = Path(name).expanduser()
    yard = same[0] if same else running(path) or running(path / "data")
    if yard is None:
        runs = (
            f"running: {_listed(yards)}" if yards else "none is running: `modelyard up` starts one"
        )
        raise ConfigurationError(f"no yard {name!r} is running; {runs}")
    return yard


def running(data: Path) -> Yard | None:
    """Returns the yard that runs on a data folder; None also for the remains of a killed one."""
    try:
        yard = Yard(**json.loads((data / _FILE).read_bytes()))
        if not _is_alive(yard.pid, yard.birth):
            return None
        return replace(yard, data=str(data.resolve()))
    except (OSError, ValueError, TypeError):  # not there, or not what `write` writes
        return None


def running_yards() -> list[Yard]:
    """Returns the yards of this user on this machine, by path; removes notes of ended ones."""
    yards = {}
    for note in _notes():
        with suppress(OSError, ValueError, TypeError, KeyError):
            known = json.loads(note.read_bytes())
            if not _is_alive(known["pid"], known["birth"]):
                note.unlink(missing_ok=True)
                continue
            yard = running(Path(known["data"]))
            if yard is not None and yard.pid == known["pid"]:
                yards[yard.data] = yard
    return [yards[data] for data in sorted(yards)]


def write(data: Path, yard: Yard) -> None:
    """Writes the yard's file and its note: atomically, readable by their owner only.

    Without a state folder that can be written to there is no note: the yard is found from the
    folder that it was started in, and by its path.
    """
    path = data.resolve()
    _write(data / _FILE, asdict(replace(yard, data=str(path))))
    with suppress(OSError):
        folder = _state()
        if folder is not None:
            folder.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.parent.mkdir(mode=0o700, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            note = {"pid": yard.pid, "birth": yard.birth, "data": str(path)}
            _write(folder / f"{_host()}-{yard.pid}-{yard.birth}.json", note)


def remove(data: Path) -> None:
    """Removes what `write` wrote."""
    yard = running(data)
    (data / _FILE).unlink(missing_ok=True)
    folder = _state()
    if yard is not None and folder is not None:
        with suppress(OSError):
            (folder / f"{_host()}-{yard.pid}-{yard.birth}.json").unlink(missing_ok=True)


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
    """Returns a process' start in ticks since boot; 0 if it has ended, or the kernel has none."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if state[0] == "Z" else int(state[19])
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


def _is_alive(pid: int, born: int) -> bool:
    # A process that has ended and that its parent has not looked at yet has no birth.
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it lives, as another user
        pass
    return pid > 0 and born == birth(pid)


def _write(path: Path, content: dict[str, object]) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
    draft.replace(path)


def _state() -> Path | None:
    """Folder of the notes; None where the user has no home."""
    base = os.environ.get("XDG_STATE_HOME", "")
    try:
        root = Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return root / "modelyard" / "yards"


def _host() -> str:
    """This machine's name: machines may share a home folder, but not processes."""
    return os.uname().nodename.replace("/", "_")


def _notes() -> Iterator[Path]:
    """The notes of this machine, from a folder that only its owner may write to."""
    folder = _state()
    if folder is None:
        return
    try:
        stat = folder.stat()
        names = sorted(os.listdir(folder))
    except OSError:
        return
    if stat.st_uid == os.geteuid() and not stat.st_mode & 0o022:
        yield from (folder / name for name in names if name.startswith(f"{_host()}-"))


def _elsewhere(settings: Settings) -> str:
    if "data" in settings.model_fields_set:
        yards = running_yards()
        return f" (running: {_listed(yards)})" if yards else ""
    return ", and none elsewhere"


def _listed(yards: list[Yard]) -> str:
    return "; ".join(map(str, yards))


def _or(yards: list[Yard]) -> str:
    return " or ".join(yard.data for yard in yards)
