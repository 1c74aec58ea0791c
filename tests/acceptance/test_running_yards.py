"""`modelyard status`, `logs` and `stop`: two yards, seen from another folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.waiting import wait_until
from tests.helpers.yards import RunningYard, running_yard
from yard import local

pytestmark = pytest.mark.timeout(240)


def run(folder: Path, environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "modelyard.cli", *words],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def yards(tmp_path: Path) -> Iterator[tuple[RunningYard, RunningYard, dict[str, str]]]:
    """Yards `shop` and `lab` with one state folder, and the environment of another shell."""
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    for name in ("shop", "lab", "elsewhere"):
        (tmp_path / name).mkdir()
    with (
        running_yard(tmp_path / "shop", state) as shop,
        running_yard(tmp_path / "lab", state) as lab,
    ):
        shop.start()
        shop.wait_for("Modelyard is ready", 120)
        environ = {k: v for k, v in shop.environ.items() if not k.startswith("MODELYARD_")}
        yield shop, lab, environ


def test_yards_are_seen_followed_and_stopped_from_another_folder(yards, tmp_path):
    """One yard needs no name, of two each is named, and each command sees the one it should."""
    shop, lab, environ = yards
    elsewhere = tmp_path / "elsewhere"
    known = json.loads(run(elsewhere, environ, "status", "--json").stdout)
    assert (known["name"], known["ready"], known["workers"]) == ("shop", True, 1)
    assert known["gateway"] == f"http://127.0.0.1:{shop.port}"
    submitted = run(elsewhere, environ, "submit", "iris", "[[5.1, 3.5, 1.4, 0.2]]", "--wait")
    assert "setosa" in submitted.stdout, submitted.stderr

    lab.start()
    lab.wait_for("Modelyard is ready", 120)
    several = run(elsewhere, environ, "status")
    assert several.returncode == 1
    assert f"lab ({lab.data}, " in several.stderr
    assert f"shop ({shop.data}, " in several.stderr
    assert "--yard" in several.stderr
    shown = run(elsewhere, environ, "status", "--yard", "lab")
    assert shown.returncode == 0
    assert "state    ready" in shown.stdout
    assert json.loads(run(lab.folder, environ, "status", "--json").stdout)["name"] == "lab"
    logged = run(elsewhere, environ, "logs", "--yard", str(shop.folder), "-n", "2")
    assert {line.split()[0] for line in logged.stdout.splitlines()} >= {"gateway", "pool", "redis"}

    stopped = run(elsewhere, environ, "stop", "--yard", "shop")
    assert stopped.returncode == 0, stopped.stderr
    assert "stopped shop" in stopped.stdout
    assert shop.process.wait(10) == 0
    assert shop.processes() == {}
    assert json.loads(run(elsewhere, environ, "status", "--json").stdout)["name"] == "lab"
    after = run(shop.folder, environ | {"MODELYARD_DATA": "data"}, "logs", "pool")
    assert after.returncode == 0
    assert len(after.stdout.splitlines()) > 1

    assert run(elsewhere, environ, "stop", "--now").returncode == 0
    nothing = run(elsewhere, environ, "stop")
    assert nothing.returncode == 1
    assert "no yard is running" in nothing.stderr


def test_a_yard_that_does_not_stop_in_time_is_told_with_status_1(yards, tmp_path):
    shop, _, environ = yards
    os.kill(shop.process.pid, signal.SIGSTOP)
    late = run(tmp_path / "elsewhere", environ, "stop", "--timeout", "0.2")
    assert late.returncode == 1
    assert "has not ended within 0.2 s" in late.stderr
    os.kill(shop.process.pid, signal.SIGCONT)
    wait_until(lambda: local.running(shop.data) is None, 60, "the yard has stopped")


def test_a_followed_log_shows_what_comes_and_ends_with_the_yard(yards, tmp_path):
    shop, _, environ = yards
    seen = tmp_path / "seen.txt"
    with seen.open("wb") as file:
        following = subprocess.Popen(
            [sys.executable, "-P", "-m", "modelyard.cli", "logs", "pool", "-f", "-n", "1"],
            cwd=tmp_path / "elsewhere",
            env=environ,
            stdout=file,
        )
    wait_until(lambda: seen.read_bytes().count(b"\n") >= 1, 60, "the last line is shown")
    log = shop.data / "logs" / "pool.log"
    log.replace(log.with_suffix(".log.1"))
    log.write_text("a line of the next log\n")
    wait_until(lambda: b"a line of the next log" in seen.read_bytes(), 60, "the next log is shown")
    assert run(tmp_path, environ, "stop").returncode == 0
    assert following.wait(60) == 0
