"""`modelyard up` as a parent: what it does when its children behave, and when they do not.

The gateway, the pool and the examples are small stand-ins here, so that they can misbehave on
purpose; Redis is real. The whole of Modelyard is started in `tests/acceptance/test_up.py`.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from modelyard.up.redis_server import find_server
from tests.helpers.waiting import wait_until
from tests.helpers.yards import RunningYard, running_yard
from yard import local
from yard.errors import ConfigurationError
from yard.platform import extras

_COMMON = """
import os, signal, subprocess, sys, threading, time
from pathlib import Path
import click
from yard.platform import signals

def note(text):
    with open("journal.txt", "a") as file:
        file.write(text + "\\n")

def mode(name):
    file = Path(name + ".mode")
    return file.read_text() if file.exists() else ""

def on_term():
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signals.release()  # they were held since this was started, as every command does that drains
    return stop

def wait_for_term(name, stop):
    note(name + " started")
    stop.wait()
    while mode(name) == "deaf":
        time.sleep(0.01)
    note(name + " stopped, redis " + answers())

def answers():
    from yard.broker import connections
    try:
        with connections.fast(os.environ["MODELYARD_REDIS_URL"]) as redis:
            return str(redis.ping())
    except Exception as error:
        return type(error).__name__
"""

_GATEWAY = (
    _COMMON
    + """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        note("asked")
        ready = mode("gateway") != "unready"
        self.send_response(200 if ready else 503)
        self.end_headers()
        self.wfile.write(b'{"detail": "no model is servable"}')
    def log_message(self, *_):
        pass

@click.command()
def gateway():
    if mode("gateway") == "refuses":
        sys.exit("error: the gateway does not like it here")
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["MODELYARD_PORT"])), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print('{"level": "info", "event": "dull"}')
    print('{"level": "warning", "event": "interesting", "model": "iris"}')
    wait_for_term("gateway", on_term())
"""
)

_POOL = (
    _COMMON
    + """
@click.command()
def pool():
    stop = on_term()  # before there is a worker, which nobody else would end
    worker = subprocess.Popen(["sleep", "600"], start_new_session=mode("pool") == "deaf")
    note("worker %d" % worker.pid)
    wait_for_term("pool", stop)
    worker.kill()
    worker.wait()
"""
)

_EXAMPLES = (
    _COMMON
    + """
@click.command()
@click.option("--if-empty", is_flag=True)
def examples(if_empty):
    while mode("examples") == "slow":
        time.sleep(0.01)
    note("examples published")
    sys.exit(3 if mode("examples") == "fails" else 0)
"""
)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[RunningYard]:
    """A yard whose other commands are the stand-ins."""
    try:
        find_server()
    except ConfigurationError as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(error.message)
    packages = tmp_path / "packages"
    stand_ins = {"gateway": _GATEWAY, "pool": _POOL, "publish": _EXAMPLES}
    (packages / "commands").mkdir(parents=True)
    for name, code in stand_ins.items():
        (packages / "commands" / f"{name}.py").write_text(code)
    first = f"__path__.insert(0, {str(packages / 'commands')!r})"
    hook = f"import modelyard.commands\nmodelyard.commands.{first}\n"
    (packages / "sitecustomize.py").write_text(hook)
    here = tmp_path / "here"
    here.mkdir()
    paths = [str(packages)] + ([] if extras.is_installed() else [str(extras.root())])
    with running_yard(here, {"PYTHONPATH": os.pathsep.join(paths)}) as found:
        yield found


def journal(up: RunningYard) -> list[str]:
    file = up.folder / "journal.txt"
    return file.read_text().splitlines() if file.exists() else []


def set_mode(up: RunningYard, name: str, mode: str) -> None:
    (up.folder / f"{name}.mode").write_text(mode)


def pid_of(up: RunningYard, command: str) -> int:
    """The process of one of the yard's commands."""
    return next(pid for pid, words in up.processes().items() if words.endswith(command))


def pressed_again(up: RunningYard) -> bool:
    """Press Ctrl-C; whether that was the end."""
    up.process.send_signal(signal.SIGINT)
    return up.process.poll() is not None


