"""`modelyard up` as a new user meets it: all of Modelyard, from an empty folder, by its words."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis import Redis

from producer.client import Client
from tests.helpers.waiting import wait_until
from tests.helpers.yards import RunningYard, running_yard
from yard.cluster.presence import read_presence
from yard.contract.values import JobStatus

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def new(tmp_path: Path) -> Iterator[RunningYard]:
    """A yard in an empty folder."""
    with running_yard(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a yard that has published its examples, and was stopped."""
    folder = tmp_path_factory.mktemp("published")
    with running_yard(folder) as first:
        ready(first)
        assert first.stop() == 0
    return folder


@pytest.fixture
def up(tmp_path: Path, published: Path) -> Iterator[RunningYard]:
    """A yard that finds its examples published, which halves the time that it takes to start."""
    with copied_yard(published, tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, published: Path) -> Iterator[RunningYard]:
    """A yard that is ready, for tests that leave it as it was."""
    with copied_yard(published, tmp_path_factory.mktemp("shared")) as found:
        ready(found)
        yield found


@contextmanager
def copied_yard(source: Path, folder: Path) -> Iterator[RunningYard]:
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock"))
    with running_yard(folder) as found:
        yield found


def ready(up: RunningYard) -> float:
    """Start it and wait until it says that it is ready; the seconds that took."""
    begun = time.perf_counter()
    up.start()
    up.wait_for("Modelyard is ready", 90)
    return time.perf_counter() - begun


def test_what_gets_traffic_is_loaded_when_the_yard_is_ready(new: RunningYard):
    """At the first start, with its examples, and at the next: the first job loads nothing."""
    for _ in range(2):
        ready(new)
        with Redis.from_url(new.redis_url) as redis:
            presence = read_presence(redis)
            for queue in ("iris@v1", "diabetes@v1", "sentiment@v1"):
                assert presence.holders(queue), queue
        with closing(Client(new.redis_url)) as client:
            job = client.submit("iris", instances=[[5.1, 3.5, 1.4, 0.2]]).wait(30)
        assert job.timings is not None
        assert job.timings.load == 0
        assert new.stop() == 0


def line_of(up: RunningYard, name: str) -> str:
    """The banner's text after ``name``."""
    rows = [line.split(maxsplit=1) for line in up.said.splitlines() if line.startswith("  ")]
    return {row[0]: row[1] for row in rows}[name]


