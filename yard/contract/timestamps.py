"""Times as they travel: RFC 3339 in UTC, in the one form that RQ parses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def moment(in_s: float = 0.0) -> str:
    """The time, or that in so many seconds, as RQ writes it; it parses no other form."""
    return (datetime.now(UTC) + timedelta(seconds=in_s)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
