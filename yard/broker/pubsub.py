"""A Redis subscription whose connection is known to be whole.

A reader that only waits cannot distinguish a silent channel from a connection whose other end is
gone (a router that forgot it, a machine that was cut off), and redis-py sends its PING without ever
missing the answer. Here, silence is broken by a PING, and a PING without an answer is an outage.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

from redis.client import PubSub
from redis.exceptions import TimeoutError as RedisTimeoutError

from yard.broker import connections
from yard.platform import renew_in_children

#: Seconds of silence after which a PING is sent.
_ASK_S = 1.0
#: Seconds of silence after which Redis counts as away.
_DEAF_S = 3.0


class Subscription:
    """One subscribed channel; a context manager that closes its connection.

    Args:
        url: The Redis.
        channel: The channel.
        wait_s: Longest wait of `next`, in seconds; below a second.

    Attributes:
        is_confirmed: True once Redis has confirmed the subscription.

    Raises:
        RedisError: Redis does not answer.
    """

    def __init__(self, url: str, channel: str, wait_s: float) -> None:
        self._wait_s = wait_s
        self._channel = channel
        self._redis = connections.blocking(url, wait_s)
        self._pubsub: PubSub | None = None
        self._heard = self._asked = time.monotonic()
        self.is_confirmed = False
        try:
            self._subscribed()
        except BaseException:
            self.close()
            raise
        renew_in_children(self, Subscription._renew)

    def _renew(self) -> None:
        """In a forked child: drops the parent's connection; `next` subscribes again."""
        if (
            self._pubsub is not None
        ):  # or its destructor would give the connection back, under locks
            self._pubsub.connection = None
            self._pubsub.subscribed_event = threading.Event()
        self._pubsub, self.is_confirmed = None, False

    def _subscribed(self) -> PubSub:
        """The subscription, on a connection of this process."""
        if self._pubsub is None:
            self._pubsub = PubSub(self._redis.connection_pool)
            self._heard = self._asked = time.monotonic()
            self._pubsub.subscribe(self._channel)
        return self._pubsub

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        if self._pubsub is not None:
            self._pubsub.close()
        self._redis.close()

    def next(self) -> bytes | None:
        """Returns the next message; None if none came in time.

        Raises:
            RedisError: Redis is away, or has been silent for too long.
        """
        pubsub = self._subscribed()
        message: dict[str, Any] | None = pubsub.get_message(timeout=self._wait_s)
        now = time.monotonic()
        if message is not None:
            self._heard, self.is_confirmed = now, True
            return message["data"] if message["type"] == "message" else None
        if now - self._heard > _DEAF_S:
            raise RedisTimeoutError("the connection that listens is silent")
        if now - max(self._heard, self._asked) >= _ASK_S:
            pubsub.ping()
            self._asked = now
        return None