def is_there(redis: Redis) -> bool:
    """Whether Redis answers, and with what was written before."""
    try:
        return redis.get("modelyard:active:iris") == b"v2"
    except RedisConnectionError:
        return False


def test_ctrl_c_stops_gateway_then_pool_then_redis_and_leaves_nothing(up):
    up.start()
    up.wait_for("Modelyard is ready")
    assert up.stop() == 0
    stops = [line for line in journal(up) if "stopped" in line]
    assert stops == ["gateway stopped, redis True", "pool stopped, redis True"]
    assert up.processes() == {}
    assert local.running(up.data) is None
    assert not (up.data / "yard.json").exists()


def test_sigterm_stops_as_ctrl_c_does(up):
    up.start()
    up.wait_for("Modelyard is ready")
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(60) == 0
    assert up.processes() == {}


def test_the_banner_tells_what_to_try_and_logs_tell_what_is_worth_it(up):
    up.start()
    up.wait_for("gateway: warning: interesting (model=iris)")
    up.wait_for("Modelyard is ready")
    for text in (f"http://127.0.0.1:{up.port}/docs", "redis-cli -s ", "data/logs", "Ctrl-C"):
        assert text in up.said
    assert "dull" not in up.said
    assert up.redis_url.startswith("unix://")


def test_a_killed_parent_leaves_no_process_behind(up):
    up.start()
    up.wait_for("Modelyard is ready")
    assert len(up.processes()) >= 4
    up.process.kill()
    wait_until(lambda: up.processes() == {}, 60, "all children are gone")


def test_a_killed_yard_is_no_obstacle_for_the_next_and_its_data_is_there(up):
    up.start()
    up.wait_for("Modelyard is ready")
    with Redis.from_url(up.redis_url) as redis:
        redis.set("modelyard:active:iris", "v2")
    up.process.kill()
    up.process.wait()
    up.start()
    up.wait_for("Modelyard is ready")
    with Redis.from_url(up.redis_url) as redis:
        assert redis.get("modelyard:active:iris") == b"v2"


@pytest.mark.parametrize("name", ["gateway", "pool"])
def test_a_child_that_dies_is_started_again(up, name):
    up.start()
    up.wait_for("Modelyard is ready")
    wait_until(lambda: f"{name} started" in journal(up))
    os.kill(pid_of(up, f"modelyard.cli {name}"), signal.SIGKILL)
    up.wait_for(f"The {name} has ended (SIGKILL): starting it again")
    wait_until(lambda: journal(up).count(f"{name} started") == 2, 60, "it is there again")
    assert up.stop() == 0
    assert up.processes() == {}


def test_a_redis_that_dies_comes_back_with_its_data(up):
    up.start()
    up.wait_for("Modelyard is ready")
    server = pid_of(up, "redis.sock")
    with Redis.from_url(up.redis_url) as redis:
        redis.set("modelyard:active:iris", "v2")
        os.kill(server, signal.SIGKILL)
        up.wait_for("Redis has ended")
        wait_until(lambda: is_there(redis), 60, "Redis is back, with its data")
    assert up.stop() == 0


def test_the_next_yard_waits_for_a_killed_one_s_gateway_to_leave_the_port(up):
    set_mode(up, "gateway", "deaf")
    up.start()
    up.wait_for("Modelyard is ready")
    old = pid_of(up, "modelyard.cli gateway")
    up.process.kill()
    up.process.wait()
    up.start()
    wait_until(lambda: set(up.processes()) == {old, up.process.pid}, 60, "one has gone, one waits")
    assert up.said == ""
    set_mode(up, "gateway", "")
    up.wait_for("Modelyard is ready")


def test_a_second_ctrl_c_kills_what_does_not_listen_and_all_below_it(up):
    set_mode(up, "pool", "deaf")
    up.start()
    up.wait_for("Modelyard is ready")
    up.process.send_signal(signal.SIGINT)
    up.wait_for("Stopping")
    wait_until(lambda: "gateway stopped, redis True" in journal(up))
    assert up.process.poll() is None
    wait_until(lambda: pressed_again(up), 60, "it ends", interval_s=0.3)
    assert up.process.returncode == 0
    assert up.processes() == {}


