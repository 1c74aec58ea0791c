"""Reads bodies from the network, with bounds, and drops those that are refused.

A body is refused by its Content-Length before a byte of it is read, and cut off at the bound
whatever its Content-Length. A client that sends slowly costs a little memory and no thread, and has
a deadline that moves with what has come. Large bodies have places, of which one client never has
all.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, NamedTuple

from granian import rsgi
from werkzeug.exceptions import BadRequest, RequestTimeout

from gateway.http.messages import Fields
from gateway.http.threads import SMALL_BYTES
from yard.errors import Unavailable

#: Seconds that a large body waits for a place if there is none.
_PATIENCE_S = 0.1

#: Seconds that a body may take, and one more for each so many bytes of it that have come.
BODY_S = 10.0
_LEAST_BYTES_PER_S = 32_768

#: A refused body of up to this many times the bound is read to its end, so that the client sees
#: the response.
_MOST_DROPPED = 4
#: Seconds that dropping a body may take.
_DROP_S = 10.0

#: A longer number is no length: that of the largest file has 19 digits.
_MOST_DIGITS = 19


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
        max_large: Large bodies that may come in at once, a quarter of them reserved for clients
            other than the one that has the most.
        body_s: Seconds that a body may take, see `BODY_S`.
    """

    def __init__(self, max_bytes: int, max_large: int, body_s: float = BODY_S) -> None:
        self._max_bytes = max_bytes
        self._body_s = body_s
        self._places = _Places(max_large)

    @property
    def large(self) -> int:
        """Number of large bodies that come in now."""
        return self._places.taken

    async def read(self, fields: Fields, protocol: rsgi.HTTPProtocol, client: str) -> Body:
        """Returns the body of a request; one that ends early is shorter than its Content-Length.

        Args:
            fields: The request's header fields.
            protocol: Reads the body.
            client: Address and port of the client.

        Raises:
            Unavailable: Too many large bodies are coming in.
            RequestTimeout: The body has not come in time.
            BadRequest: A chunked body was cut off, or has trailer fields.
        """
        if not has_body(fields):
            return Body(b"", is_whole=True)
        declared = declared_bytes(fields)
        if declared is not None and declared > self._max_bytes:
            return Body(b"", is_whole=False)
        if declared is not None and declared <= SMALL_BYTES:
            return Body(await self._small(protocol), is_whole=True)
        who = _network(client)
        if not await self._places.take(who):
            raise Unavailable("too many clients are sending large bodies")
        try:
            body = await self._up_to_bound(protocol)
        finally:
            self._places.give_back(who)
        return body

    def unread(self, fields: Fields) -> Body:
        """Returns the body of a request for which `read` was not called."""
        return Body(b"", is_whole=not has_body(fields))

    async def drop(self, fields: Fields, protocol: rsgi.HTTPProtocol, client: str) -> None:
        """Reads what is left of a body, unless it is far too large or too many are coming in.

        Most clients send first and then read. If the rest of a refused request is not read, their
        connection is reset, and they may never see the response.
        """
        left, who = _MOST_DROPPED * self._max_bytes, _network(client)
        if (declared_bytes(fields) or 0) > left or not self._places.take_now(who):
            return
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_DROP_S):
                    async for piece in _rest(protocol):
                        left -= len(piece)
                        if left < 0:
                            return
        finally:
            self._places.give_back(who)

    async def _small(self, protocol: rsgi.HTTPProtocol) -> bytes:
        try:
            async with asyncio.timeout(self._body_s):
                return await protocol()
        except TimeoutError:
            raise self._too_slow() from None
        except rsgi.ProtocolClosed:  # it ended too soon
            return b""

    async def _up_to_bound(self, protocol: rsgi.HTTPProtocol) -> Body:
        pieces, size, ends = [], 0, 0
        until = asyncio.get_running_loop().time() + self._body_s
        try:
            async with asyncio.timeout_at(until) as deadline:
                async for piece in protocol:
                    pieces.append(piece)
                    size += len(piece)
                    ends += not piece
                    if size > self._max_bytes:
                        return Body(b"".join(pieces), is_whole=False)
                    deadline.reschedule(until + size / _LEAST_BYTES_PER_S)
        except TimeoutError:
            raise self._too_slow() from None
        # granian gives one empty piece at the end of a body, and another for an error before it.
        if ends > 1:
            raise BadRequest("the body was cut off, or has trailer fields, which are not taken")
        return Body(b"".join(pieces), is_whole=True)

    def _too_slow(self) -> RequestTimeout:
        return RequestTimeout(
            f"the body did not come within {self._body_s:g} s, and a second for each "
            f"{_LEAST_BYTES_PER_S} bytes"
        )


class _Places:
    """Places of large bodies, counted for each client."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._most_of_one = max(1, count * 3 // 4)
        self._of: Counter[str] = Counter()
        self._is_free = asyncio.Event()

    @property
    def taken(self) -> int:
        return self._of.total()

    def take_now(self, who: str) -> bool:
        """Takes a place; returns false if the client has none left."""
        if self.taken >= self._count or self._of[who] >= self._most_of_one:
            return False
        self._of[who] += 1
        return True

    async def take(self, who: str) -> bool:
        """As `take_now`, after some patience."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                while not self.take_now(who):
                    self._is_free.clear()
                    await self._is_free.wait()
                return True
        return False

    def give_back(self, who: str) -> None:
        self._of[who] -= 1
        if not self._of[who]:
            del self._of[who]
        self._is_free.set()


async def _rest(protocol: rsgi.HTTPProtocol) -> AsyncIterator[bytes]:
    """Yields the pieces of a body that are left, whether some were read or not."""
    pieces: Any = protocol  # granian's iterator, which begins once
    with suppress(rsgi.ProtocolError):
        pieces = aiter(protocol)
    with suppress(StopAsyncIteration):
        while True:
            yield await anext(pieces)


def has_body(fields: Fields) -> bool:
    """Returns true if the head announces a body (RFC 9112, section 6)."""
    return bool(fields.get("content-length", "") or fields.get("transfer-encoding", ""))


def declared_bytes(fields: Fields) -> int | None:
    """Returns the Content-Length; None without one, or where it is no length."""
    length = fields.get("content-length", "")
    return int(length) if length.isdecimal() and len(length) <= _MOST_DIGITS else None


def _network(client: str) -> str:
    """Returns the address of a client without its port; of IPv6 the part that its network has."""
    host = client.rpartition(":")[0].strip("[]")
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.version == 6 and address.ipv4_mapped is None:
            return str(ipaddress.ip_network((address, 64), strict=False))
    return host
