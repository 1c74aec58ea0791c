"""The check that every other test here is under: which keys it takes for leaks."""

from __future__ import annotations

import pytest

from tests.helpers.key_leaks import find_leaks
from yard.contract import keys


def test_what_is_permanent_or_in_use_or_ends_by_itself_is_no_leak(redis):
    redis.set(keys.key("active", "iris"), "v1")
    redis.hset(keys.key("route", "iris"), "revision", 1)
    redis.sadd(keys.QUEUES, "rq:queue:iris@v1")
    redis.rpush(keys.key("queue", "iris@v1"), "j1")
    redis.hset(keys.key("job", "j1"), "status", "queued")
    redis.hset(keys.key("batch", "w1"), "j2", 1)
    redis.zadd(keys.LEASES, {"w1": 1})
    redis.set(keys.key("loaded", "w1"), "x", ex=10)
    redis.xadd(keys.key("results", "j1"), {"type": 1})
    redis.expire(keys.key("results", "j1"), 60)
    assert find_leaks(redis) == []


@pytest.mark.leaks_keys
@pytest.mark.parametrize(
    "key",
    ["results", "worker", "bell", "idempotency", "loaded", "pool", "batch"],
)
def test_a_key_that_should_expire_and_does_not_is_a_leak(redis, key):
    redis.hset(keys.key(key, "x"), "field", "value")
    assert find_leaks(redis) == [keys.key(key, "x")]


@pytest.mark.leaks_keys
@pytest.mark.parametrize("status", ["finished", "failed", "canceled"])
def test_a_job_that_has_ended_and_stays_is_a_leak(redis, status):
    redis.hset(keys.key("job", "j1"), "status", status)
    assert find_leaks(redis) == ["rq:job:j1"]


@pytest.mark.leaks_keys
def test_a_key_that_nobody_knows_is_a_leak(redis):
    redis.set("modelyard:whatever", "x")
    redis.set("rq:clean_registries:iris@v1", "x")
    assert len(find_leaks(redis)) == 2


def test_no_family_is_both_permanent_and_in_use():
    assert not set(keys.PERMANENT) & set(keys.WHILE_IN_USE)
