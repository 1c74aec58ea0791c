"""Many clients that wait for a job over HTTP, while others ask whether the gateway lives.

Each holds a connection. What must not happen: that each costs a connection to Redis, too, or that
the gateway has no time for anybody else.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.gateways import gateway
from bench.jobs import one_row, submitted
from bench.measure import percentile
from bench.yard import Yard, worker

_HOST = "127.0.0.1"
_WAIT_S = 30
#: Files that a process may have open: a connection each, and some.
_FILES = 4096
#: The gateway has taken all requests by then, in seconds.
_TAKEN_S = 3.0


@dataclass(frozen=True, slots=True)
class Waited:
    """Figures of a gateway while clients wait.

    Attributes:
        clients: Their number.
        connections: The gateway's connections to Redis.
        p50_ms: Half of the answers of ``/healthz`` took less, each on a new connection.
        p99_ms: All but one in a hundred took less.
        told_ms: From the start of the worker's drain to the last client's answer.
    """

    clients: int
    connections: int
    p50_ms: float
    p99_ms: float
    told_ms: float


def measure(yard: Yard, clients: int, looks: int) -> Waited:
    """Let so many clients wait, each for a job of its own, and look at ``/healthz`` meanwhile."""
    _raise_open_files()
    yard.clear()
    with yard.running(worker()) as process:
        handles = submitted(yard, [one_row()])
        handles[0].wait(60)
        process.freeze()
        handles = submitted(yard, [one_row()] * clients)
        before = _connections(yard)
        with gateway(yard, gateway_waits=clients + 4) as port:
            ids = [handle.id for handle in handles]
            return asyncio.run(_wait(yard, process.thaw, port, ids, looks, before))


async def _wait(
    yard: Yard, thaw: Any, port: int, job_ids: Sequence[str], looks: int, before: int
) -> Waited:
    waits = [asyncio.create_task(_poll(port, job_id)) for job_id in job_ids]
    await asyncio.sleep(_TAKEN_S)
    taken = [await _look(port) for _ in range(looks)]
    connections = _connections(yard) - before
    if any(wait.done() for wait in waits):
        raise RuntimeError("a client was answered before its job had ended")
    started = thaw()
    await asyncio.gather(*waits)
    told_ms = (time.time() - started) * 1000
    return Waited(
        len(job_ids), connections, percentile(taken, 0.5), percentile(taken, 0.99), told_ms
    )


async def _poll(port: int, job_id: str) -> None:
    """Wait for a job as a client does.

    Raises:
        RuntimeError: The answer is not the finished job.
    """
    answer = await _get(port, f"/v1/jobs/{job_id}?wait={_WAIT_S}")
    if b'"status":"finished"' not in answer:
        raise RuntimeError(f"a waiting client was answered {answer[:300]!r}")


async def _look(port: int) -> float:
    """Milliseconds that ``/healthz`` takes, connecting included."""
    started = time.perf_counter()
    answer = await _get(port, "/healthz")
    taken_ms = (time.perf_counter() - started) * 1000
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"/healthz answered {answer[:80]!r}")
    return taken_ms


async def _get(port: int, path: str) -> bytes:
    """The whole answer, on a connection of its own."""
    reader, writer = await asyncio.open_connection(_HOST, port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {_HOST}\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer


def _connections(yard: Yard) -> int:
    """Connections that Redis has."""
    clients: Any = yard.redis.info("clients")
    return int(clients["connected_clients"])


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