def test_a_signal_that_comes_twice_at_once_is_one_request_and_drains(up):
    """A SIGTERM to the process group of `make run` comes from the sender and from make."""
    up.start()
    up.wait_for("Modelyard is ready")
    up.process.send_signal(signal.SIGTERM)
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0
    assert journal(up)[-1] == "pool stopped, redis True"


def test_a_child_that_does_not_start_ends_the_yard_with_its_own_words(up):
    set_mode(up, "gateway", "refuses")
    up.start()
    assert up.process.wait(60) == 1
    assert "error: `modelyard gateway` did not start: the gateway does not like it here" in up.said
    assert "Traceback" not in up.said
    assert up.processes() == {}


def test_examples_that_fail_end_the_yard(up):
    set_mode(up, "examples", "fails")
    up.start()
    assert up.process.wait(60) == 1
    assert "error: `modelyard examples` did not start" in up.said


def test_ready_means_that_the_examples_are_published_too_and_they_are_published_once(up):
    set_mode(up, "examples", "slow")
    up.start()
    wait_until(lambda: journal(up).count("asked") > 4, what="the gateway has said that it is ready")
    assert "Modelyard is ready" not in up.said
    set_mode(up, "examples", "")
    up.wait_for("Modelyard is ready")
    assert up.stop() == 0
    assert journal(up).count("examples published") == 1
    assert "has ended" not in up.said


def test_a_taken_port_is_told_before_anything_else_starts(up):
    with socket.socket() as other:
        other.bind(("127.0.0.1", up.port))
        other.listen()
        up.start()
        assert up.process.wait(60) == 1
    assert f"error: port {up.port} on 127.0.0.1 is taken" in up.said
    assert up.said.count("\n") == 1
    assert journal(up) == []
    assert up.processes() == {}


def test_the_user_s_own_folders_and_files_are_not_taken_for_ours(up):
    for name in ("gateway.py", "models.py", "worker.py", "click.py"):
        (up.folder / name).write_text("raise SystemExit('this is mine')")
    up.start()
    up.wait_for("Modelyard is ready")


def test_a_second_yard_on_the_same_folder_is_refused_and_harms_nothing(up):
    up.start()
    up.wait_for("Modelyard is ready")
    with running_yard(up.folder, up.environ) as second:
        second._terminal = up.folder / "second.txt"
        second.start()
        assert second.process.wait(60) == 1
        assert (
            f"data' already (process {up.process.pid}, http://127.0.0.1:{up.port})" in second.said
        )
    assert local.running(up.data) is not None
    assert up.stop() == 0


def test_examples_are_not_published_where_the_store_and_the_catalogue_have_models(up):
    (up.folder / "store" / "mine" / "v1").mkdir(parents=True)
    (up.folder / "store" / "mine" / "v1" / "manifest.json").write_text("{}")
    up.start()
    up.wait_for("Modelyard is ready")
    assert "examples published" in journal(up)  # the catalogue is empty
    with Redis.from_url(up.redis_url) as redis:
        redis.sadd("modelyard:models", "mine")
    assert up.stop() == 0
    (up.folder / "journal.txt").unlink()
    up.start()
    up.wait_for("Modelyard is ready")
    assert "examples published" not in journal(up)


def test_a_redis_of_the_user_is_used_and_left_running(up, redis, redis_url):
    up.environ["MODELYARD_REDIS_URL"] = redis_url
    up.start()
    up.wait_for("Modelyard is ready")
    assert up.redis_url == redis_url
    assert not any("redis.sock" in words for words in up.processes().values())
    assert up.stop() == 0
    assert redis.ping()


def test_a_redis_of_the_user_that_is_not_there_is_told_in_one_line(up):
    up.environ["MODELYARD_REDIS_URL"] = "redis://127.0.0.1:1/0"
    up.start()
    assert up.process.wait(60) == 1
    assert up.said.startswith("error: Redis does not answer")
    assert up.said.count("\n") == 1
