"""Rubbish that strangers push: entries that are no job, and jobs that cannot be run."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable
from random import Random

from redis import Redis

from tests.helpers.protocol import call, push_job
from yard.contract import keys

#: The ids of pushed jobs begin so.
PREFIX = "rubbish-"

Push = Callable[[Redis, str, str], None]


def push_some(redis: Redis, queue: str, number: int, random: Random) -> None:
    """Push one piece of rubbish."""
    random.choice(_PUSHES)(redis, queue, f"{PREFIX}{number}")


def _entry(entry: bytes) -> Push:
    def push(redis: Redis, queue: str, _job_id: str) -> None:
        redis.rpush(keys.key("queue", queue), entry)

    return push


def _job(**fields: bytes | str | int) -> Push:
    def push(redis: Redis, queue: str, job_id: str) -> None:
        push_job(redis, queue, job_id, **fields)

    return push


_PUSHES: list[Push] = [
    _entry(b"bad id!"),
    _entry(b"../../x"),
    _entry(b""),
    _entry(b"\xff\xfe"),
    _entry(b"a:b:c"),
    _entry(b"no-such-job"),
    _entry(b"x" * 100_000),
    _job(data=b"not json"),
    _job(data=pickle.dumps(["os.system", None, ["true"], {}])),
    _job(data=call("os.system")),
    _job(data=call("format", "{0.__class__}")),
    _job(data=zlib.compress(b"[" * 10**7)),
    _job(timeout="abc"),
    _job(timeout=-1, result_ttl="1.5", created_at="nope"),
    _job(status="weird"),
    _job(worker_name=b"\xff\xfe", my_attempts="nan", my_crashes="x"),
    _job(success_callback_name="os.getcwd", failure_callback_name="no.such"),
]
