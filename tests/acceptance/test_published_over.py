"""A name that is deleted and published again with other bytes, while a worker has it loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis import Redis

from models.publish.publisher import publish
from models.store.repository import Repository
from producer.client import Client
from tests.helpers import estimators
from tests.helpers.pools import RunningPool
from yard.contract import keys
from yard.contract.values import ModelRef, Request
from yard.registry import catalog, lifecycle

V1 = ModelRef("echo", "v1")


def publish_again(redis: Redis, store: Path, folder: Path, is_deleted: bool) -> None:
    """Put other bytes under the name, in no time: they were made before."""
    doubling = estimators.Doubling().fit([[1.0]])
    manifest = publish(Repository(folder), None, doubling, "echo", "v1", [[1.0], [2.0]])
    if is_deleted:
        lifecycle.delete(redis, V1, force=True)
    shutil.rmtree(store / "echo" / "v1")
    (folder / "echo" / "v1").rename(store / "echo" / "v1")
    raw = (store / "echo" / "v1" / "manifest.json").read_bytes()
    catalog.register(redis, V1, raw, manifest.signature)
    redis.set(keys.key("active", "echo"), "v1")


def answers(client: Client, count: int) -> list[Any]:
    handles = client.submit_many(
        [Request("echo", instances=[[float(number)]]) for number in range(count)]
    )
    return [handle.wait(60)["predictions"][0] for handle in handles]  # type: ignore[union-attr]


def test_jobs_that_come_at_once_get_answers_of_the_new_bytes(
    redis: Redis, client: Client, start: Callable[..., RunningPool], store: Path, tmp_path: Path
) -> None:
    start()
    assert answers(client, 3) == [0.0, 1.0, 2.0]
    publish_again(redis, store, tmp_path / "other", is_deleted=True)
    assert answers(client, 200) == [2.0 * number for number in range(200)]


def test_so_do_they_where_it_was_published_over_without_being_deleted(
    redis: Redis, client: Client, start: Callable[..., RunningPool], store: Path, tmp_path: Path
) -> None:
    start()
    assert answers(client, 3) == [0.0, 1.0, 2.0]
    publish_again(redis, store, tmp_path / "other", is_deleted=False)
    assert answers(client, 200) == [2.0 * number for number in range(200)]
