"""A connection to Redis on which commands are sent before the replies to earlier ones are read.

redis-py's pipeline sends and waits. A worker that has a batch to predict does not wait: while Redis
ends the batch before and hands out the next, the worker predicts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from yard.broker import ScriptArgument


class PipelinedConnection:
    """One connection of ``redis``' pool, taken with the first command.

    Args:
        redis: Its time-outs apply, each from when a reply is waited for.
    """

    def __init__(self, redis: Redis) -> None:
        self._pool: Any = redis.connection_pool
        self._connection: Any = None
        self._sent: deque[int] = deque()

    def send(self, commands: Sequence[Sequence[ScriptArgument]]) -> None:
        """Send commands; `receive` returns their replies together.

        Raises:
            RedisError: They could not be sent. Whether they, and what was sent before, were carried
                out is not known.
        """
        if self._connection is None:
            self._connection = self._pool.get_connection()
        try:
            # redis-py's own packing looks at each argument in Python first: twice as long.
            packed: Any = hiredis.pack_command
            self._connection.send_packed_command([b"".join(map(packed, commands))])
        except BaseException:
            self._drop()
            raise
        self._sent.append(len(commands))

    def receive(self) -> list[Any]:
        """Return the replies to the oldest `send`; an error reply stands in its place.

        Raises:
            RedisError: The connection was lost, or Redis takes too long: nothing is known of what
                was sent.
        """
        if not self._sent:
            raise RedisConnectionError("the connection was lost")
        try:
            replies = [self._reply() for _ in range(self._sent[0])]
        except BaseException:
            self._drop()
            raise
        self._sent.popleft()
        return replies

    def close(self) -> None:
        """Return the connection to the pool; close it if replies are unread."""
        if self._sent:
            self._drop()
        elif self._connection is not None:
            self._pool.release(self._connection)
            self._connection = None

    def _reply(self) -> Any:
        try:
            return self._connection.read_response()
        except ResponseError as error:
            return error

    def _drop(self) -> None:
        self._sent.clear()
        connection, self._connection = self._connection, None
        connection.disconnect()
        self._pool.release(connection)
