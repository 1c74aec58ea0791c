"""Releases on one Redis: an old pool drains while a new one serves; a newer format is obeyed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from models.publish.publisher import publish
from models.store.repository import Repository
from producer import Client, Handle
from tests.helpers import ROOT, estimators
from tests.helpers.gateways import announce_pool, new_app
from tests.helpers.pools import RunningPool, running_pool
from tests.helpers.waiting import wait_until
from tests.helpers.yards import clean_environ
from yard.cluster.format_version import FORMAT
from yard.cluster.presence import read_presence
from yard.contract import keys
from yard.contract.values import JobStatus
from yard.platform import pdeathsig

JOBS = 300


@pytest.fixture
def store(tmp_path: Path, redis: Redis) -> Path:
    echo = estimators.Echo(pace_s=0.01).fit([[1.0]])
    publish(Repository(tmp_path / "store"), redis, echo, "echo", "v1", [[1.0]], activate=True)
    return tmp_path / "store"


class Load:
    """Jobs, one after the other, until it is ended: all are kept."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.handles: list[Handle] = []

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(0.002):
            number = float(len(self.handles))
            self.handles.append(self._client.submit("echo", instances=[[number]]))

    def wait_for(self, count: int) -> None:
        """Until so many more have been submitted."""
        goal = len(self.handles) + count
        wait_until(lambda: len(self.handles) >= goal, 60)

    def check(self, redis: Redis) -> None:
        """Every job ended once, with its own answer."""
        for number, handle in enumerate(self.handles):
            job = handle.wait(60)
            assert job.status is JobStatus.FINISHED
            assert job["predictions"] == [float(number)]
            assert redis.xlen(keys.key("results", job.id)) == 1


def test_an_old_pool_drains_while_a_new_one_takes_over_and_no_job_is_lost(
    redis, redis_url, store, tmp_path, client
):
    (tmp_path / "new").mkdir()
    with running_pool(redis_url, store, tmp_path, pool_min=2, pool_max=2) as old:
        old.wait_for_workers(redis, 2)
        with Load(client) as load:
            load.wait_for(JOBS // 3)
            with running_pool(redis_url, store, tmp_path / "new", pool_min=2, pool_max=2) as new:
                wait_until(lambda: len(read_presence(redis).pools) == 2, 60, "both are there")
                load.wait_for(JOBS // 3)
                assert old.stop() == 0
                load.wait_for(JOBS // 3)
                load.__exit__()
                load.check(redis)
                assert new.process.poll() is None
    assert not redis.exists(keys.LEASES, keys.key("queue", "echo@v1"))


def test_the_last_releases_pool_and_this_ones_share_the_work(
    redis, redis_url, store, tmp_path, client
):
    release = last_release(tmp_path)
    with ExitStack() as stack:
        (tmp_path / "old").mkdir()
        old = stack.enter_context(old_pool(release, redis_url, store, tmp_path / "old"))
        new = stack.enter_context(running_pool(redis_url, store, tmp_path, pool_min=1, pool_max=1))
        wait_until(lambda: len(read_presence(redis).pools) == 2, 60, "both are there")
        wait_until(lambda: len(new.workers(redis)) == 2, 60, "each has a worker")
        load = stack.enter_context(Load(client))
        load.wait_for(JOBS // 2)
        os.kill(old.pid, signal.SIGTERM)
        assert old.wait(60) == 0
        load.wait_for(JOBS // 2)
        load.__exit__()
        load.check(redis)


def last_release(folder: Path) -> Path:
    """The last tag, checked out; the test is skipped where there is none."""
    git = ["git", "-C", str(ROOT)]
    tag = subprocess.run(
        [*git, "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    if not tag:
        pytest.skip("no release has been tagged yet, or this is no checkout")
    tree = folder / "release"
    tree.mkdir()
    archive = subprocess.run([*git, "archive", tag], capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
    return tree


class old_pool:
    """The pool of another checkout, by its own code."""

    def __init__(self, tree: Path, url: str, store: Path, folder: Path) -> None:
        known = {"redis_url": url, "store": store, "lease_s": 1.0, "pool_min": 1, "pool_max": 1}
        environ = {f"MODELYARD_{name.upper()}": str(value) for name, value in known.items()}
        path = os.pathsep.join([str(tree), str(ROOT)])  # the model comes from these tests
        with (folder / "pool.log").open("wb") as log:
            self._process = subprocess.Popen(
                pdeathsig.command([sys.executable, "-P", "-m", "modelyard.cli", "pool"], 9),
                env=clean_environ() | environ | {"PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
            )

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


class TestFormat:
    def test_the_first_pool_writes_it_and_tells_its_release(self, redis, redis_url, tmp_path):
        with running_pool(redis_url, tmp_path, tmp_path, pool_min=0):
            wait_until(lambda: read_presence(redis).pools, 60)
            assert int(redis.get(keys.FORMAT)) == FORMAT
            (pool,) = read_presence(redis).pools
            assert isinstance(pool.known["release"], str)

    def test_a_pool_does_not_start_on_a_newer_one_and_says_why(self, redis, redis_url, tmp_path):
        redis.set(keys.FORMAT, FORMAT + 1)
        pool = RunningPool(redis_url, tmp_path, tmp_path / "pool.log", pool_min=0)
        assert pool.process.wait(60) == 1
        assert f"format {FORMAT + 1}" in pool.log.read_text()
        assert int(redis.get(keys.FORMAT)) == FORMAT + 1

    def test_a_running_pool_drains_when_a_newer_one_comes(self, redis, redis_url, store, tmp_path):
        with running_pool(redis_url, store, tmp_path) as pool:
            pool.wait_for_workers(redis)
            redis.set(keys.FORMAT, FORMAT + 1)
            assert pool.process.wait(60) == 1
        assert not redis.exists(keys.WORKERS)

    def test_a_gateway_is_not_ready_on_a_newer_one(self, redis, redis_url, store):
        announce_pool(redis)
        with new_app(redis_url) as app:
            http: Any = app.test_client()
            assert http.get("/readyz").status_code == 200
            redis.set(keys.FORMAT, FORMAT + 1)
            assert "newer Modelyard" in http.get("/readyz").json["checks"]["redis"]

    @pytest.mark.parametrize("rubbish", [b"", b"\xff", b"two", b"-1", b"1.5"])
    def test_what_is_no_number_is_no_format(self, redis, redis_url, store, rubbish):
        announce_pool(redis)
        redis.set(keys.FORMAT, rubbish)
        with new_app(redis_url) as app:
            http: Any = app.test_client()
            assert http.get("/readyz").status_code == 200
