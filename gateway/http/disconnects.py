"""Ends requests whose clients have gone, so that what is held for a caller goes when it goes.

A request holds a slot of the waits, a waiter in the completion listener, the memory of its body, a
place for a large body, or a thread. All of it is released by the coroutine that took it, in a
``finally``: it is enough to cancel that.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from granian import rsgi

from gateway.http.messages import RequestHead

#: Seconds after which a client is watched: most requests are answered by then, and pay nothing.
_WATCH_AFTER_S = 0.05


class DisconnectGuard:
    """Cancels the block of a request when its client closes the connection.

    The block ends by `asyncio.CancelledError`, which stays inside: code behind it looks at
    `RequestHead.is_abandoned`. A client that has closed only its half of the connection counts as
    gone (hyper, which granian is built on, closes such a connection), and one that has sent the
    next request already is not watched until this one is answered.

    Args:
        request: Is marked as abandoned.
        protocol: Tells of the disconnect.
    """

    __slots__ = ("_protocol", "_request", "_task", "_timer", "_watcher")

    def __init__(self, request: RequestHead, protocol: rsgi.HTTPProtocol) -> None:
        self._request = request
        self._protocol = protocol
        self._task: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_WATCH_AFTER_S, self._start)

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> bool:
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if not self._request.is_abandoned or not isinstance(error, asyncio.CancelledError):
            return False
        return self._task is not None and self._task.uncancel() <= 0

    def _start(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        await self._protocol.client_disconnect()
        self._request.is_abandoned = True
        if self._task is not None:
            self._task.cancel()
