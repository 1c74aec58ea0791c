"""What a worker process imports and keeps to itself: no more than its versions need."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from redis import Redis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler

from models.publish import publish
from models.repository import Repository
from producer import tether
from producer.client import Client
from producer.contract import ModelRef
from producer.settings import Settings
from tests.yards import clean_environ

pytest.importorskip("skl2onnx")

#: A worker that says at its end what it has imported.
_WORKER = """
import json, sys
from worker.process import main
main([sys.argv[1], "", sys.argv[2]])
print(json.dumps(sorted(sys.modules)))
"""


class Worker:
    """One worker process.

    Args:
        settings: All there is to set.
        name: Its name.
        pattern: Which models it serves.
    """

    def __init__(self, settings: Settings, name: str, pattern: str) -> None:
        here = str(Path(__file__).parents[2])
        argv = [sys.executable, "-P", "-c", _WORKER, name, pattern]
        self.process = subprocess.Popen(
            tether.command(argv, signal.SIGKILL),
            env=clean_environ() | settings.environ() | {"PYTHONPATH": here},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def mapped_bytes(self, folder: Path) -> int:
        """Of its memory, what is mapped from files in a folder."""
        total = 0
        for line in Path(f"/proc/{self.process.pid}/maps").read_text().splitlines():
            if str(folder) in line:
                start, _, end = line.split()[0].partition("-")
                total += int(end, 16) - int(start, 16)
        return total

    def end(self) -> set[str]:
        """Stop it; the top-level modules that it had imported."""
        self.process.terminate()
        said, _ = self.process.communicate(timeout=30)
        return {name.partition(".")[0] for name in json.loads(said.splitlines()[-1])}


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    return Settings.load(
        {},
        redis_url=redis_url,
        store=str(tmp_path / "store"),
        store_cache=str(tmp_path / "cache"),
        map_bytes=2**16,
    )


@pytest.fixture
def client(redis: Redis, settings: Settings) -> Iterator[Client]:
    client = Client(settings=settings)
    yield client
    client.close()


@contextmanager
def running(settings: Settings, count: int = 1, pattern: str = "*") -> Iterator[list[Worker]]:
    workers = [Worker(settings, f"w{n}", pattern) for n in range(count)]
    try:
        yield workers
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                os.kill(worker.process.pid, signal.SIGKILL)
            worker.process.communicate()


def classifier() -> LogisticRegression:
    return LogisticRegression().fit(np.eye(4), ["a", "b", "a", "b"])


ROWS = np.eye(4).tolist()


def test_a_worker_of_compiled_versions_never_imports_scikit_learn(
    client: Client, redis: Redis, settings: Settings
):
    store = Repository(settings.store_path)
    manifest = publish(store, redis, classifier(), "light", "v1", ROWS, activate=True)
    assert manifest.runtime == "onnx"
    with running(settings) as (worker,):
        job = client.submit("light", instances=ROWS[:1]).wait(30)
        assert job["predictions"] == ["a"]
        imported = worker.end()
    assert {"onnxruntime", "numpy"} <= imported
    assert not {"sklearn", "scipy", "joblib", "skl2onnx", "onnx"} & imported


@pytest.mark.parametrize("pattern", ["*", "li*"])
def test_a_worker_imports_it_only_for_a_version_that_it_serves(
    client: Client, redis: Redis, settings: Settings, pattern: str
):
    store = Repository(settings.store_path)
    publish(store, redis, classifier(), "light", "v1", ROWS, activate=True)
    publish(store, redis, StandardScaler().fit(np.eye(4)), "heavy", "v1", ROWS, compile=False)
    with running(settings, pattern=pattern) as (worker,):
        client.submit("light", instances=ROWS[:1]).wait(30)
        if pattern == "*":
            client.submit("heavy", version="v1", instances=ROWS[:1]).wait(30)
        assert ("sklearn" in worker.end()) == (pattern == "*")


@pytest.mark.parametrize("compiles", [True, False])
def test_workers_map_the_weights_of_a_large_version_from_one_file(
    client: Client, redis: Redis, settings: Settings, compiles: bool
):
    inputs, hidden = 20, 2_000
    net = MLPRegressor(hidden_layer_sizes=(hidden,), max_iter=1, random_state=0)
    rows = np.eye(inputs)
    with pytest.warns(ConvergenceWarning):
        net.fit(rows, range(inputs))
    store = Repository(settings.store_path)
    example = rows[:2].tolist()
    manifest = publish(store, redis, net, "wide", "v1", example, activate=True, compile=compiles)
    assert manifest.runtime == ("onnx" if compiles else "sklearn")
    weights = inputs * hidden * 4
    expected = net.predict(rows[:2])
    with running(settings, 2) as workers:
        seen: set[str] = set()
        while len(seen) < 2:  # until each has had a turn
            jobs = [client.submit("wide", instances=example) for _ in range(20)]
            for job in jobs:
                got = job.wait(30)["predictions"]
                assert got == pytest.approx(expected, rel=1e-4, abs=1e-4)
            mapping = [
                w for w in workers if w.mapped_bytes(Path(settings.store_cache or "")) > weights
            ]
            seen = {str(w.process.pid) for w in mapping}
        (copy,) = [path for path in Path(settings.store_cache or "").rglob("*") if path.is_file()]
    assert (
        copy.name
        == store.manifest(ModelRef("wide", "v1"))
        .file("model.onnx" if compiles else "model.joblib")
        .sha256
    )
