"""Ids and the running yard's file, as other processes meet them."""

from __future__ import annotations

import os
import subprocess
import sys

from yard import local
from yard.contract.ids import new_id

#: 11 hex digits of time, then 128 bits of Base64.
LENGTH = 33


def a_dead_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_a_yard_whose_process_is_gone_is_none(tmp_path):
    gone = a_dead_process()
    gateway = "http://127.0.0.1:8000"
    yard = local.Yard(
        gone, local.birth(gone), "unix:///tmp/r.sock", gateway, "/store", "2026-01-02T03:04:05Z"
    )
    local.write(tmp_path, yard)
    assert local.running(tmp_path) is None


def test_a_forked_process_has_ids_of_its_own():
    new_id()  # more are ready now
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, "".join(new_id() for _ in range(300)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    drawn = os.read(reader, 300 * LENGTH).decode()
    os.close(reader)
    os.close(writer)
    theirs = {drawn[place : place + LENGTH] for place in range(0, len(drawn), LENGTH)}
    assert len(theirs) == 300
    assert theirs.isdisjoint(new_id() for _ in range(300))
