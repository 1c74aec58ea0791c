"""Foreign payloads are read without running anything: attacks A1 to A8, as far as payloads go.

Every test runs with `pickle` and `importlib` set to raise, as if they were not there.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import os
import pickle
import subprocess
import tracemalloc
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
import rq.job
from fakeredis import FakeRedis
from hypothesis import given
from hypothesis import strategies as st
from rq import serializers, utils
from rq.exceptions import NoSuchJobError

from producer.rq_job import CALLABLES, SafeJob
from yard.contract import keys, wire
from yard.contract.payload import JOB_ARGUMENTS, MAX_PAYLOAD_BYTES, decode_call, encode_call
from yard.contract.values import TASK_NAME
from yard.errors import InvalidJob

DATA = encode_call({"instances": [[1.0]]})


class Pwned:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch {self.path}",)


def refuse(*_args: Any, **_kwargs: Any) -> NoReturn:
    raise AssertionError("something was unpickled, imported, run or fetched")


import_module = importlib.import_module


def only_the_tools_import(name: str, package: str | None = None) -> ModuleType:
    """Hypothesis imports parts of itself when they are first used."""
    return import_module(name, package) if name.startswith("hypothesis") else refuse()


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here may unpickle, import by name, start a process or open an address."""
    for module, name in [
        (pickle, "loads"),
        (pickle, "load"),
        (utils, "import_attribute"),
        (os, "system"),
        (subprocess, "Popen"),
        (urllib.request, "urlopen"),
    ]:
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(importlib, "import_module", only_the_tools_import)
    monkeypatch.setattr(rq.job, "import_attribute", refuse)
    monkeypatch.setattr(serializers.DefaultSerializer, "loads", refuse)


@pytest.fixture
def fake() -> FakeRedis:
    return FakeRedis()


def push(fake: FakeRedis, **fields: Any) -> str:
    """Write a job hash as another program might; None takes a field away."""
    known = {
        "status": "queued",
        "origin": "iris@v1",
        "created_at": "2026-01-02T03:04:05Z",
        "data": DATA,
    } | fields
    fake.hset(keys.key("job", "j1"), mapping={k: v for k, v in known.items() if v is not None})
    return "j1"


def read(fake: FakeRedis) -> rq.job.Job:
    """The job as RQ's tools read it."""
    return SafeJob.fetch("j1", connection=fake)


def call_of(value: Any) -> bytes:
    return wire.dumps(value)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("pack", [bytes, zlib.compress], ids=["plain", "zlib"])
def test_a_job_comes_back_as_it_was_pushed(pack: Callable[[bytes], bytes]):
    arguments = {
        "instances": [[1.0, 2]],
        "version": "v1",
        "routing_key": "u",
        "outputs": ["predictions"],
        "deadline_ms": 5,
    }
    call = decode_call(pack(encode_call(arguments)))
    assert {name: getattr(call, name) for name in arguments} == arguments
    assert call.inputs is None


@pytest.mark.parametrize("pack", [bytes, zlib.compress], ids=["plain", "zlib"])
def test_rqs_tools_read_a_good_job(fake: FakeRedis, pack: Callable[[bytes], bytes]):
    push(fake, data=pack(DATA), timeout="60", result_ttl="5")
    job = read(fake)
    assert job.func_name == TASK_NAME
    assert job.kwargs == {"instances": [[1.0]]}
    assert job.args == ()
    assert job.timeout == 60
    assert job.func is CALLABLES[TASK_NAME]


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "eval",
        "builtins.exec",
        "subprocess.check_output",
        "worker.tasks.other",
        "worker.tasks.predict ",
        "",
        None,
        5,
        ["worker.tasks.predict"],
        {"a": 1},
    ],
)
def test_only_the_one_function_is_allowed(fake: FakeRedis, name: Any):
    data = call_of([name, None, [], {}])
    with pytest.raises(InvalidJob, match="not allowed"):
        decode_call(data)
    push(fake, data=data)
    with pytest.raises(InvalidJob, match="not allowed"):
        read(fake).perform()


