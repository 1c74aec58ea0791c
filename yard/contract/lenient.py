"""Lenient readers of values that any client may have written into Redis, or into a manifest.

None of them raises: each docstring names the result for bad input. Times are read by
`yard.contract.timestamps`; `yard.contract.validation` checks what must be right.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from yard.contract import wire
from yard.errors import InvalidJson


def decode(value: object) -> str:
    """Returns text as it is and bytes read as UTF-8, bad ones replaced; else an empty text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def text(value: object) -> str | None:
    """Returns a string of a JSON value; None for anything else."""
    return value if isinstance(value, str) else None


def integer(value: object) -> int | None:
    """Returns a whole number of a JSON value; None for anything else, also for true."""
    return value if type(value) is int else None


def count(reply: object) -> int:
    """Returns a reply of Redis that is a whole number; 0 for anything else, such as an error."""
    return reply if isinstance(reply, int) else 0


def number(value: object) -> float | None:
    """Returns a finite number from zero up, also of text or bytes; None for anything else."""
    try:
        found = float(value)  # type: ignore[arg-type]  # what is no number raises
    except (TypeError, ValueError, OverflowError):
        return None
    return found if isfinite(found) and found >= 0 else None


def digits(value: object, most: int) -> int | None:
    """Returns the number in text or bytes of at most ``most`` decimal digits; else None.

    The bound comes first: `int` raises for digits without end.
    """
    found = decode(value)
    return int(found) if len(found) <= most and found.isascii() and found.isdecimal() else None


def items(value: object) -> list[Any]:
    """Returns a list as it is; an empty one for anything else."""
    return value if isinstance(value, list) else []


def mapping(value: object) -> dict[Any, Any]:
    """Returns a dictionary as it is; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def json_object(raw: object) -> dict[str, Any] | None:
    """Returns the JSON object in text or bytes; None for anything else."""
    try:
        value = wire.loads(raw) if isinstance(raw, bytes | str) else None
    except InvalidJson:
        return None
    return value if isinstance(value, dict) else None
