"""Submits to a peer and reads its results, on orders that come a line at a time.

``python -m bench.peers.driver bench.peers.huey_app``. The module has ``submit(row)``, which gives a
ticket, and ``result(ticket)``, which waits for its result; both may be coroutines. Orders are JSON
lists on standard input, each answered by a line of JSON.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import sys
import time
from typing import Any, Protocol, cast

ROW = [5.1, 3.5, 1.4, 0.2]


class App(Protocol):
    """A peer's application, as the driver sees it."""

    def submit(self, row: list[float]) -> Any:
        """Queue a job; returns its identity, or an awaitable of that."""

    def result(self, ticket: Any) -> Any:
        """Wait for its result, which is that of `bench.peers.iris.predict`, or an awaitable."""


class Driver:
    """Carries out orders; each method is one."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._tickets: list[Any] = []

    async def submit(self, count: int) -> float:
        """Seconds that so many submissions took, one by one."""
        started = time.perf_counter()
        self._tickets = [await _done(self._app.submit(ROW)) for _ in range(count)]
        return time.perf_counter() - started

    async def collect(self) -> float:
        """When the last of what was submitted was ready; all results are read and compared."""
        results = [await _done(self._app.result(ticket)) for ticket in self._tickets]
        for result in results:
            _check(result)
        return max(float(result["at"]) for result in results)

    async def round_trips(self, count: int) -> list[float]:
        """Milliseconds from submission to result, one job after the other."""
        taken = []
        for _ in range(count):
            started = time.perf_counter()
            result = await _done(self._app.result(await _done(self._app.submit(ROW))))
            taken.append((time.perf_counter() - started) * 1000)
            _check(result)
        return taken


def _check(result: Any) -> None:
    if result["predictions"] != ["setosa"] or len(result["probabilities"][0]) != 3:
        raise ValueError(f"a job ended with {result}")


async def _done(value: Any) -> Any:
    """The value, or what it is an awaitable of."""
    return await value if inspect.isawaitable(value) else value


async def _obey(driver: Driver) -> None:
    # One loop for all orders, since asynchronous clients belong to one; nothing else runs on it
    # while a line is awaited.
    while line := sys.stdin.readline():
        order, *arguments = json.loads(line)
        answer = await getattr(driver, order)(*arguments)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(_obey(Driver(cast(App, importlib.import_module(sys.argv[1])))))