@pytest.mark.parametrize(
    "value",
    [
        ["zfill", "a", [10_000_000_000], {}],
        ["format", "{0.__class__}", [1], {}],
        [TASK_NAME, "a", [], {}],
        [TASK_NAME, {"a": 1}, [], {}],
        [TASK_NAME, None, [1], {}],
        [TASK_NAME, None, {}, {}],
        [TASK_NAME, None, "x", {}],
        [TASK_NAME, None, [], []],
        [TASK_NAME, None, [], None],
        [TASK_NAME, None, [], {"self": 1}],
        [TASK_NAME, None, [], {"instances": [], "depends_on": "x"}],
        [TASK_NAME, None, [], {"version": 5}],
        [TASK_NAME, None, [], {"version": "../v1"}],
        [TASK_NAME, None, [], {"routing_key": 5}],
        [TASK_NAME, None, [], {"deadline_ms": 0}],
        [TASK_NAME, None, [], {"deadline_ms": True}],
        [TASK_NAME, None, [], {"deadline_ms": "5"}],
        [TASK_NAME, None, []],
        [TASK_NAME, None, [], {}, 1],
        [],
        {},
        TASK_NAME,
        None,
        5,
    ],
)
def test_anything_but_keyword_arguments_of_ours_is_refused(fake: FakeRedis, value: Any):
    with pytest.raises(InvalidJob):
        decode_call(call_of(value))
    push(fake, data=call_of(value))
    with pytest.raises(InvalidJob):
        read(fake).perform()


@pytest.mark.parametrize(
    "text",
    [
        f"[{nested(1000)}, null, [], {{}}]",
        f'["{TASK_NAME}", {nested(1000)}, [], {{}}]',
        f'["{TASK_NAME}", null, {nested(1000)}, {{}}]',
        f'["{TASK_NAME}", null, [], {nested(1000)}]',
        f'["{TASK_NAME}", null, [], {{"version": {nested(1000)}}}]',
        f'["{TASK_NAME}", null, [], {{"routing_key": {nested(1000)}}}]',
        f'["{TASK_NAME}", null, [], {{"deadline_ms": {nested(1000)}}}]',
        nested(100_000),
        "[" * 100_000,
    ],
    ids=lambda text: text[:40],
)
def test_deep_nesting_is_refused_wherever_it_is(text: str):
    with pytest.raises(InvalidJob) as caught:
        decode_call(text.encode())
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("pack", [bytes, zlib.compress], ids=["plain", "zlib"])
def test_a_pickle_is_refused_and_the_message_says_how_to_enqueue(
    fake: FakeRedis, tmp_path: Path, pack: Callable[[bytes], bytes]
):
    data = pack(pickle.dumps((TASK_NAME, None, (), Pwned(tmp_path / "pwned"))))
    with pytest.raises(InvalidJob, match="serializer='json'"):
        decode_call(data)
    push(fake, data=data)
    with pytest.raises(InvalidJob, match="serializer='json'"):
        read(fake)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("field", ["meta", "result", "exc_info"])
def test_a_pickle_in_another_field_is_never_looked_at(fake: FakeRedis, tmp_path: Path, field: str):
    push(fake, **{field: pickle.dumps(Pwned(tmp_path / "pwned"))})
    job = read(fake)
    assert job.meta == {}
    assert job.kwargs == {"instances": [[1.0]]}
    assert not list(tmp_path.iterdir())


def test_a_pickle_in_the_result_stream_is_not_unpickled(fake: FakeRedis, tmp_path: Path):
    job_id = push(fake, status="finished")
    value = base64.b64encode(pickle.dumps(Pwned(tmp_path / "pwned")))
    fake.xadd(keys.key("results", job_id), {"type": 1, "return_value": value})
    with pytest.raises(ValueError, match=r"codec can't decode|JSON"):
        read(fake).return_value()
    assert not list(tmp_path.iterdir())


def test_json_is_read_even_if_somebody_asks_for_pickle(fake: FakeRedis):
    push(fake)
    job = SafeJob.fetch("j1", connection=fake, serializer=serializers.DefaultSerializer)
    assert job.serializer is serializers.JSONSerializer


