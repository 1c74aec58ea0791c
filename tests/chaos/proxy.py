"""A TCP proxy between processes and their Redis that breaks the network on purpose.

It runs on a thread of its own and is steered from the test at any time. Requests and replies are
cut into whole messages, so that the reply of a chosen command can be lost after Redis has carried
it out: the fault that repeats what must not be repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.chaos.resp import Splitter, words_of
from yard.broker.lua import Script

#: ``reset`` closes the connection at once; ``silence`` leaves it open and says no more.
How = Literal["reset", "silence"]


@dataclass(slots=True)
class Loss:
    """The replies that are lost.

    Attributes:
        matches: Told the words of a request; whether its reply may be lost.
        how: How.
        every: Each so many matching requests.
        left: So many times more; None for ever.
        is_early: The request is lost instead, before Redis sees it.
    """

    matches: Callable[[list[bytes]], bool]
    how: How
    every: int = 1
    left: int | None = None
    is_early: bool = False
    seen: int = 0

    def strikes(self, words: list[bytes]) -> bool:
        """Count a request, and return whether it is hit."""
        if self.left == 0 or not self.matches(words):
            return False
        self.seen += 1
        if self.seen % self.every:
            return False
        if self.left is not None:
            self.left -= 1
        return True


@dataclass(slots=True, eq=False)
class _Link:
    """One connection through the proxy."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    fates: deque[How | None] = field(default_factory=deque)
    is_silent: bool = False

    def reset(self) -> None:
        for writer in (self.client, self.server):
            sock: socket.socket | None = writer.get_extra_info("socket")
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class FaultProxy:
    """A proxy on a free port of the loopback.

    Args:
        port: The port of the Redis.

    Attributes:
        latency_s: Each message waits so long, in each direction.
        chunk_bytes: Replies are written so many bytes at a time; 0 writes them whole.
        struck: How often each kind of fault has hit.
    """

    def __init__(self, port: int) -> None:
        self.latency_s = 0.0
        self.chunk_bytes = 0
        self.struck: Counter[str] = Counter()
        self._target = port
        self._losses: list[Loss] = []
        self._links: set[_Link] = set()
        self._silent_until = 0.0
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        assert self._is_ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close)
        self._thread.join(10)

    def lose(self, loss: Loss) -> Loss:
        """Lose replies, or requests, from now on; several losses are asked in turn."""
        self._losses.append(loss)
        return loss

    def heal(self) -> None:
        """Break nothing more; what is broken stays so."""
        self._losses.clear()
        self.latency_s, self.chunk_bytes, self._silent_until = 0.0, 0, 0.0

    def reset_all(self) -> None:
        """Reset every connection that there is."""
        self.struck["reset of all"] += 1
        self._call(self._reset_links)

    def swallow(self, for_s: float) -> None:
        """Half-open: nothing passes for a while, and open connections stay silent for ever."""
        self.struck["half-open"] += 1
        self._silent_until = time.monotonic() + for_s
        self._call(self._silence_links)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._is_ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._cancel())
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _call(self, action: Callable[[], None]) -> None:
        """Run ``action`` on the proxy's thread, and wait for it."""
        done = threading.Event()

        def run() -> None:
            action()
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(10)

    def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        self._reset_links()
        self._loop.stop()

    def _reset_links(self) -> None:
        for link in self._links:
            link.reset()

    def _silence_links(self) -> None:
        for link in self._links:
            link.is_silent = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._connect(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            return  # Redis is away: so is what stands for it
        link = _Link(writer, to_server, is_silent=time.monotonic() < self._silent_until)
        self._links.add(link)
        pumps = [
            asyncio.ensure_future(self._requests(link, reader)),
            asyncio.ensure_future(self._replies(link, from_server)),
        ]
        self._tasks.update(pumps)
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._tasks.difference_update(pumps)
            self._links.discard(link)
            to_server.transport.abort()

    async def _requests(self, link: _Link, reader: asyncio.StreamReader) -> None:
        splitter = Splitter()
        while data := await reader.read(2**16):
            for request in splitter.feed(data):
                if link.is_silent:
                    continue
                link.fates.append(self._fate_of(link, request))
                await self._pass(link, link.server, request)

    def _fate_of(self, link: _Link, request: bytes) -> How | None:
        """Decide about a reply; a lost request ends the link here."""
        words = words_of(request)
        for loss in list(self._losses):
            if not loss.strikes(words):
                continue
            self.struck[f"{'request' if loss.is_early else 'reply'}, {loss.how}"] += 1
            if not loss.is_early:
                return loss.how
            self._break(link, loss.how)
        return None

    async def _replies(self, link: _Link, reader: asyncio.StreamReader) -> None:
        splitter = Splitter()
        while data := await reader.read(2**16):
            for reply in splitter.feed(data):
                fate = link.fates.popleft() if link.fates else None
                if fate is not None:
                    self._break(link, fate)
                await self._pass(link, link.client, reply)

    def _break(self, link: _Link, how: How) -> None:
        if how == "silence":
            link.is_silent = True
        else:
            link.reset()

    async def _pass(self, link: _Link, writer: asyncio.StreamWriter, message: bytes) -> None:
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        if link.is_silent:
            return
        step = self.chunk_bytes if writer is link.client and self.chunk_bytes else len(message)
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(message), step):
                writer.write(message[start : start + step])
                await writer.drain()
                if step < len(message):
                    await asyncio.sleep(0)


def calls(package: str, name: str) -> Callable[[list[bytes]], bool]:
    """Matches the calls of one of our scripts, for `Loss`."""
    script = Script(package, name)
    sha = script.sha.encode()

    def matches(words: list[bytes]) -> bool:
        return len(words) > 1 and words[1] in (sha, script.source.encode())

    return matches
