"""Signals to processes that start: none of ours dies of one, and none misses it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from tests.helpers.stand_ins import publish
from tests.helpers.yards import clean_environ, free_port
from yard.contract import keys
from yard.platform import pdeathsig, signals
from yard.settings import Settings


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "command",
    [
        ["modelyard.cli", "pool"],
        ["modelyard.cli", "gateway"],
        ["worker.process.worker", "w1", "", "*"],
    ],
    ids=["pool", "gateway", "worker"],
)
def test_one_that_is_told_to_stop_at_its_first_instant_leaves_with_status_0(
    redis: Redis, redis_url: str, tmp_path: Path, command: list[str], number: signal.Signals
):
    publish(redis, "iris", "v1", active="v1")
    settings = Settings.load({}, redis_url=redis_url, store=str(tmp_path), port=free_port())
    with (tmp_path / "log").open("wb") as log, signals.held():
        process = subprocess.Popen(
            pdeathsig.command([sys.executable, "-P", "-m", *command], signal.SIGKILL),
            env=clean_environ() | settings.environ(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
        )
    process.send_signal(number)
    assert process.wait(60) == 0, (tmp_path / "log").read_text()
    assert not redis.exists(keys.WORKERS)
    assert not redis.zrange(keys.PRESENCE, 0, -1)


def test_a_command_holds_signals_by_itself_before_its_libraries_are_there(tmp_path: Path):
    """Shells and container runtimes start it without `signals.held`."""
    script = (
        "import signal, sys, modelyard.cli as cli\n"
        "cli.main.get_command(None, 'pool')\n"
        "assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])\n"
        "assert 'numpy' not in sys.modules and 'redis' not in sys.modules\n"
        "cli.main.get_command(None, 'models')\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], env=clean_environ(), cwd=tmp_path)
    assert ran.returncode == 0


def test_a_child_that_was_started_under_held_signals_gets_them_when_it_listens():
    script = (
        "import os, signal\n"
        "from yard.platform.signals import StopSignals\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "with StopSignals() as stops: print(stops.count)\n"
    )
    with signals.held():
        ran = subprocess.run(
            [sys.executable, "-c", script], env=clean_environ(), stdout=subprocess.PIPE
        )
    assert (ran.returncode, ran.stdout) == (0, b"1\n")
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
