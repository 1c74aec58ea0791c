"""Ids are 128 random bits, and no two processes give out the same."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor

from producer.ids import new_id


def test_an_id_is_32_hex_digits():
    assert all(re.fullmatch("[0-9a-f]{32}", new_id()) for _ in range(300))


def test_no_two_threads_get_the_same():
    with ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(lambda _: new_id(), range(5_000)))
    assert len(set(ids)) == 5_000


def test_a_forked_process_has_ids_of_its_own():
    new_id()  # more are ready now
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, "".join(new_id() for _ in range(300)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    drawn = os.read(reader, 300 * 32).decode()
    os.close(reader)
    os.close(writer)
    theirs = {drawn[place : place + 32] for place in range(0, len(drawn), 32)}
    assert len(theirs) == 300
    assert theirs.isdisjoint(new_id() for _ in range(300))
