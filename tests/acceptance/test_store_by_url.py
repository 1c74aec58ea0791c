"""Real workers on a real S3 server: they load, go on while it is away, and take it up again."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from models.publish.publisher import publish
from models.store.repository import Repository
from producer.client import Client
from tests.helpers import estimators
from tests.helpers.object_store import (
    SECRET,
    S3Server,
    objects,
    put_objects,
    repository,
    running_s3,
)
from tests.helpers.pools import RunningPool, running_pool
from tests.helpers.redis_server import patient
from tests.helpers.waiting import ends_soon, wait_until
from tests.helpers.yards import RunningYard, running_yard
from yard.contract.values import Job


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with running_s3(tmp_path) as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def url(s3: S3Server) -> str:
    return s3.make_bucket()


@pytest.fixture
def store(url: str, redis: Redis, tmp_path: Path) -> Repository:
    """A bucket with echo v1, v2 and v3, as another machine has published them."""
    store = repository(url, tmp_path / "publisher")
    for version in ("v1", "v2", "v3"):
        echo = estimators.Echo(pace_s=0.001 * int(version[1:])).fit([[1.0]])  # other bytes each
        publish(store, redis, echo, "echo", version, [[1.0], [2.0]], activate=version == "v1")
    return store


@pytest.fixture
def pool(
    request: pytest.FixtureRequest, store: Repository, redis_url: str, tmp_path: Path
) -> Iterator[RunningPool]:
    settings: dict[str, Any] = {"store_cache": str(tmp_path / "cache")}
    settings |= getattr(request, "param", {})
    with running_pool(redis_url, store.location, tmp_path, **settings) as pool:  # type: ignore[arg-type]
        yield pool


@pytest.fixture
def client(redis: Redis, redis_url: str, pool: RunningPool) -> Iterator[Client]:
    client = Client(patient(redis_url))
    pool.wait_for_workers(redis)
    yield client
    client.close()


def ask(client: Client, version: str) -> Job:
    handle = client.submit("echo", instances=[[7.0]], version=version)
    return client.wait(handle.id, 30)


def test_workers_load_from_the_bucket_and_outlive_its_absence(s3, url, client, pool, tmp_path):
    assert ask(client, "v1")["predictions"] == [7.0]
    contents = objects(url)
    s3.kill()
    assert ask(client, "v1")["predictions"] == [7.0]
    with ends_soon(15):
        job = ask(client, "v2")
    assert job.error is not None
    assert job.error.code == "model_unavailable"
    assert "does not answer" in job.error.message
    assert ask(client, "v1")["predictions"] == [7.0]
    s3.start()
    s3.make_bucket(url.split("/")[2])
    put_objects(url, contents)
    wait_until(lambda: ask(client, "v2").error is None, 60, "v2 loads")
    assert ask(client, "v2")["predictions"] == [7.0]
    assert SECRET not in pool.log.read_text()


def test_a_new_worker_loads_what_the_machine_has_read_while_the_store_is_away(
    s3, client, redis, redis_url, store, pool, tmp_path
):
    ask(client, "v1")
    pool.stop()
    s3.kill()
    cache = str(tmp_path / "cache")
    with running_pool(redis_url, store.location, tmp_path, store_cache=cache):
        assert ask(client, "v1")["predictions"] == [7.0]


def test_changed_bytes_in_the_bucket_fail_their_version_only(client, url):
    key = next(key for key in objects(url) if key.startswith("echo/v2/") and "joblib" in key)
    put_objects(url, {key: b"evil bytes"})
    job = ask(client, "v2")
    assert job.error is not None
    assert job.error.code == "model_unavailable"
    assert "not the published one" in job.error.message
    assert ask(client, "v1")["predictions"] == [7.0]


@pytest.mark.parametrize("pool", [{"store_cache": "/dev/null/cache"}], indirect=True)
def test_a_folder_that_cannot_be_written_costs_no_job(client, pool):
    for version in ("v1", "v2", "v3"):
        assert ask(client, version)["predictions"] == [7.0]
    assert "is not kept" in pool.log.read_text()


def test_a_yard_runs_on_a_bucket(url, tmp_path):
    environ = {"MODELYARD_STORE": url, "MODELYARD_STORE_CACHE": str(tmp_path / "cache")}
    with running_yard(tmp_path, environ) as yard:
        yard.start()
        yard.wait_for("curl", 90)
        assert any(key.startswith("iris/v1/") for key in objects(url))
        answer = _predict(yard)
        assert answer["result"]["predictions"] == ["setosa"]
        report = _run(yard, "doctor")
        assert report["ok"], report
        assert report["store"] == url
        assert _run(yard, "verify")["ok"]
        assert _run(yard, "inspect", "iris", "v1")["store"] == url
        assert yard.stop() == 0, yard.said
        assert SECRET not in yard.said + yard.logs()


def _predict(yard: RunningYard) -> Any:
    body = json.dumps({"instances": [[5.1, 3.5, 1.4, 0.2]]}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{yard.port}/v1/models/iris/predict",
        body,
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def _run(yard: RunningYard, *words: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "modelyard.cli", *words, "--json"],
        cwd=yard.folder,
        env=yard.environ,
        capture_output=True,
        timeout=90,
        check=False,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)
