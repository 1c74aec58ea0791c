"""Reader and writer for the protobuf encoding of ONNX files, without a library.

`models.formats.onnx_check` walks a file with it before the file is opened, and
`models.runtimes.onnx_sharing` takes large weights out. Nothing is copied: fields are spans of the
file, which may be mapped. Source: the encoding of protobuf (varints, tags, lengths).

Readers of protobuf differ where a number is written longer than it has to be, or wider than its
type: one skips what another takes for a field. So only the shortest form is read here, the one that
every writer makes; all else is refused.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from typing import NoReturn

from yard.errors import ConfigurationError

#: Wire types: the low three bits of a tag.
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
#: Repeated numbers of an attribute, which fill almost all of a forest: skipped at C's speed.
_FLOATS = re.compile(rb"(?:\x3d.{4})++", re.DOTALL)
#: A varint of 64 bits in its shortest form.
_SHORTEST = rb"(?:[\x00-\x7f]|[\x80-\xff]{1,8}[\x01-\x7f]|[\x80-\xff]{9}\x01)"
_INTS = re.compile(rb"(?:\x40" + _SHORTEST + rb")++")
_VARINTS = re.compile(_SHORTEST + rb"*+")
#: Tags have 32 bits, lengths 31.
_TAG_END, _LENGTH_END, _VARINT_END = 2**32, 2**31, 2**64

Span = tuple[int, int]
#: A file, read or mapped.
Raw = bytes | mmap.mmap


def fields(
    raw: Raw, span: Span, *, is_attribute: bool = False, is_lenient: bool = False
) -> Iterator[tuple[int, int, Span, Span]]:
    """Yields the fields of a message: number, wire type, span of the value, span of the field.

    For a varint, both ends of the value's span are the value.

    Args:
        raw: The file.
        span: Where the message is.
        is_attribute: Whether it is an AttributeProto: a run of its repeated numbers is yielded as
            one field.
        is_lenient: Whether numbers may be longer than they have to be.

    Raises:
        ConfigurationError: It is no protobuf, or readers may take it differently.
    """
    place, end = span
    while place < end:
        if is_attribute and (run := _FLOATS.match(raw, place, end) or _INTS.match(raw, place, end)):
            number = raw[place] >> 3
            wire = raw[place] & 7
            whole = (place, run.end())
            place = run.end()
            yield number, wire, whole, whole
            continue
        begun = place
        key, place = _varint(raw, place, end, is_lenient)
        number, wire = key >> 3, key & 7
        if number == 0 or (key >= _TAG_END and not is_lenient):
            raise_broken()
        if wire == VARINT:
            value, place = _varint(raw, place, end, is_lenient)
            yield number, wire, (value, value), (begun, place)
            continue
        if wire == BYTES:
            length, place = _varint(raw, place, end, is_lenient)
        elif wire in (FIXED32, FIXED64):
            length = 4 if wire == FIXED32 else 8
        else:
            raise_broken()
        if length > end - place or length >= _LENGTH_END:
            raise_broken()
        yield number, wire, (place, place + length), (begun, place + length)
        place += length


def check_packed(raw: Raw, span: Span, wire: int) -> None:
    """Checks that ``span`` holds numbers of this wire type, one after the other.

    Raises:
        ConfigurationError: It does not.
    """
    start, end = span
    if wire == VARINT:
        run = _VARINTS.match(raw, start, end)
        is_whole = run is not None and run.end() == end
    else:
        is_whole = (end - start) % (4 if wire == FIXED32 else 8) == 0
    if not is_whole:
        raise_broken()


def packed_varints(raw: Raw, span: Span) -> Iterator[int]:
    """Yields the numbers of a span that `check_packed` has let pass."""
    place, end = span
    while place < end:
        value, place = _varint(raw, place, end)
        yield value


def bytes_field(number: int, content: bytes) -> bytes:
    """Returns a field with bytes, or with another message."""
    return _tag(number, BYTES) + _number(len(content)) + content


def varint_field(number: int, value: int) -> bytes:
    """Returns a field with a whole number from 0 on."""
    return _tag(number, VARINT) + _number(value)


def raise_broken() -> NoReturn:
    """Refuses the file.

    Raises:
        ConfigurationError: Always.
    """
    raise ConfigurationError("ONNX: the file is broken: it is no model's protobuf")


def raise_ambiguous(reason: str) -> NoReturn:
    """Refuses a file that readers may take differently.

    Raises:
        ConfigurationError: Always.
    """
    raise ConfigurationError(
        f"ONNX: {reason}, which readers may take differently: load it and save it anew with the "
        "onnx package"
    )


def _varint(raw: Raw, place: int, end: int, is_lenient: bool = False) -> tuple[int, int]:
    value = shift = 0
    while place < end and shift < 70:
        byte = raw[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if not is_lenient and ((byte == 0 and shift) or value >= _VARINT_END):
                raise_ambiguous("has a number that is written longer than it has to be")
            return value, place
        shift += 7
    raise_broken()


def _tag(number: int, wire: int) -> bytes:
    return _number(number << 3 | wire)


def _number(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
