"""What a thread waits on."""

from __future__ import annotations

import threading

from producer.group_commit import Latch


def test_is_shut_until_it_is_set():
    latch = Latch()
    assert not latch.wait(0)
    latch.set()
    assert latch.wait(0)


def test_lets_one_wait_through_however_often_it_was_set():
    latch = Latch()
    latch.set()
    latch.set()
    assert latch.wait(0)
    assert not latch.wait(0)


def test_wakes_a_thread_that_waits():
    latch, woken = Latch(), []
    thread = threading.Thread(target=lambda: woken.append(latch.wait(10)))
    thread.start()
    latch.set()
    thread.join(20)
    assert woken == [True]
