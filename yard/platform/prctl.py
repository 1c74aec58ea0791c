"""Calls of ``prctl(2)``. Linux alone has it: on other systems they do nothing.

`yard.platform.pdeathsig` loads this file as a script does, so it imports nothing of ours.
"""

from __future__ import annotations

import sys

#: Constants of ``linux/prctl.h``.
_SET_PDEATHSIG, _SET_CHILD_SUBREAPER, _SET_NO_NEW_PRIVS = 1, 36, 38


def die_with_parent(signum: int) -> None:
    """Asks for a signal to this process when the thread that started it ends.

    None comes if that has happened already: callers compare `os.getppid` afterwards.
    """
    _call(_SET_PDEATHSIG, signum)


def become_subreaper() -> bool:
    """Makes this process the parent of what its descendants leave behind.

    Returns:
        Whether it is now.
    """
    return _call(_SET_CHILD_SUBREAPER, 1)


def forbid_new_privileges() -> None:
    """Keeps this process and its descendants from gaining privileges by ``execve``."""
    _call(_SET_NO_NEW_PRIVS, 1)


def _call(option: int, value: int) -> bool:
    if sys.platform != "linux":
        return False
    import ctypes

    return bool(ctypes.CDLL(None).prctl(option, int(value), 0, 0, 0) == 0)
