"""Imports and private memory of a worker process: no more than its versions need."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis import Redis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler

from models.publish.publisher import publish
from models.store.repository import Repository
from producer.client import Client
from tests.helpers import ROOT
from tests.helpers.redis_server import patient
from tests.helpers.yards import clean_environ
from yard.contract.values import ModelRef
from yard.platform import pdeathsig
from yard.settings import Settings

skl2onnx = pytest.importorskip("skl2onnx")

#: A worker that says at its end what it has imported.
_WORKER = """
import json, sys
from worker.process.worker import main
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
        here = str(ROOT)
        argv = [sys.executable, "-P", "-c", _WORKER, name, pattern]
        self.process = subprocess.Popen(
            pdeathsig.command(argv, signal.SIGKILL),
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
    client = Client(patient(str(settings.redis_url)), settings=settings)
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


ROWS = np.eye(4).tolist()


def compiled(folder: Path, estimator: Any, inputs: int) -> Path:
    """The estimator as an ONNX file: whether publishing compiles it depends on how fast it is."""
    path = folder / "model.onnx"
    example = np.zeros((1, inputs), np.float32)
    options = {"zipmap": False} if hasattr(estimator, "classes_") else {}
    made = skl2onnx.to_onnx(estimator, example, options={id(estimator): options})
    path.write_bytes(made.SerializeToString())
    return path


def publish_light(settings: Settings, redis: Redis, folder: Path) -> None:
    """A version that ONNX alone serves."""
    estimator = LogisticRegression().fit(np.eye(4), ["a", "b", "a", "b"])
    store, path = Repository(settings.store_path), compiled(folder, estimator, 4)
    manifest = publish(store, redis, path, "light", "v1", ROWS, activate=True)
    assert manifest.runtime == "onnx"


def test_a_worker_of_compiled_versions_never_imports_scikit_learn(
    client: Client, redis: Redis, settings: Settings, tmp_path: Path
):
    publish_light(settings, redis, tmp_path)
    with running(settings) as (worker,):
        job = client.submit("light", instances=ROWS[:1]).wait(60)
        assert job["predictions"] == ["a"]
        imported = worker.end()
    assert {"onnxruntime", "numpy"} <= imported
    assert not {"sklearn", "scipy", "joblib", "skl2onnx", "onnx"} & imported


@pytest.mark.parametrize("pattern", ["*", "li*"])
def test_a_worker_imports_it_only_for_a_version_that_it_serves(
    client: Client, redis: Redis, settings: Settings, tmp_path: Path, pattern: str
):
    publish_light(settings, redis, tmp_path)
    store = Repository(settings.store_path)
    publish(store, redis, StandardScaler().fit(np.eye(4)), "heavy", "v1", ROWS, compile=False)
    with running(settings, pattern=pattern) as (worker,):
        client.submit("light", instances=ROWS[:1]).wait(60)
        if pattern == "*":
            client.submit("heavy", version="v1", instances=ROWS[:1]).wait(60)
        assert ("sklearn" in worker.end()) == (pattern == "*")


@pytest.mark.parametrize("compiles", [True, False])
def test_workers_map_the_weights_of_a_large_version_from_one_file(
    client: Client, redis: Redis, settings: Settings, tmp_path: Path, compiles: bool
):
    inputs, hidden = 20, 2_000
    net = MLPRegressor(hidden_layer_sizes=(hidden,), max_iter=1, random_state=0)
    rows = np.eye(inputs)
    with pytest.warns(ConvergenceWarning):
        net.fit(rows, range(inputs))
    store = Repository(settings.store_path)
    example = rows[:2].tolist()
    artefact = compiled(tmp_path, net, inputs) if compiles else net
    manifest = publish(store, redis, artefact, "wide", "v1", example, activate=True, compile=False)
    assert manifest.runtime == ("onnx" if compiles else "sklearn")
    weights = inputs * hidden * 4
    expected = net.predict(rows[:2])
    with running(settings, 2) as workers:
        seen: set[str] = set()
        while len(seen) < 2:  # until each has had a turn
            jobs = [client.submit("wide", instances=example) for _ in range(20)]
            for job in jobs:
                got = job.wait(60)["predictions"]
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
