"""A worker's own threads outlive whatever is raised in them."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from tests.helpers.waiting import wait_until
from worker.process import rq_commands
from worker.process.heartbeat import Heartbeat
from worker.process.rq_commands import CommandListener
from yard.contract import keys, wire
from yard.settings import Settings


class Beats:
    """What the heartbeat calls, with a fault in one of its steps."""

    def __init__(self, broken: str, error: Exception) -> None:
        self.broken = broken
        self.error = error
        self.calls: dict[str, int] = {}

    def _call(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        if name == self.broken:
            raise self.error

    def on(self, _redis: Redis) -> Beats:
        return self

    worker = "w1"
    held = SimpleNamespace(token="w1.1", queue="iris@v1")
    known: tuple[str, ...] = ()

    def renew(self, _token: str) -> bool:
        self._call("renew")
        return True

    def unwritten(self) -> dict[str, Any]:
        self._call("paces")
        return {}

    def beat(self, *_: Any) -> None:
        self._call("beat")

    def loaded(self) -> dict[str, int]:
        return {}

    def failures(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("error", [ZeroDivisionError(), ResponseError("WRONGTYPE")], ids=repr)
@pytest.mark.parametrize("broken", ["renew", "paces", "beat"])
def test_the_heartbeat_goes_on_and_takes_its_other_steps(
    redis_url: str, broken: str, error: Exception
):
    beats: Any = Beats(broken, error)
    settings = Settings.load({"MODELYARD_LEASE_S": "1"})
    heartbeat = Heartbeat(redis_url, settings, beats, beats, beats, beats, beats, beats)
    stopped = threading.Event()
    thread = heartbeat.thread(stopped)
    thread.start()
    try:
        steps = ("renew", "paces", "beat")
        wait_until(lambda: all(beats.calls.get(name, 0) >= 2 for name in steps))
        assert thread.is_alive()
    finally:
        stopped.set()
        thread.join(10)


@pytest.mark.parametrize("step", ["Subscription", "cancel_job"])
def test_the_command_listener_goes_on(
    redis: Redis, redis_url: str, step: str, monkeypatch: pytest.MonkeyPatch
):
    calls = []
    whole = getattr(rq_commands, step)

    def fail_once(*arguments: Any) -> Any:
        calls.append(step)
        if len(calls) == 1:
            raise ZeroDivisionError
        return whole(*arguments)

    monkeypatch.setattr(rq_commands, step, fail_once)
    stopped = threading.Event()
    thread = CommandListener(redis_url, "w1", Settings.load({})).thread(stopped)
    thread.start()
    command = wire.dumps({"command": "stop-job", "job_id": "a-job"})
    try:
        wait_until(lambda: redis.publish(keys.key("pubsub", "w1"), command) and len(calls) >= 2)
        assert thread.is_alive()
    finally:
        stopped.set()
        thread.join(10)
