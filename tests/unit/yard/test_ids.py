"""Ids sort by when they were made, and no two threads get the same."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor

from tests.helpers.waiting import wait_until
from yard.contract.ids import new_id


def test_an_id_is_its_time_and_128_bits_of_base64():
    assert all(re.fullmatch("[0-9a-f]{11}[A-Za-z0-9_-]{22}", new_id()) for _ in range(300))


def test_ids_sort_by_when_they_were_made():
    first, now_ms = new_id(), time.time_ns() // 1_000_000
    assert 0 <= now_ms - int(first[:11], 16) < 60_000
    wait_until(lambda: time.time_ns() // 1_000_000 > now_ms)
    assert new_id() > first


def test_no_two_threads_get_the_same():
    with ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(lambda _: new_id(), range(5_000)))
    assert len(set(ids)) == 5_000
