"""The load on an HTTP server: ``wrk`` where it is on the PATH, else clients of our own on asyncio.

Both keep so many connections busy, each with one request at a time, and give answers a second and
percentiles of the latency. One run uses one of them for all servers.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench.measure import percentile

_SCRIPT = Path(__file__).with_name("post.lua")
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)
_MARGIN_S = 60


@dataclass(frozen=True, slots=True)
class Load:
    """A server's answers under load.

    Attributes:
        answers_s: Answers a second.
        p50_ms: Half of them took less.
        p99_ms: All but one in a hundred took less.
    """

    answers_s: float
    p50_ms: float
    p99_ms: float


def generator() -> str:
    """The program that makes the load, for the report."""
    if shutil.which("wrk") is None:
        return "clients on asyncio (`bench/load.py`)"
    said = subprocess.run(["wrk", "-v"], capture_output=True, text=True).stdout
    return f"wrk {said.split()[1]}" if len(said.split()) > 1 else "wrk"


def load(url: str, body: bytes, clients: int, seconds: float) -> Load:
    """Post ``body`` over ``clients`` connections for a while.

    Raises:
        RuntimeError: Not all answers were right.
    """
    if shutil.which("wrk") is None:
        return asyncio.run(_clients(url, body, clients, seconds))
    argv = ["wrk", "--threads", "1", "--connections", str(clients), "--timeout", "10s"]
    argv += ["--duration", f"{seconds:g}s", "--script", str(_SCRIPT), url, "--", body.decode()]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + _MARGIN_S)
    if done.returncode:
        raise RuntimeError(f"wrk: {done.stderr.strip()[:300]}")
    saw = json.loads(done.stdout.splitlines()[-1])
    if saw["errors"] or not saw["requests"]:
        raise RuntimeError(f"{saw['errors']} of {saw['requests']} requests failed")
    return Load(saw["requests"] / saw["seconds"], saw["p50_ms"], saw["p99_ms"])


async def _clients(url: str, body: bytes, clients: int, seconds: float) -> Load:
    taken: list[float] = []
    until = time.perf_counter() + seconds
    await asyncio.gather(*(_client(url, body, until, taken) for _ in range(clients)))
    return Load(len(taken) / seconds, percentile(taken, 0.5), percentile(taken, 0.99))


async def _client(url: str, body: bytes, until: float, taken: list[float]) -> None:
    """Requests over one connection, one after the other; their milliseconds go to ``taken``."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    request = (
        f"POST {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    while (started := time.perf_counter()) < until:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        found = _LENGTH.search(head)
        if not head.startswith(b"HTTP/1.1 200") or found is None:
            raise RuntimeError(f"the server answered {head[:80]!r}")
        await reader.readexactly(int(found[1]))
        taken.append((time.perf_counter() - started) * 1000)
    writer.close()
