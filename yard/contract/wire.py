"""JSON as it travels: strict, bounded, and the same parser on every side.

Bytes from HTTP bodies, Redis and files become values here and nowhere else. orjson already refuses
NaN, infinities, byte-order marks, lone surrogates and nesting beyond 1,024 levels; a key that is
given twice, which it accepts, is refused here.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

import orjson

from yard.errors import InvalidJson, TooLarge


def dumps(value: Any) -> bytes:
    """Returns compact JSON, UTF-8; a NaN or an infinity becomes null.

    Raises:
        InvalidJson: ``value`` holds something that JSON has no form for.
    """
    try:
        return orjson.dumps(value)
    except TypeError as error:
        raise InvalidJson(f"not JSON: {error}") from None


def loads(raw: bytes | str) -> Any:
    """Parses strict JSON (RFC 8259), each key at most once per object.

    Raises:
        InvalidJson: It is not; the message names the place.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"not valid JSON: {error}") from None
    _refuse_repeated_keys(raw if isinstance(raw, bytes) else raw.encode(), value)
    return value


def _refuse_repeated_keys(raw: bytes, value: Any) -> None:
    """Raises if an object names a key twice.

    A document has a colon for each member that is written, and orjson keeps a member for each
    distinct key. Equal counts prove that nothing was dropped; only a document with colons inside
    its strings, or with a repeated key, pays for the slow parser.
    """
    colons = raw.count(b":")
    if colons == 0:
        return
    if colons == (len(_only_object(value)) if raw.count(b"{") == 1 else _count_members(value)):
        return
    try:
        json.loads(raw, object_pairs_hook=_distinct_pairs)
    except RecursionError:
        raise InvalidJson("not valid JSON: nested too deeply") from None


def _only_object(value: Any) -> Any:
    """The object of a document with a single opening brace, where easily found; else empty."""
    if isinstance(value, dict):
        return value
    last = value[-1] if isinstance(value, list) and value else None
    return last if isinstance(last, dict) else ()


def _count_members(value: Any) -> int:
    count, stack = 0, [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            count += len(item)
            stack.extend(v for v in item.values() if isinstance(v, dict | list))
        elif isinstance(item, list):
            stack.extend(v for v in item if isinstance(v, dict | list))
    return count


def _distinct_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    distinct = dict(pairs)
    if len(distinct) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidJson(f"not valid JSON: the key {key[:60]!r} is given twice")
            seen.add(key)
    return distinct


def inflate(raw: bytes, limit: int) -> bytes:
    """Inflates ``raw``, zlib'd as RQ does it or plain; never holds more than ``limit`` bytes.

    Raises:
        TooLarge: The plain form is longer than ``limit``.
        InvalidJson: It starts as zlib and is broken.
    """
    if raw[:1] != b"\x78":  # the zlib header of every window size that zlib.compress writes
        if len(raw) > limit:
            raise TooLarge(f"the payload has {len(raw)} bytes, the bound is {limit}")
        return raw
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(raw, limit + 1)
    except zlib.error as error:
        raise InvalidJson(f"broken zlib payload: {error}") from None
    if len(plain) > limit:
        raise TooLarge(f"the payload inflates to more than {limit} bytes")
    if not inflater.eof:
        raise InvalidJson("broken zlib payload: it ends too soon")
    return plain
