"""Where one Redis message ends and the next begins (RESP 2 and 3), so that a proxy can pick one."""

from __future__ import annotations

from collections.abc import Iterator

_LENGTH = b"$!="  # a length, then so many bytes and a line's end
_PAIRS = b"%|"  # a count, then twice so many messages
_ITEMS = b"*~>"  # a count, then so many messages


class Splitter:
    """Cuts a stream of bytes into whole messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The messages that are whole now."""
        self._buffer += data
        while (end := _end_of(self._buffer, 0)) is not None:
            message = bytes(self._buffer[:end])
            del self._buffer[:end]
            yield message


def words_of(request: bytes) -> list[bytes]:
    """The first words of a request, enough to know its command."""
    words: list[bytes] = []
    start = request.find(b"\r\n") + 2
    while start < len(request) and len(words) < 4:
        line_end = request.index(b"\r\n", start)
        length = int(request[start + 1 : line_end])
        words.append(request[line_end + 2 : line_end + 2 + length])
        start = line_end + 2 + length + 2
    return words


def _end_of(buffer: bytearray, start: int) -> int | None:
    """The place behind the message that begins at ``start``; None if it is not whole yet."""
    line_end = buffer.find(b"\r\n", start)
    if line_end < 0:
        return None
    kind, end = buffer[start : start + 1], line_end + 2
    if kind in _LENGTH:
        length = int(buffer[start + 1 : line_end])
        end += length + 2 if length >= 0 else 0
        return end if end <= len(buffer) else None
    if kind not in _ITEMS and kind not in _PAIRS:
        return end
    count = int(buffer[start + 1 : line_end])
    for _ in range(count * 2 if kind in _PAIRS else count):
        inner = _end_of(buffer, end)
        if inner is None:
            return None
        end = inner
    return end
