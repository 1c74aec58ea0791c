"""System calls that a sandbox child is refused: a seccomp filter, on Linux.

Landlock keeps a child from writing files, and a network namespace from the network, but neither
keeps it from connecting to a local socket, such as that of the yard's Redis, nor from changing the
modes, owners and times of files, nor from the limits of other processes of the same user. This
filter does, and it needs no namespace and no Landlock. `models.sandbox.limits` installs it last,
and what the child starts inherits it. A refused call fails with EPERM.

Sources: seccomp(2), ``linux/seccomp.h``, ``linux/bpf_common.h``, ``linux/audit.h``; the numbers are
those of ``asm/unistd_64.h`` (x86_64) and ``asm-generic/unistd.h`` (aarch64).
"""

from __future__ import annotations

import errno
import platform
import struct
import sys
from collections.abc import Mapping

#: Values of AUDIT_ARCH by machine.
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
#: Calls refused whatever their arguments: their numbers on x86_64 and aarch64; None where there is
#: no such call.
_REFUSED: Mapping[str, tuple[int | None, int | None]] = {
    # sockets; pairs of connected ones are below
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    # modes, owners, times and attributes of files
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
    # other processes
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    # shared memory, queues and keys that have a number instead of a path
    "shmget": (29, 194),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semctl": (66, 191),
    "msgget": (68, 186),
    "msgctl": (71, 187),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # ways past a filter, and deep into the kernel
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
}
#: Calls refused unless one argument has one of these values: the argument, a mask, the values; 0
#: stands for this process, and its own id is added.
_SOCKETPAIR, _STREAM, _SEQPACKET, _TYPE_MASK = (53, 199), 1, 5, 0xF
_OWN: Mapping[str, tuple[int, int]] = {
    "kill": (62, 129),
    "tgkill": (234, 131),
    "prlimit64": (302, 261),
}

#: BPF: load a word, jump if equal, jump if greater or equal, mask, return.
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
#: Offsets in ``struct seccomp_data``; of an argument's low half, where the order is little-endian.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
#: Numbers from here on are those of the x32 interface.
_X32 = 0x40000000

Instruction = tuple[int, int, int, int]


def program(pid: int) -> bytes | None:
    """Returns the filter for a process of this id; None for a machine that it does not know."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES or sys.byteorder != "little":
        return None
    column = list(_ARCHITECTURES).index(machine)
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _REFUSE),  # the calls of another architecture have other numbers
        (_LOAD, 0, 0, _NUMBER),
        (_IF_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _REFUSE),
    ]
    for numbers in _REFUSED.values():
        number = numbers[column]
        if number is not None:
            code += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    # A pair of datagram sockets could send to any other by its path.
    code += _refuse_unless(_SOCKETPAIR[column], 1, (_STREAM, _SEQPACKET), _TYPE_MASK)
    for numbers_of_own in _OWN.values():
        code += _refuse_unless(numbers_of_own[column], 0, (0, pid))
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _refuse_unless(
    number: int, argument: int, values: tuple[int, ...], mask: int = 0xFFFFFFFF
) -> list[Instruction]:
    """Returns the code that refuses a call unless an argument has one of these values."""
    inside: list[Instruction] = [
        (_LOAD, 0, 0, _ARGUMENTS + 8 * argument),
        (_AND, 0, 0, mask),
    ]
    for place, value in enumerate(values):
        inside.append((_IF_EQUAL, len(values) - place, 0, value))  # to the last instruction
    inside += [(_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW)]
    return [(_IF_EQUAL, 0, len(inside), number), *inside]