def test_callbacks_and_webhooks_are_ignored(fake: FakeRedis):
    push(
        fake,
        success_callback_name="os.getcwd",
        failure_callback_name="no.such",
        stopped_callback_name="os.getcwd",
        success_callback_timeout="abc",
        webhooks=b'[{"url": "http://169.254.169.254/latest/meta-data", "method": "GET"}]',
        dependency_ids="{",
        retry_intervals="[",
        retries_left="1000000000",
        repeats_left="x",
        group_id=b"\xff",
    )
    job = read(fake)
    assert job.success_callback is None
    assert job.failure_callback is None
    assert job.stopped_callback is None
    assert job.webhooks == []
    assert job.retries_left is None
    job.send_webhooks("finished")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("timeout", b"abc"),
        ("timeout", b"\xff"),
        ("timeout", b"1" * 5000),
        ("created_at", b"nope"),
        ("enqueued_at", b"2026-99-99T00:00:00Z"),
        ("started_at", b"\xff\xfe"),
        ("status", b"weird"),
        ("result_ttl", b"1.5"),
        ("failure_ttl", b"one hour"),
        ("worker_name", b"\xff\xfe"),
        ("origin", b"\xff\xfe"),
        ("description", b"\xff"),
        ("last_heartbeat", b"yesterday"),
    ],
)
def test_a_malformed_field_is_an_invalid_job_and_nothing_worse(
    fake: FakeRedis, field: str, value: bytes
):
    push(fake, **{field: value})
    with pytest.raises(InvalidJob, match="malformed field"):
        read(fake)


def test_a_malformed_field_is_shown_in_short(fake: FakeRedis):
    push(fake, created_at=b"x" * 1_000_000)
    with pytest.raises(InvalidJob) as caught:
        read(fake)
    assert len(caught.value.message) < 300


def test_a_job_without_a_payload_is_no_job_for_rq(fake: FakeRedis):
    push(fake, data=None)
    with pytest.raises(NoSuchJobError):
        read(fake)


def test_a_field_whose_name_is_no_utf8_is_ignored(fake: FakeRedis):
    push(fake)
    fake.hset(keys.key("job", "j1"), b"\xff\xfe", b"x")
    assert read(fake).kwargs == {"instances": [[1.0]]}


def bombs() -> dict[str, bytes]:
    def packed(raw: bytes, wbits: int = 15) -> bytes:
        packer = zlib.compressobj(9, wbits=wbits)
        return packer.compress(raw) + packer.flush()

    once = packed(bytes(64_000_000))
    return {
        "zlib": once,
        "zlib of spaces": packed(b" " * 64_000_000),
        "zlib in zlib": packed(once),
        "zlib in zlib in zlib": packed(packed(once)),
        "zlib of a small window": packed(bytes(64_000_000), wbits=9),
        "zlib of a small window in zlib": packed(packed(bytes(64_000_000), wbits=13)),
    }


BOMBS = bombs()


@pytest.mark.parametrize("name", BOMBS)
def test_a_zip_bomb_is_refused_in_little_memory(fake: FakeRedis, name: str):
    bomb = BOMBS[name]
    push(fake, data=bomb)
    tracemalloc.start()
    with pytest.raises(InvalidJob):
        decode_call(bomb)
    with pytest.raises(InvalidJob):
        read(fake)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32_000_000


def test_a_payload_over_the_bound_is_refused():
    data = encode_call({"instances": ["x" * MAX_PAYLOAD_BYTES]})
    for pushed in (data, zlib.compress(data)):
        with pytest.raises(InvalidJob, match="too_large"):
            decode_call(pushed)
    assert decode_call(data, limit=len(data)).instances is not None


@given(st.binary(max_size=80) | st.builds(zlib.compress, st.binary(max_size=80)))
def test_any_bytes_become_a_call_or_an_invalid_job(data: bytes):
    with contextlib.suppress(InvalidJob):
        decode_call(data)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from([TASK_NAME, "v1", "instances"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(sorted(JOB_ARGUMENTS)), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.tuples(st.just(TASK_NAME) | JSON, st.none() | JSON, st.just([]) | JSON, JSON) | JSON)
def test_any_json_becomes_a_call_or_an_invalid_job(value: Any):
    try:
        call = decode_call(call_of(value))
    except InvalidJob:
        return
    assert call.version is None or isinstance(call.version, str)
    assert call.routing_key is None or isinstance(call.routing_key, str)
    assert call.deadline_ms is None or call.deadline_ms >= 1
