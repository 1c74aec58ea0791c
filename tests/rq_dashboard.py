"""Asks every page of rq-dashboard about a yard of ours: all must answer 200.

rq-dashboard brings RQ and Flask of its own choice, so it has an environment of its own, which takes
long to install; this is run by hand, not by pytest:

    python -m venv /tmp/dash && /tmp/dash/bin/pip install rq-dashboard
    .venv/bin/python -m tests.rq_dashboard /tmp/dash/bin/python
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from datetime import timedelta
from pathlib import Path

import click
from rq import Queue
from rq.serializers import JSONSerializer

from models.publish.publisher import publish
from models.store.repository import Repository
from producer import Client
from tests.helpers import estimators
from tests.helpers.pools import running_pool
from tests.helpers.redis_server import RedisServer, patient
from tests.helpers.waiting import wait_until
from tests.helpers.yards import free_port
from yard.contract import keys
from yard.contract.values import TASK_NAME

QUEUE = "echo@v1"
_REGISTRIES = ("queued", "finished", "failed", "canceled", "deferred", "scheduled", "started")


def ask(url: str) -> tuple[int, bytes]:
    """The status and body of a page."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def main(python: str) -> int:
    """Print each page with its status; return the number of those that are not 200."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        server = RedisServer(folder)
        server.start()
        try:
            return _run(python, folder, server)
        finally:
            server.kill()


def _run(python: str, folder: Path, server: RedisServer) -> int:
    redis = server.client()
    echo = estimators.Echo().fit([[1.0]])
    publish(Repository(folder / "store"), redis, echo, "echo", "v1", [[1.0]], activate=True)
    client = Client(patient(server.url))
    queue = Queue(QUEUE, connection=redis, serializer=JSONSerializer)
    with running_pool(server.url, folder / "store", folder, pool_max=2, pool_min=2) as pool:
        pool.wait_for_workers(redis, 2)
        done = client.submit("echo", instances=[[1.0]])
        done.wait(60)
        failed = client.submit("echo", instances=[[estimators.RAISE]])
        failed.wait(60)
        canceled = client.submit("echo", instances=[[estimators.HANG]])
        wait_until(lambda: canceled.get().started_at, 60)
        started = client.submit("echo", instances=[[estimators.HANG]])
        canceled.cancel()
        wait_until(lambda: started.get().started_at, 60)
        queue.enqueue(TASK_NAME, instances=[[2.0]], depends_on=started.id, job_id="deferred")
        queue.enqueue_in(timedelta(hours=1), TASK_NAME, instances=[[2.0]], job_id="scheduled")
        redis.set(keys.SUSPENDED, 1)
        waiting = client.submit("echo", instances=[[3.0]])
        ids = [done.id, failed.id, canceled.id, started.id, waiting.id, "deferred", "scheduled"]
        port = free_port()
        dashboard = subprocess.Popen(
            [
                python,
                "-m",
                "rq_dashboard",
                "--json",
                "-b",
                "127.0.0.1",
                "-p",
                str(port),
                "-u",
                server.url,
            ],
            stdout=subprocess.DEVNULL,
            stderr=(folder / "dashboard.log").open("wb"),
        )
        base = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: _answers(base), 60, "rq-dashboard answers", 0.1)
            return _crawl(base, ids)
        finally:
            dashboard.terminate()
            dashboard.wait(60)
            click.echo((folder / "dashboard.log").read_text()[-3000:])


def _answers(base: str) -> bool:
    try:
        ask(base)
    except OSError:
        return False
    return True


def _crawl(base: str, ids: list[str]) -> int:
    pages = ["/", "/0/view", "/0/view/queues", "/0/view/workers", "/0/view/jobs"]
    pages += ["/0/data/queues.json", "/0/data/workers.json"]
    pages += [f"/0/view/jobs/{QUEUE}/{name}/8/asc/1" for name in _REGISTRIES]
    pages += [f"/0/data/jobs/{QUEUE}/{name}/8/asc/1.json" for name in _REGISTRIES]
    pages += [f"/0/view/job/{job_id}" for job_id in ids]
    # rq-dashboard 0.9 fails on any job with dependencies: it decodes ids that RQ has decoded.
    pages += [f"/0/data/job/{job_id}.json" for job_id in ids if job_id != "deferred"]
    bad = 0
    for page in pages:
        status, body = ask(base + page)
        shown = ""
        if page.endswith("workers.json") and status == 200:
            shown = json.dumps(json.loads(body))[:400]
        click.echo(f"{status} {page} {shown}")
        bad += status != 200
    return bad


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
