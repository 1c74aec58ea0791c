"""Calls of ``prctl(2)``. Linux alone has it: on other systems they do nothing.

`yard.platform.pdeathsig` loads this file as a script does, so it imports nothing of ours.
"""

from __future__ import annotations

import sys

#: Constants of ``linux/prctl.h``.
_SET_PDEATHSIG, _SET_SECCOMP, _SET_CHILD_SUBREAPER, _SET_NO_NEW_PRIVS = 1, 22, 36, 38
_FILTER = 2
#: Bytes of an instruction of a filter.
_INSTRUCTION_BYTES = 8


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


def filter_calls(program: bytes) -> bool:
    """Filters the system calls of this thread and its descendants, for good (``seccomp(2)``).

    Call `forbid_new_privileges` before.

    Args:
        program: An array of ``struct sock_filter``.

    Returns:
        Whether the filter holds now.
    """
    import ctypes

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))

    filled = Program(len(program) // _INSTRUCTION_BYTES, program)
    return _call(_SET_SECCOMP, _FILTER, ctypes.addressof(filled))


def _call(option: int, value: int, address: int = 0) -> bool:
    if sys.platform != "linux":
        return False
    import ctypes

    rest = (ctypes.c_void_p(address), ctypes.c_ulong(0), ctypes.c_ulong(0))
    return bool(ctypes.CDLL(None).prctl(option, ctypes.c_ulong(int(value)), *rest) == 0)
