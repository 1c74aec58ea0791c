"""Reader and writer for the protobuf encoding of ONNX files, without a library.

`models.formats.onnx_check` walks a file with it before the file is opened, and
`models.runtimes.onnx_sharing` takes large weights out. Nothing is copied: fields are spans of the
file, which may be mapped. Source: the encoding of protobuf (varints, tags, lengths).
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
_FLOATS = re.compile(rb"(?:\x3d.{4})+", re.DOTALL)
_INTS = re.compile(rb"(?:\x40[\x80-\xff]{0,9}[\x00-\x7f])+")

Span = tuple[int, int]
#: A file, read or mapped.
Raw = bytes | mmap.mmap


def fields(
    raw: Raw, span: Span, *, is_attribute: bool = False
) -> Iterator[tuple[int, int, Span, Span]]:
    """Yields the fields of a message: number, wire type, span of the value, span of the field.

    For a varint, both ends of the value's span are the value.

    Args:
        raw: The file.
        span: Where the message is.
        is_attribute: Whether it is an AttributeProto, whose repeated numbers are left out.

    Raises:
        ConfigurationError: It is no protobuf.
    """
    place, end = span
    while place < end:
        if is_attribute and (run := _FLOATS.match(raw, place, end) or _INTS.match(raw, place, end)):
            place = run.end()
            continue
        begun = place
        key, place = _varint(raw, place, end)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, place = _varint(raw, place, end)
            yield number, wire, (value, value), (begun, place)
            continue
        if wire == BYTES:
            length, place = _varint(raw, place, end)
        elif wire in (FIXED32, FIXED64):
            length = 4 if wire == FIXED32 else 8
        else:
            raise_broken()
        if number == 0 or length > end - place:
            raise_broken()
        yield number, wire, (place, place + length), (begun, place + length)
        place += length


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


def _varint(raw: Raw, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while place < end and shift < 70:
        byte = raw[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
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
