"""The fork server's end of the line to its pool."""

from __future__ import annotations

import gc
import json
import os
import select
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from worker.pool.fork_server import ForkServer


@pytest.fixture
def line() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs
    gc.unfreeze()


def test_it_ends_when_the_pool_hangs_up(line):
    ours, theirs = line
    ours.close()
    assert ForkServer(theirs, os.getpid()).serve() is None


def test_it_ends_when_the_pool_dies_before_it_has_read_the_answer(line):
    ours, theirs = line
    ours.send(json.dumps({"import": []}).encode())
    with ThreadPoolExecutor(1) as threads:
        served = threads.submit(ForkServer(theirs, os.getpid()).serve)
        assert select.select([ours], [], [], 60)[0], "it has answered"
        ours.close()
        assert served.result(60) is None
