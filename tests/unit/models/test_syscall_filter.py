"""The filter of a sandbox child, run by a small interpreter: what it refuses on each machine."""

from __future__ import annotations

import platform
import struct

import pytest

from models.sandbox import syscall_filter

PID = 4711
X86, ARM = 0xC000003E, 0xC00000B7
ALLOWED, REFUSED = 0x7FFF0000, 0x00050001


def answer(code: bytes, number: int, *arguments: int, architecture: int = X86) -> int:
    """What the kernel would be told about a call."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *(*arguments, *[0] * 6)[:6])
    place = word = 0
    while True:
        kind, then, otherwise, value = struct.unpack_from("=HBBI", code, 8 * place)
        place += 1
        match kind:
            case 0x20:
                (word,) = struct.unpack_from("<I", data, value)
            case 0x54:
                word &= value
            case 0x15:
                place += then if word == value else otherwise
            case 0x35:
                place += then if word >= value else otherwise
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(kind)


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(platform, "machine", lambda: request.param)
    return str(request.param)


def code_of() -> bytes:
    code = syscall_filter.program(PID)
    assert code is not None
    return code


def test_calls_are_refused_by_their_number_on_each_machine(machine):
    architecture, column = (X86, 0) if machine == "x86_64" else (ARM, 1)
    refused = {numbers[column] for numbers in syscall_filter._REFUSED.values()} - {None}
    conditional = {numbers[column] for numbers in syscall_filter._OWN.values()}
    conditional.add(syscall_filter._SOCKETPAIR[column])
    for number in set(range(512)) - conditional:
        expected = REFUSED if number in refused else ALLOWED
        assert answer(code_of(), number, architecture=architecture) == expected, number


def test_only_this_process_can_be_signalled_and_limited(machine):
    architecture, column = (X86, 0) if machine == "x86_64" else (ARM, 1)
    for numbers in syscall_filter._OWN.values():
        told = {
            pid: answer(code_of(), numbers[column], pid, architecture=architecture)
            for pid in (PID, 0, 1, PID + 1, 2**32 - 1)
        }
        assert [pid for pid, said in told.items() if said == ALLOWED] == [PID, 0]


def test_pairs_of_sockets_are_streams(machine):
    architecture, number = (X86, 53) if machine == "x86_64" else (ARM, 199)
    flags = 0o2000000 | 0o4000
    told = [
        answer(code_of(), number, 1, kind | flags, architecture=architecture)
        for kind in (1, 2, 3, 5)
    ]
    assert told == [ALLOWED, REFUSED, REFUSED, ALLOWED]


def test_another_architectures_calls_are_refused(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert answer(code_of(), 0, architecture=0x40000003) == REFUSED  # 32 bits
    assert answer(code_of(), 0x40000000) == REFUSED  # x32


def test_an_unknown_machine_has_no_filter(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert syscall_filter.program(PID) is None
