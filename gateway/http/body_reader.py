"""Reading bodies from the network, with bounds, and what to do with those that are not read.

A body is refused by its Content-Length before a byte of it is read, and cut off at the bound
whatever its length claims to be. A client that sends slowly costs a little memory and no thread;
only large bodies count, and only so many of them may come in at once.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import NamedTuple

from granian import rsgi

from gateway.http.messages import Fields
from gateway.http.threads import SMALL_BYTES
from yard.errors import Unavailable

#: Where so many large bodies are coming in already, how long another one waits.
_PATIENCE_S = 0.1

#: A body of up to this many times the bound is read to its end, so that the refusal is seen,
_MOST_DROPPED = 4
#: for so long.
_DROP_S = 10.0


class Body(NamedTuple):
    """What was read of a body.

    Attributes:
        read: Its bytes; over the bound at least one more than that, or none.
        is_whole: Whether there is nothing left to read.
    """

    read: bytes
    is_whole: bool


class BodyReader:
    """Reads bodies on the event loop.

    Args:
        most_bytes: The bound on a body.
        large: Large bodies that may come in at once.
    """

    def __init__(self, most_bytes: int, large: int) -> None:
        self._most_bytes = most_bytes
        self._large = asyncio.Semaphore(large)

    async def read(self, fields: Fields, protocol: rsgi.HTTPProtocol) -> Body:
        """The body of a request; one that ends too soon is shorter than its Content-Length.

        Raises:
            Unavailable: Too many large bodies are coming in.
        """
        if not _has_body(fields):
            return Body(b"", is_whole=True)
        length = fields.get("content-length", "")
        declared = int(length) if length.isdecimal() else None
        if declared is not None and declared > self._most_bytes:
            return Body(b"", is_whole=False)
        if declared is not None and declared <= SMALL_BYTES:
            return Body(await _small(protocol), is_whole=True)
        try:
            await asyncio.wait_for(self._large.acquire(), _PATIENCE_S)
        except TimeoutError:
            raise Unavailable("too many clients are sending large bodies") from None
        try:
            return await self._up_to_bound(protocol)
        finally:
            self._large.release()

    def unread(self, fields: Fields) -> Body:
        """Returns what is known of a body that `read` was not asked for."""
        return Body(b"", is_whole=not _has_body(fields))

    async def drop(self, fields: Fields, protocol: rsgi.HTTPProtocol) -> None:
        """Read what is left of a body, unless it is far too large or too many are coming in.

        Most clients send first and read then. Where the rest of a refused request is not read, they
        find their connection reset, and may never see why.
        """
        left = _MOST_DROPPED * self._most_bytes
        length = fields.get("content-length", "0")
        if (int(length) if length.isdecimal() else 0) > left or self._large.locked():
            return
        with suppress(TimeoutError):
            async with self._large, asyncio.timeout(_DROP_S):
                async for piece in protocol:
                    left -= len(piece)
                    if left < 0:
                        return

    async def _up_to_bound(self, protocol: rsgi.HTTPProtocol) -> Body:
        pieces, size = [], 0
        async for piece in protocol:
            pieces.append(piece)
            size += len(piece)
            if size > self._most_bytes:
                return Body(b"".join(pieces), is_whole=False)
        return Body(b"".join(pieces), is_whole=True)


def _has_body(fields: Fields) -> bool:
    """True if the head announces a body (RFC 9112, section 6)."""
    return bool(fields.get("content-length", "") or fields.get("transfer-encoding", ""))


async def _small(protocol: rsgi.HTTPProtocol) -> bytes:
    try:
        return await protocol()
    except rsgi.ProtocolClosed:  # it ended too soon
        return b""
