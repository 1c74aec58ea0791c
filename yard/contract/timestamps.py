"""Times as they travel: RFC 3339 in UTC, in the one form that RQ parses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo

from yard.contract import lenient


def format_time(in_s: float = 0.0) -> str:
    """Formats the time in ``in_s`` seconds from now as RQ does; RQ parses no other form."""
    return (datetime.now(UTC) + timedelta(seconds=in_s)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(value: object, zone: tzinfo | None = UTC) -> datetime | None:
    """Parses a time in text or bytes; None for anything else.

    Args:
        value: The time.
        zone: Zone of a time that names none; None leaves it without one.
    """
    try:
        found = datetime.fromisoformat(lenient.decode(value))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=zone)


def parse_epoch_s(value: object) -> float | None:
    """Parses a time as `parse_time` does, into seconds since 1970."""
    found = parse_time(value)
    return None if found is None else found.timestamp()
