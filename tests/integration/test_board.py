"""Which queues a worker looks at, and which of them others can wait for in the worker."""

from __future__ import annotations

import pytest
from redis import Redis

from tests.stand_ins import publish
from worker.queue.scheduler import Board

FAST, SLOW = "iris@v1", "iris@v2"


@pytest.fixture
def loaded() -> set[str]:
    return {FAST, SLOW}


@pytest.fixture
def board(redis: Redis, loaded: set[str]) -> Board:
    publish(redis, "iris", "v1", "v2", active="v1")
    board = Board(redis, clock=lambda: 0.0, loaded=lambda: loaded)
    board.queues()
    return board


def brisk(board: Board) -> set[str]:
    """Read when their order is."""
    board._ordered_at = float("-inf")
    board.queues()
    return set(board.brisk())


def test_nothing_is_taken_ahead_for_a_version_whose_last_batch_took_long(board):
    board.served(FAST, 0.01)
    board.served(SLOW, 2.0)
    assert brisk(board) == {FAST}
    board.served(SLOW, 0.01)
    assert brisk(board) == {FAST, SLOW}


def test_a_version_that_is_loaded_is_tried_once(board):
    assert brisk(board) == {FAST, SLOW}
    assert not board.is_brisk(SLOW), "while it is served first, nothing waits behind it"
    board.served(SLOW, 2.0)
    assert brisk(board) == {FAST}


def test_what_must_be_loaded_first_is_not_taken_ahead(board, loaded):
    loaded.discard(SLOW)
    assert brisk(board) == {FAST}


def test_a_front_door_is_not_taken_ahead(board):
    assert "iris" in board.queues()
    assert "iris" not in brisk(board)
