"""The pool's round: a step that fails costs the others nothing, unless Redis is away."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError
from redis.exceptions import TimeoutError as RedisTimeoutError

from worker.pool.supervisor import Pool
from yard.settings import Settings


@pytest.fixture
def pool() -> Pool:
    return Pool(Settings.load({}), "redis://127.0.0.1:1/0")


def step(taken: list[str], name: str, error: Exception | None = None) -> Callable[[], None]:
    def take() -> None:
        taken.append(name)
        if error is not None:
            raise error

    return take


@pytest.mark.parametrize(
    "error",
    [OutOfMemoryError("full"), ValueError("rubbish in a key"), OSError("no process can start")],
)
def test_the_steps_behind_one_that_fails_are_taken(pool, error):
    taken: list[str] = []
    pool._do(step(taken, "a"), step(taken, "b", error), step(taken, "c"))
    assert taken == ["a", "b", "c"]


@pytest.mark.parametrize("error", [RedisConnectionError("gone"), RedisTimeoutError("silent")])
def test_without_redis_no_step_waits_for_it_once_more(pool, error):
    taken: list[str] = []
    pool._do(step(taken, "a", error), step(taken, "b"))
    assert taken == ["a"]
