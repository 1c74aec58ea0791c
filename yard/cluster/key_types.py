"""Types of Modelyard's keys: a key that was overwritten with another type stops what needs it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from redis import Redis

from yard.contract import keys, lenient


def read_mistyped_keys(
    redis: Redis, models: Iterable[str], queues: Iterable[str]
) -> dict[str, tuple[str, str]]:
    """Reads the types of the keys that models, queues and the whole yard have; one round trip.

    Args:
        redis: Where the yard is.
        models: The models.
        queues: The names of the queues.

    Returns:
        Keys that hold another type than ours: each with its type, and the one that it should have.

    Raises:
        RedisError: Redis does not answer.
    """
    wanted = dict(_wanted(models, queues))
    pipe = redis.pipeline(transaction=False)
    for key in wanted:
        pipe.type(key)
    found = map(lenient.decode, pipe.execute())
    return {
        key: (kind, wanted[key])
        for key, kind in zip(wanted, found, strict=True)
        if kind not in ("none", wanted[key])
    }


def _wanted(models: Iterable[str], queues: Iterable[str]) -> Iterator[tuple[str, str]]:
    yield from keys.TYPES.items()
    for families, names in ((keys.MODEL_TYPES, models), (keys.QUEUE_TYPES, queues)):
        for name in names:
            for family, kind in families.items():
                yield keys.key(family, name), kind
