"""Lenient readers for what anybody may have written into Redis, or into a manifest.

None of them raises: for bad input each returns what its docstring names. Times are read by
`yard.contract.timestamps`, and what must be right is checked by `yard.contract.validation`.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from yard.contract import wire
from yard.errors import InvalidJson


def decode(value: object) -> str:
    """Text, or bytes read as UTF-8 with bad ones replaced; empty for anything else."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def text(value: object) -> str | None:
    """A member of a JSON value that is a string; None for anything else."""
    return value if isinstance(value, str) else None


def integer(value: object) -> int | None:
    """A member of a JSON value that is a whole number; None for anything else, as for true."""
    return value if type(value) is int else None


def count(reply: object) -> int:
    """A reply of Redis that is a whole number; 0 for anything else, as for an error."""
    return reply if isinstance(reply, int) else 0


def number(value: object) -> float | None:
    """A finite number from zero up, also as text or bytes; None for anything else."""
    try:
        found = float(value)  # type: ignore[arg-type]  # what is no number raises
    except (TypeError, ValueError, OverflowError):
        return None
    return found if isfinite(found) and found >= 0 else None


def digits(value: object, most: int) -> int | None:
    """A whole number of ``most`` decimal digits at most, as text or bytes; None for anything else.

    The bound comes first: `int` refuses digits without end.
    """
    found = decode(value)
    return int(found) if len(found) <= most and found.isascii() and found.isdecimal() else None


def items(value: object) -> list[Any]:
    """A list; an empty one for anything else."""
    return value if isinstance(value, list) else []


def mapping(value: object) -> dict[Any, Any]:
    """A dictionary; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def json_object(raw: object) -> dict[str, Any] | None:
    """The JSON object in text or bytes; None for anything else."""
    try:
        value = wire.loads(raw) if isinstance(raw, bytes | str) else None
    except InvalidJson:
        return None
    return value if isinstance(value, dict) else None