def call(up: RunningYard, path: str, body: Any = None) -> tuple[int, Any]:
    """One HTTP call: the status, and the JSON of the answer."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{up.port}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=40) as answer:
        return answer.status, json.loads(answer.read())


def modelyard(up: RunningYard, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Another command, where the user stands."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "modelyard.cli", *arguments],
        cwd=up.folder,
        env=up.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


_IRIS = {"instances": [[5.1, 3.5, 1.4, 0.2]]}


def test_the_curl_line_of_the_banner_predicts(shared):
    line = line_of(shared, "try")
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    assert shlex.split(line)[0] == "curl"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=40)
    job = json.loads(done.stdout)
    assert (job["status"], job["model"], job["version"]) == ("finished", "iris", "v1")
    assert job["result"]["predictions"] == ["setosa"]


def test_the_docs_page_is_where_the_banner_says(shared):
    with urllib.request.urlopen(line_of(shared, "docs"), timeout=10) as page:
        assert page.status == 200


def test_a_flip_in_redis_holds_for_the_very_next_job(shared):
    with Redis.from_url(shared.redis_url) as redis:
        for version in ("v2", "v1", "v2", "v1"):
            redis.set("modelyard:active:iris", version)
            _, job = call(shared, "/v1/models/iris/predict", _IRIS)
            assert job["version"] == version


def test_jobs_results_routes_and_catalogue_survive_a_restart(new):
    first_s = ready(new)
    _, job = call(new, "/v1/models/iris/predict", _IRIS)
    with Redis.from_url(new.redis_url) as redis:
        redis.set("modelyard:active:iris", "v2")
    assert new.stop() == 0
    again_s = ready(new)
    print(f"ready after {first_s:.1f} s, the second time after {again_s:.1f} s")  # noqa: T201
    assert call(new, f"/v1/jobs/{job['id']}")[1]["result"] == job["result"]
    assert call(new, "/v1/models/iris/predict", _IRIS)[1]["version"] == "v2"
    assert "Publishing the example models" not in new.said


def test_ctrl_c_drains_and_leaves_no_process(up):
    ready(up)
    accepted = [call(up, "/v1/models/iris/jobs", _IRIS)[1]["id"] for _ in range(20)]
    assert up.stop() == 0
    assert up.processes() == {}
    ready(up)
    for job_id in accepted:
        assert call(up, f"/v1/jobs/{job_id}?wait=10")[1]["status"] == "finished"


def test_a_killed_yard_leaves_no_process_and_the_next_one_starts(up):
    ready(up)
    up.process.kill()
    up.process.wait()
    wait_until(lambda: up.processes() == {}, 60, "all that it started is gone")
    ready(up)
    assert call(up, "/v1/models/iris/predict", _IRIS)[1]["status"] == "finished"


@pytest.mark.parametrize("name", ["gateway", "pool"])
def test_a_killed_child_is_replaced_and_serves_again(up, name):
    ready(up)
    pid = next(p for p, words in up.processes().items() if words.endswith(f"modelyard.cli {name}"))
    subprocess.run(["kill", "-9", str(pid)], check=True)
    up.wait_for(f"The {name} has ended", 20)

    def serves() -> bool:
        try:
            return bool(call(up, "/v1/models/iris/predict", _IRIS)[1]["status"] == "finished")
        except OSError:
            return False

    wait_until(serves, 60, "a prediction")


def pool_of(up: RunningYard) -> psutil.Process | None:
    for pid, words in up.processes().items():
        if words.endswith("modelyard.cli pool") and "-I" not in words:
            return psutil.Process(pid)
    return None


def test_a_pool_that_is_killed_under_load_is_replaced_and_loses_no_job(up):
    ready(up)
    with ExitStack() as stack:
        redis = stack.enter_context(Redis.from_url(up.redis_url))
        client = stack.enter_context(closing(Client(up.redis_url)))
        handles, is_over = [], threading.Event()

        def load() -> None:
            while not is_over.wait(0.005):
                handles.append(client.submit("iris", instances=_IRIS["instances"]))

        thread = threading.Thread(target=load)
        thread.start()
        stack.callback(thread.join)
        stack.callback(is_over.set)
        wait_until(lambda: len(handles) > 100, 60)
        killed = pool_of(up)
        assert killed is not None
        (known,) = read_presence(redis).pools
        family = killed.children(recursive=True)
        killed.kill()
        killed_at = time.perf_counter()
        wait_until(lambda: known.name not in _working_pools(redis), 60, "another pool looks")
        took_s = time.perf_counter() - killed_at
        wait_until(lambda: _serving_workers(redis) and handles[-1].wait(60), 60)
        print(f"another pool after {took_s:.1f} s")  # noqa: T201
        is_over.set()
        thread.join()
        assert {handle.wait(60).status for handle in handles} == {JobStatus.FINISHED}
        _, alive = psutil.wait_procs(family, 20)
        assert not alive, "none of the old one's processes is left"


def _working_pools(redis: Redis) -> list[str]:
    """The pool that looked last, alone: a killed one is present for a while."""
    pools = sorted(read_presence(redis).pools, key=lambda pool: pool.looked_s)
    return [pool.name for pool in pools[:1]]


def _serving_workers(redis: Redis) -> int:
    return read_presence(redis).count("idle") + read_presence(redis).count("busy")


def test_the_doctor_finds_the_running_yard_and_nothing_wrong(shared):
    done = modelyard(shared, "doctor", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"]) == (0, True), done.stdout
    assert told["redis_url"] == shared.redis_url
    assert told["store"] == str(shared.folder / "store")


def test_a_taken_port_is_one_line_and_status_1(shared):
    with running_yard(shared.folder / "other") as second:
        second.folder.mkdir()
        second.environ["MODELYARD_PORT"] = str(shared.port)
        second.start()
        assert second.process.wait(60) == 1
        assert second.said.startswith(f"error: port {shared.port} on 127.0.0.1 is taken")
        assert second.said.count("\n") == 1
