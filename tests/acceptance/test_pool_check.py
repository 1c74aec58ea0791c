"""`modelyard pool --check`: the exit status is the answer to a container's health check."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

from redis import Redis

from tests.helpers.gateways import announce_pool
from tests.helpers.pools import running_pool
from tests.helpers.redis_server import RedisServer
from tests.helpers.waiting import wait_until
from tests.helpers.yards import clean_environ
from yard.cluster.presence import read_presence
from yard.contract import keys


def check(url: str, *options: str) -> tuple[int, str]:
    """The exit status, and what was said."""
    ran = subprocess.run(
        [sys.executable, "-m", "modelyard.cli", "pool", "--check", "--redis-url", url, *options],
        env=clean_environ(),
        capture_output=True,
        text=True,
    )
    return ran.returncode, ran.stdout + ran.stderr


def test_a_pool_that_runs_is_well_and_a_stopped_one_is_stuck_and_then_gone(
    redis: Redis, redis_url: str, tmp_path: Path
):
    with running_pool(redis_url, tmp_path / "store", tmp_path, pool_min=0) as pool:
        wait_until(lambda: check(redis_url)[0] == 0, 60, "it is well")
        (known,) = read_presence(redis).pools
        assert check(redis_url, "--name", known.name)[0] == 0
        pool.process.send_signal(signal.SIGSTOP)
        try:
            wait_until(lambda: read_presence(redis).pools[0].is_stuck, 60, "it is stuck")
            status, said = check(redis_url)
            assert status == 1
            assert f"{known.name} has completed no look at the queues for" in said
            assert said.count("\n") == 1
        finally:
            pool.process.send_signal(signal.SIGCONT)
        wait_until(lambda: check(redis_url)[0] == 0, 60, "it is well again")
    status, said = check(redis_url)
    assert (status, "no pool of workers is alive" in said) == (1, True)


def test_a_pool_of_another_host_says_nothing_of_this_one(redis: Redis, redis_url: str):
    announce_pool(redis, "there", host="elsewhere", idle=1)
    assert check(redis_url)[0] == 1
    assert check(redis_url, "--name", "there")[0] == 0
    announce_pool(redis, "stuck", host=socket.gethostname(), looked_s=keys.STUCK_S + 1)
    assert check(redis_url)[0] == 1
    announce_pool(redis, "well", host=socket.gethostname())
    assert check(redis_url)[0] == 0


def test_without_redis_the_check_fails_in_one_line(redis_url: str, redis_server: RedisServer):
    redis_server.kill()
    status, said = check(redis_url)
    assert (status, said.count("\n")) == (1, 1)
    assert "Redis" in said


def test_a_name_without_a_check_is_a_usage_error():
    ran = subprocess.run(
        [sys.executable, "-m", "modelyard.cli", "pool", "--name", "x"],
        env=clean_environ(),
        capture_output=True,
    )
    assert ran.returncode == 2


def test_the_check_imports_nothing_heavy(tmp_path: Path):
    script = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from modelyard import cli\n"
        "CliRunner().invoke(cli.main, ['pool', '--check', '--redis-url', 'redis://127.0.0.1:1'])\n"
        "assert 'redis' in sys.modules\n"
        "heavy = {'numpy', 'rq', 'structlog', 'psutil', 'worker', 'models'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], env=clean_environ(), cwd=tmp_path)
    assert ran.returncode == 0
