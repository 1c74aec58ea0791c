"""Workers run in an empty folder of their pool, and find what was found where it was started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from redis import Redis

from models.publish.publisher import publish
from models.store.repository import Repository
from producer.client import Client
from tests.helpers import estimators
from tests.helpers.pools import RunningPool


@pytest.mark.parametrize("fork_server", [True, False])
def test_workers_run_in_an_empty_folder_that_goes_with_the_pool(
    redis: Redis, redis_url: str, tmp_path: Path, fork_server: bool
):
    store, scratch = Repository(tmp_path / "store"), tmp_path / "tmp"
    scratch.mkdir()
    echo = estimators.Echo().fit([[1.0]])
    publish(store, redis, echo, "echo", "v1", [[1.0]], activate=True)
    pool = RunningPool(
        redis_url,
        Path("store"),  # where the pool runs
        tmp_path / "log",
        {"TMPDIR": str(scratch)},
        fork_server=fork_server,
        store_cache="cache",
        map_bytes=1,
    )
    try:
        pids = pool.wait_for_workers(redis)
        client = Client(redis_url)
        try:
            done = client.submit("echo", instances=[[5.0]]).wait(30)
        finally:
            client.close()
        assert done["predictions"] == [5.0]
        folders = {os.readlink(f"/proc/{pid}/cwd") for pid in pids.values()}
        assert len(folders) == 1
        (folder,) = map(Path, folders)
        assert folder.parent == scratch
        assert list(folder.iterdir()) == []
    finally:
        assert pool.stop() == 0, pool.log.read_text()
    assert [path.name for path in scratch.iterdir() if "work" in path.name] == []
