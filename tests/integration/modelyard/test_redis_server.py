"""The yard's own Redis: it starts, keeps what it holds, and never outlives its starter."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from modelyard.up.redis_server import EmbeddedRedis, Server, find_server
from tests.helpers.waiting import wait_until
from tests.helpers.yards import clean_environ
from yard import local
from yard.broker import connections
from yard.errors import ConfigurationError

_PARENT = """
import sys, time
from pathlib import Path
from modelyard.up.redis_server import EmbeddedRedis
redis = EmbeddedRedis(Path(sys.argv[1]))
redis.start()
print(redis.pid, redis.url, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def server() -> Server:
    """The program, or no test: skipped at home, failed in CI."""
    try:
        return find_server()
    except ConfigurationError as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(error.message)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A server on a folder of its own, not yet started."""
    found = EmbeddedRedis(tmp_path / "data")
    yield found
    found.stop()


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def keep_busy(url: str) -> None:
    """Let the server do nothing else until it is killed; stopping it would not do, for the kernel
    wakes stopped processes whose group is orphaned."""
    with connections.blocking(url, 60) as redis, contextlib.suppress(RedisError):
        redis.eval("while true do end", 0)


def busy_ticks(pid: int) -> int:
    """The process' processor time, in the kernel's ticks of 10 ms."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def program(path: Path, says: str) -> Path:
    """A program that only prints something."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def test_it_starts_answers_and_stops(own):
    own.start()
    pid = own.pid
    with connections.fast(own.url) as redis:
        assert redis.ping()
        connections.check_server(redis)
    own.stop()
    assert is_gone(pid)
    assert own.pid is None


def test_it_is_set_up_to_lose_nothing_and_to_listen_to_nobody_else(own):
    own.start()
    with connections.fast(own.url) as redis:
        for name, value in {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "port": "0",
        }.items():
            assert redis.config_get(name) == {name: value}
    assert stat.S_IMODE(own.socket.stat().st_mode) == 0o700
    assert stat.S_IMODE(own.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(own.log.stat().st_mode) & 0o077 == 0


def test_what_it_holds_is_there_after_a_restart(own):
    own.start()
    with connections.fast(own.url) as redis:
        redis.rpush("rq:queue:iris@v1", "a", "b")
    own.stop()
    own.start()
    with connections.fast(own.url) as redis:
        assert redis.lrange("rq:queue:iris@v1", 0, -1) == [b"a", b"b"]


def test_what_it_held_a_moment_ago_is_there_after_it_was_killed(own):
    own.start()
    with connections.fast(own.url) as redis:
        redis.rpush("rq:queue:iris@v1", "a")
        assert own.pid is not None
        os.kill(own.pid, signal.SIGKILL)
        wait_until(lambda: own.has_ended)
        own.start()
        assert redis.lrange("rq:queue:iris@v1", 0, -1) == [b"a"]


def test_it_dies_with_its_parent_even_if_that_is_killed(tmp_path):
    data = tmp_path / "data"
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(data)],
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environ(),
    )
    assert parent.stdout is not None
    with parent.stdout:
        pid, url = parent.stdout.readline().split()
        with Redis.from_url(url) as redis:
            redis.set("modelyard:active:iris", "v2")
            parent.kill()
            parent.wait()
            wait_until(lambda: is_gone(int(pid)), 20, "Redis is gone")
    after = EmbeddedRedis(data)  # a socket and a lock file lie there, and do no harm
    after.start()
    with connections.fast(after.url) as redis:
        assert redis.get("modelyard:active:iris") == b"v2"
    after.stop()


def test_as_long_as_a_killed_parent_s_server_lives_nobody_else_gets_its_file(tmp_path):
    data = tmp_path / "data"
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(data)],
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environ(),
    )
    assert parent.stdout is not None
    with parent.stdout:
        pid, url = parent.stdout.readline().split()
    before = busy_ticks(int(pid))
    thread = threading.Thread(target=keep_busy, args=(url,))
    thread.start()  # slow to end, as one with much to write would be
    wait_until(lambda: busy_ticks(int(pid)) > before + 20, what="the server is busy")
    parent.kill()
    parent.wait()
    with pytest.raises(ConfigurationError, match="earlier yard"):
        local.hold(data, wait_s=0.2)
    os.kill(int(pid), signal.SIGKILL)
    os.close(local.hold(data))
    assert is_gone(int(pid))
    thread.join()


def test_a_second_one_on_the_same_folder_is_refused(own):
    own.start()
    me = os.getpid()
    local.write(own.data, local.Yard(me, local.birth(me), own.url, "http://here", "/store", "now"))
    with pytest.raises(ConfigurationError, match=f"process {me}.*MODELYARD_DATA"):
        EmbeddedRedis(own.data).start()
    with connections.fast(own.url) as redis:
        assert redis.ping()


def test_a_folder_whose_path_is_too_long_for_a_socket_gets_a_private_one(tmp_path):
    long = EmbeddedRedis(tmp_path / ("d" * 60) / ("e" * 60))
    long.start()
    try:
        assert long.has_moved
        assert stat.S_IMODE(long.socket.parent.stat().st_mode) == 0o700
        with connections.fast(long.url) as redis:
            assert redis.ping()
        place = long.socket.parent
    finally:
        long.stop()
    assert not place.exists()


def test_a_path_with_spaces_signs_and_letters_works(tmp_path):
    odd = EmbeddedRedis(tmp_path / "my yard%20 ü#?")
    odd.start()
    try:
        with connections.fast(odd.url) as redis:
            assert redis.ping()
    finally:
        odd.stop()


def test_a_server_that_ends_at_once_is_told_with_its_last_words(own):
    own.folder.mkdir(parents=True)
    (own.folder / "appendonly.aof").write_text("rubbish\n")  # where Redis 6.2 keeps it, and 7 looks
    with pytest.raises(ConfigurationError, match=r"ended at its start.*redis\.log"):
        own.start()
    assert own.pid is None


def test_an_older_server_does_not_start_empty_over_what_a_newer_one_wrote(own, server):
    (own.folder / "appendonlydir").mkdir(parents=True)
    own.server = Server(server.path, (6, 2, 14))
    with pytest.raises(ConfigurationError, match="newer server"):
        own.start()


def test_no_answer_in_time_is_told_and_nothing_is_left(own, tmp_path):
    deaf = tmp_path / "deaf-server"
    deaf.write_text("#!/bin/sh\nexec sleep 600\n")
    deaf.chmod(0o755)
    own.server = Server(deaf, (7, 0))
    own.launch()
    pid = own.pid
    with pytest.raises(ConfigurationError, match="did not answer"):
        own.start(timeout_s=0.1)
    assert is_gone(pid)


def test_a_server_on_the_path_comes_first_if_it_is_new_enough(tmp_path, monkeypatch, server):
    old = program(tmp_path / "bin" / "valkey-server", "Valkey server v=6.0.16 sha=0 bits=64")
    new = program(tmp_path / "bin" / "redis-server", "Redis server v=7.0.15 sha=0 bits=64")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    assert find_server() == Server(new, (7, 0, 15))
    program(old, "Valkey server v=8.0.1 sha=0 bits=64")
    assert find_server() == Server(old, (8, 0, 1))


def test_without_any_server_the_error_names_what_was_found_and_what_to_do(tmp_path, monkeypatch):
    old = program(tmp_path / "bin" / "redis-server", "Redis server v=5.0.1 sha=0 bits=64")
    odd = program(tmp_path / "bin" / "valkey-server", "Segmentation fault")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setattr("shutil.which", lambda name: str(tmp_path / "bin" / name))
    with pytest.raises(ConfigurationError) as caught:
        find_server()
    for text in (f"{old} is 5.0.1", f"{odd} does not run here", "modelyard[embedded]"):
        assert text in caught.value.message
    assert "MODELYARD_REDIS_URL" in caught.value.message


def test_before_it_answers_it_is_not_ready_and_says_so_without_an_error(own):
    own.launch()
    assert own.is_ready() in (True, False)
    wait_until(own.is_ready)
