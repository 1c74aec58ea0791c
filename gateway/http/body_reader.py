"""Reads bodies from the network, with bounds, and drops those that are refused.

A body is refused by its Content-Length before a byte of it is read, and cut off at the bound
whatever its Content-Length. A client that sends slowly costs a little memory and no thread; the
number of large bodies that come in at once is bounded.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import NamedTuple

from granian import rsgi

from gateway.http.messages import Fields
from gateway.http.threads import SMALL_BYTES
from yard.errors import Unavailable

#: Seconds that a large body waits for its turn if the most are coming in.
_PATIENCE_S = 0.1

#: A refused body of up to this many times the bound is read to its end, so that the client sees
#: the response.
_MOST_DROPPED = 4
#: Seconds that dropping a body may take.
_DROP_S = 10.0


class Body(NamedTuple):
    """A body, as far as it was read.

    Attributes:
        read: Its bytes; if it is over the bound, at least one more than that, or none.
        is_whole: True if nothing is left to read.
    """

    read: bytes
    is_whole: bool


class BodyReader:
    """Reads bodies on the event loop.

    Args:
        max_bytes: The bound on a body.
        max_large: Large bodies that may come in at once.
    """

    def __init__(self, max_bytes: int, max_large: int) -> None:
        self._max_bytes = max_bytes
        self._large = asyncio.Semaphore(max_large)

    async def read(self, fields: Fields, protocol: rsgi.HTTPProtocol) -> Body:
        """Returns the body of a request; one that ends early is shorter than its Content-Length.

        Raises:
            Unavailable: Too many large bodies are coming in.
        """
        if not _has_body(fields):
            return Body(b"", is_whole=True)
        length = fields.get("content-length", "")
        declared = int(length) if length.isdecimal() else None
        if declared is not None and declared > self._max_bytes:
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
        """Returns the body of a request for which `read` was not called."""
        return Body(b"", is_whole=not _has_body(fields))

    async def drop(self, fields: Fields, protocol: rsgi.HTTPProtocol) -> None:
        """Reads what is left of a body, unless it is far too large or too many are coming in.

        Most clients send first and then read. If the rest of a refused request is not read, their
        connection is reset, and they may never see the response.
        """
        left = _MOST_DROPPED * self._max_bytes
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
            if size > self._max_bytes:
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
