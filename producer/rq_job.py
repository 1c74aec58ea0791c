"""A safe RQ `Job` class, for RQ's own tools on our queues.

RQ's job unpickles, imports any name that a payload gives and inflates without a bound. `SafeJob`
reads payloads as `yard.contract.payload` does, and calls only the one entry of a dictionary: ``rq
worker --job-class producer.SafeJob --serializer json``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rq.exceptions import NoSuchJobError
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer

from yard.contract import JOB_ARGUMENTS, MAX_PAYLOAD_BYTES, TASK_NAME, decode_call, inflate_payload
from yard.errors import InvalidJob

#: Hash fields of a job that this project reads or writes; all others are dropped before RQ sees
#: them.
FIELDS = frozenset(
    {
        "created_at",
        "data",
        "description",
        "ended_at",
        "enqueued_at",
        "failure_ttl",
        "last_heartbeat",
        "origin",
        "result_ttl",
        "started_at",
        "status",
        "timeout",
        "worker_name",
    }
)


def predict(**arguments: Any) -> Any:
    """Calls `worker.tasks.predict`, imported only where a job is run."""
    from importlib import import_module

    return import_module("worker.tasks").predict(**arguments)


#: Every callable that a job can name.
CALLABLES: Mapping[str, Callable[..., Any]] = {TASK_NAME: predict}


class SafeJob(RqJob):
    """RQ's job with nothing in it that Redis could use to run code.

    Raises `InvalidJob` from `restore` and `func` where RQ would import or unpickle.
    """

    def __init__(self, id: str | None = None, connection: Any = None, serializer: Any = None):
        # RQ's default is pickle, also for a result; a caller that forgets the argument must be
        # safe.
        super().__init__(id, connection=connection, serializer=JSONSerializer)

    def restore(self, raw_data: Mapping[bytes | str, bytes]) -> Any:
        """Restores only known fields, bounded, from a job hash."""
        named = {
            (k.decode("latin-1") if isinstance(k, bytes) else k): v for k, v in raw_data.items()
        }
        known = {name: value for name, value in named.items() if name in FIELDS}
        if "data" in known:
            known["data"] = inflate_payload(known["data"], MAX_PAYLOAD_BYTES)
        try:
            return super().restore(known)
        except NoSuchJobError:
            raise
        except Exception as error:  # RQ raises another error for each field, even an assertion
            raise InvalidJob(f"job {self.id} has a malformed field: {str(error)[:200]}") from None

    def _deserialize_data(self) -> None:
        call = decode_call(self.data)
        self._func_name, self._instance, self._args = TASK_NAME, None, ()
        self._kwargs = {name: v for name in JOB_ARGUMENTS if (v := getattr(call, name)) is not None}

    @property
    def func(self) -> Callable[..., Any]:
        """The callable of the dictionary."""
        found = CALLABLES.get(self.func_name or "")
        if found is None:
            raise InvalidJob(f"not allowed: the only function is {TASK_NAME!r}")
        return found

    @property
    def success_callback(self) -> None:
        """Callbacks are names that Redis gives: never imported."""
        return None

    @property
    def failure_callback(self) -> None:
        """Callbacks are names that Redis gives: never imported."""
        return None

    @property
    def stopped_callback(self) -> None:
        """Callbacks are names that Redis gives: never imported."""
        return None

    def send_webhooks(self, *_args: Any, **_kwargs: Any) -> None:
        """Webhooks are addresses that Redis gives: never fetched."""
