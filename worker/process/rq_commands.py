"""RQ's commands to a running worker: shut down, and stop a job.

``send_shutdown_command`` drains the worker, ``send_stop_job_command`` cancels the job (one of many
in a batch, so its worker is not killed for it), ``send_kill_horse_command`` finds no horse. An
unreadable command is logged and passed over; RQ's own listener would end for good.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import Any

from redis import Redis

from worker.queue import OUTAGE
from yard.broker import Subscription, connections
from yard.cancellation import cancel_job
from yard.contract import keys, wire
from yard.errors import ModelyardError
from yard.settings import Settings

_log = logging.getLogger(__name__)

#: Time limit of one read of the channel, in seconds.
_WAIT_S = 0.5


class CommandListener:
    """Listens on a worker's command channel.

    Args:
        url: The Redis.
        worker: The worker's name.
        settings: Times to live of jobs that a command ends.
    """

    def __init__(self, url: str, worker: str, settings: Settings) -> None:
        self._url = url
        self._channel = keys.key("pubsub", worker)
        self._settings = settings
        self._is_listening = threading.Event()

    def wait_until_subscribed(self, timeout_s: float) -> None:
        """Return when the channel is subscribed to: from then on no command is missed."""
        self._is_listening.wait(timeout_s)

    def thread(self, stopped: threading.Event) -> threading.Thread:
        """Return a thread that listens until ``stopped`` is set."""
        return threading.Thread(target=self._run, args=(stopped,), name="commands", daemon=True)

    def _run(self, stopped: threading.Event) -> None:
        while not stopped.is_set():
            try:
                self._listen(stopped)
            except OUTAGE as error:
                _log.debug("commands: Redis is away: %s", error)
                stopped.wait(_WAIT_S)
            except Exception:  # over an unforeseen command: the worker must go on listening
                _log.exception("commands: the worker goes on listening")
                stopped.wait(_WAIT_S)

    def _listen(self, stopped: threading.Event) -> None:
        with (
            connections.steady(self._url) as redis,
            Subscription(self._url, self._channel, _WAIT_S) as subscription,
        ):
            while not stopped.is_set():
                command = subscription.next()
                if subscription.is_confirmed:
                    self._is_listening.set()
                if command is not None:
                    self._handle(redis, command)

    def _handle(self, redis: Redis, data: Any) -> None:
        try:
            command = wire.loads(data)
            match command:
                case {"command": "shutdown"}:
                    os.kill(os.getpid(), signal.SIGTERM)
                case {"command": "stop-job", "job_id": str(job_id)}:
                    cancel_job(redis, job_id, self._settings.result_ttl_s)
                case {"command": str(name)}:
                    _log.info("the command %.40r means nothing to this worker", name)
                case _:
                    _log.warning("a command that is none was passed over")
        except ModelyardError as error:
            _log.warning("a command could not be obeyed: %s", error.message)
