"""Resource limits of the sandbox, applied before a hostile file is opened.

`models.sandbox.server` calls `confine` in the child that opens an artefact: no network and no
sockets, no writing except in its own empty folder, no changes to the modes, owners and times of
files, no signals to others and none of their limits, and bounds on memory, processor time and file
length. Restrictions that a system lacks are skipped and reported. It is a fence, not a jail: the
child runs as the same user and may read what that user may read. Sources: landlock(7), unshare(2),
seccomp(2), setrlimit(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from dataclasses import dataclass

from models.manifest import FrozenModel
from models.sandbox import syscall_filter
from yard.platform import prctl

_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_NEWIPC = 0x10000000, 0x40000000, 0x08000000
#: The same on every architecture that has them.
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_VERSION = 1
_RULE_PATH_BENEATH = 1
#: WRITE_FILE, REMOVE_DIR, REMOVE_FILE, MAKE_CHAR, _DIR, _REG, _SOCK, _FIFO, _BLOCK, _SYM
_WRITES = 1 << 1 | sum(1 << bit for bit in range(4, 13))
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_TCP = 1 << 0 | 1 << 1
_SCOPES = 1 << 0 | 1 << 1  # sockets without a path, and signals


class Limits(FrozenModel):
    """Limits of a child.

    Attributes:
        memory_bytes: Address space beyond what it has at the start.
        cpu_s: Seconds of processor time.
        wall_s: Seconds by the clock; enforced by the parent.
        file_bytes: Length of a file that it writes.
    """

    memory_bytes: int = 4 * 2**30
    cpu_s: int = 120
    wall_s: float = 120.0
    file_bytes: int = 4 * 2**30


class Fence(FrozenModel):
    """Restrictions of a child that this system supports.

    Attributes:
        network: It has no network.
        files: It writes to no file elsewhere.
        calls: It has no local sockets, changes no modes and owners of files, and touches no other
            process.
    """

    network: bool = False
    files: bool = False
    calls: bool = False


@dataclass(slots=True)
class _Ruleset:
    fs: int
    net: int
    scoped: int

    def raw(self) -> bytes:
        return b"".join(
            part.to_bytes(8, sys.byteorder) for part in (self.fs, self.net, self.scoped)
        )


def confine(limits: Limits, folder: str) -> Fence:
    """Applies the limits to this process, for good; its working folder becomes ``folder``."""
    os.chdir(folder)
    os.umask(0o077)
    _bound(resource.RLIMIT_CORE, 0)
    _bound(resource.RLIMIT_FSIZE, limits.file_bytes)
    _bound(resource.RLIMIT_CPU, limits.cpu_s, limits.cpu_s + 1)  # a signal first, then a kill
    _bound(resource.RLIMIT_AS, _address_space() + limits.memory_bytes)
    if not sys.platform.startswith("linux"):
        return Fence()
    prctl.die_with_parent(signal.SIGKILL)
    prctl.forbid_new_privileges()
    libc = ctypes.CDLL(None, use_errno=True)
    has_own_net = libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC) == 0
    version = _restrict(libc, folder)
    program = syscall_filter.program(os.getpid())
    is_filtered = program is not None and prctl.filter_calls(program)
    # From version 4 on Landlock blocks TCP, too, but not UDP: a network namespace does, and a
    # filter that leaves no sockets.
    return Fence(network=has_own_net or is_filtered, files=version >= 3, calls=is_filtered)


def _restrict(libc: ctypes.CDLL, folder: str) -> int:
    """Allows writing only below ``folder``; returns the version of Landlock, 0 if there is none."""
    version = libc.syscall(_LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        return 0
    fs = _WRITES | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    rules = _Ruleset(fs, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0).raw()
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = libc.syscall(_LANDLOCK_CREATE, rules, size, 0)
    if ruleset < 0:
        return 0
    try:
        for path, allowed in ((folder, fs), (os.devnull, 1 << 1)):
            beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = allowed.to_bytes(8, sys.byteorder) + beneath.to_bytes(4, sys.byteorder)
            done = libc.syscall(_LANDLOCK_ADD, ruleset, _RULE_PATH_BENEATH, rule, 0)
            os.close(beneath)
            if done != 0:
                return 0
        return int(version) if libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0 else 0
    finally:
        os.close(ruleset)


def _bound(kind: int, most: int, at_last: int | None = None) -> None:
    """Lowers a limit; never raises one that is set already."""
    _, hard = resource.getrlimit(kind)
    known = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    bounds = (min(most, known), min(most if at_last is None else at_last, known))
    with contextlib.suppress(ValueError, OSError):  # a system that does not know this limit
        resource.setrlimit(kind, bounds)


def _address_space() -> int:
    """Returns the bytes of address space that this process has now."""
    try:
        with open("/proc/self/statm", "rb") as stream:
            return int(stream.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 2**30
