"""Memory limits of a worker, and the memory that it uses."""

from __future__ import annotations

from pathlib import Path

import psutil

from yard.settings import Settings

#: Share of a worker's memory for loaded models; the rest is for batches and libraries.
_SHARE = 0.75

#: The limit of the control group that the process runs in (cgroup v2): "max" or bytes.
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")

#: Linux' sums over the pages of the process that reads it; "Pss" is the proportional set size.
_OWN_PAGES = Path("/proc/self/smaps_rollup")


def worker_limit_bytes(settings: Settings) -> int:
    """Return the memory that one worker may use, in bytes.

    As set, or an even share, among the workers of a pool, of the machine's or container's.
    """
    if settings.worker_bytes is not None:
        return settings.worker_bytes
    return int(_memory_bytes() / max(1, settings.pool_max))


def cache_limit_bytes(settings: Settings) -> int:
    """Return the limit of one worker's model cache: as set, or 75 % of the worker's memory."""
    if settings.cache_bytes is not None:
        return settings.cache_bytes
    return int(worker_limit_bytes(settings) * _SHARE)


def used_bytes() -> int:
    """Return the bytes that this process holds: its own pages, and its part of shared ones.

    Workers share mapped libraries and large models; otherwise each would be charged with all of
    them. Where the system has no such sum, the resident set counts.
    """
    try:
        lines = _OWN_PAGES.read_text(encoding="ascii").splitlines()
    except OSError:
        return int(psutil.Process().memory_info().rss)
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _memory_bytes() -> int:
    total = int(psutil.virtual_memory().total)
    try:
        limit = _CGROUP_LIMIT.read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdecimal() else total
