"""Pushes of attackers who can write to Redis, attacks A1 to A8, against a real pool.

Each ends as one failed result with a reason, or is set aside with one. No code of the attacker's
runs, nothing is imported or fetched for it, no worker exits, none grows, and good jobs go on.
"""

from __future__ import annotations

import base64
import os
import pickle
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis import Redis

from models.publish.publisher import publish
from models.store.repository import Repository
from producer.client import Client
from tests.helpers import estimators
from tests.helpers.pools import RunningPool, running_pool
from tests.helpers.protocol import QUEUE, Protocol, call
from tests.helpers.redis_server import RedisServer, patient
from tests.helpers.refusals import BAD_ENTRIES, BAD_STATUSES
from tests.helpers.waiting import wait_until
from yard.contract import keys, wire
from yard.contract.values import Job, JobStatus
from yard.errors import Unavailable

#: Bytes that a worker may grow by in an attack.
MOST_GROWTH = 32 * 2**20


class Toucher:
    """Its pickle creates a file where it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


#: Keys that stay between two tests: the catalogue, and the presence of pools and workers.
KEPT = (
    keys.QUEUES,
    keys.WORKERS,
    keys.MODELS,
    keys.PRESENCE,
    keys.SWEPT,
    *map(
        keys.PREFIXES.__getitem__,
        ["active", "route", "history", "versions", "signatures", "workers", "worker", "loaded"],
    ),
)


@pytest.fixture(scope="module")
def pool(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningPool]:
    """One worker, for all attacks; it has predicted once."""
    folder = tmp_path_factory.mktemp("hostile")
    redis_server.start()
    with redis_server.client() as redis:
        redis.flushall()
        for model in ("echo", "other"):
            echo = estimators.Echo().fit([[1.0]])
            repository = Repository(folder / "store")
            publish(repository, redis, echo, model, "v1", [[1.0], [2.0]], activate=True)
        with running_pool(redis_server.url, folder / "store", folder) as pool:
            pool.wait_for_workers(redis)
            yield pool


@pytest.fixture
def redis(redis_server: RedisServer, pool: RunningPool) -> Iterator[Redis]:
    """A Redis that holds the catalogue and the worker's entries; that worker lives on."""
    before = processes(pool)
    with redis_server.client() as redis:
        for name in list(redis.scan_iter(count=1000)):
            if not bytes(name).decode("utf-8", "replace").startswith(KEPT):
                redis.delete(name)
        yield redis
    assert processes(pool) == before, pool.log.read_text()
    assert "Traceback" not in pool.log.read_text()


@pytest.fixture
def client(redis: Redis, redis_server: RedisServer) -> Iterator[Client]:
    client = Client(patient(redis_server.url))
    assert_good_jobs_finish(client)
    yield client
    client.close()


def processes(pool: RunningPool) -> list[int]:
    """The pool's workers and its fork server, which has one thread, by their process ids."""
    return sorted(child.pid for child in psutil.Process(pool.process.pid).children())


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    """A file that is there if an attack has worked."""
    return tmp_path / "pwned"


@pytest.fixture
def attack(protocol: Protocol, client: Client, proof: Path) -> Callable[..., Job]:
    """Pushes a job among good ones: how it ended, once, with everything as it was."""

    def attack(job_id: str = "attack", **fields: Any) -> Job:
        protocol.push(job_id, **fields)
        assert_good_jobs_finish(client)
        job = wait_until(
            lambda: found if (found := client.get(job_id)).status.is_terminal else None
        )
        assert protocol.results(job_id) == 1
        assert not proof.exists()
        return job

    return attack


def assert_good_jobs_finish(client: Client) -> None:
    handles = [client.submit("echo", instances=[[float(n)]]) for n in range(5)]
    assert [handle.wait(60)["predictions"] for handle in handles] == [[float(n)] for n in range(5)]


def code(job: Job) -> str:
    return job.error.code if job.error else job.status.value


def aside(protocol: Protocol) -> list[dict[str, Any]]:
    """The entries that were set aside, with their reasons, the last first."""
    entries = protocol.quarantined()
    counted = protocol.redis.hget(keys.METRICS, "jobs_quarantined_total")
    assert counted == str(len(entries)).encode()
    return entries


class TestPickles:
    """A1, A2: whatever is opened with pickle runs the attacker's code."""

    def test_in_the_payload(self, attack, proof):
        job = attack(data=pickle.dumps(Toucher(proof)))
        assert code(job) == "invalid_job"
        assert "pickle" in job.error.message

    def test_in_the_payload_packed(self, attack, proof):
        job = attack(data=zlib.compress(pickle.dumps(Toucher(proof))))
        assert code(job) == "invalid_job"

    @pytest.mark.parametrize("field", ["meta", "result"])
    def test_in_fields_that_rq_opens(self, attack, proof, field):
        """The job itself is good, so it runs; the field is not read."""
        job = attack(**{field: zlib.compress(pickle.dumps(Toucher(proof)))})
        assert code(job) == "finished"

    def test_in_a_result_that_somebody_wrote(self, redis, client, pool, proof):
        packed = base64.b64encode(pickle.dumps(Toucher(proof)))
        redis.xadd(keys.key("results", "attack"), {"type": 1, "return_value": packed})
        redis.expire(keys.key("results", "attack"), 60)
        redis.hset(keys.key("job", "attack"), mapping={"status": "finished", "origin": QUEUE})
        redis.expire(keys.key("job", "attack"), 60)
        assert code(client.get("attack")) == "invalid_job"
        assert not proof.exists()


class TestNames:
    """A3, A4, A5: whatever is named in a job is not looked up."""

    @pytest.mark.parametrize(
        "name",
        [
            "os.system",
            "eval",
            "subprocess.check_output",
            "builtins.exec",
            "producer.rq_job.SafeJob",
            "worker.tasks.predict.__globals__",
            "",
        ],
    )
    def test_functions(self, attack, proof, name):
        job = attack(data=wire.dumps([name, None, [f"touch {proof}"], {}]))
        assert code(job) == "invalid_job"
        assert "not allowed" in job.error.message

    @pytest.mark.parametrize(
        "data",
        [
            wire.dumps(["zfill", "a", [10**10], {}]),
            wire.dumps(["format", "{0.__class__}", ["x"], {}]),
            wire.dumps(["worker.tasks.predict", "a", [], {"instances": [[1.0]]}]),
            wire.dumps(["worker.tasks.predict", None, [10**10], {"instances": [[1.0]]}]),
        ],
        ids=["zfill", "format", "an instance", "positional arguments"],
    )
    def test_methods_of_instances(self, attack, data):
        assert code(attack(data=data)) == "invalid_job"

    def test_callbacks(self, attack, proof):
        fields = {
            f"{when}_callback_name": "os.getcwd" for when in ("success", "failure", "stopped")
        }
        assert code(attack(**fields)) == "invalid_job", "they are not run, and that is said"
        assert code(attack("failing", data=b"x", failure_callback_name="no.such")) == "invalid_job"

    def test_webhooks_are_not_fetched(self, attack):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(0.5)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/latest/meta-data"
            hooks = wire.dumps([{"url": url, "events": ["success", "failure"]}])
            assert code(attack(webhooks=hooks)) == "invalid_job"
            with pytest.raises(TimeoutError):
                listener.accept()


class TestIds:
    """A6: an entry that is no id is set aside."""

    @pytest.mark.parametrize(("entry", "reason"), BAD_ENTRIES.values(), ids=BAD_ENTRIES)
    def test_entries_that_are_no_ids(self, client, protocol, pool, entry, reason):
        growth = growth_of(pool)
        protocol.push_entries(entry)
        assert_good_jobs_finish(client)
        (found,) = aside(protocol)
        assert (found["queue"], found["reason"]) == (QUEUE, reason)
        assert len(found["id"]) <= 200
        assert growth() < MOST_GROWTH

    def test_an_id_whose_key_is_no_hash(self, redis, client, protocol, pool):
        redis.set(keys.key("job", "odd"), "not a hash", ex=60)
        protocol.push_entries("odd")
        assert_good_jobs_finish(client)
        assert aside(protocol)[0]["reason"] == "its key is no hash"

    def test_a_queue_that_is_no_list_does_not_keep_others_from_being_served(
        self, redis, client, pool
    ):
        redis.set(keys.key("queue", "other@v1"), "not a list", ex=60)
        redis.set(keys.key("queue", "other"), "not a list", ex=60)
        assert_good_jobs_finish(client)
        with pytest.raises(Unavailable):
            client.submit("other", instances=[[1.0]])
        redis.delete(keys.key("queue", "other@v1"), keys.key("queue", "other"))
        assert client.submit("other", instances=[[1.0]]).wait(60)["predictions"] == [1.0]

    @pytest.mark.parametrize("family", ["bell", "wip", "finished", "failed"])
    def test_other_keys_of_a_queue_that_are_of_another_type(self, redis, client, pool, family):
        redis.set(keys.key(family, QUEUE), "of another type", ex=60)
        assert_good_jobs_finish(client)

    @pytest.mark.leaks_keys  # RQ's own names are in the way
    def test_the_catalogue_of_one_model_that_is_of_another_type(self, redis, client, pool):
        signatures = redis.hgetall(keys.key("signatures", "other"))
        redis.delete(keys.key("signatures", "other"))
        redis.set(keys.key("signatures", "other"), "not a hash")
        redis.sadd(keys.MODELS, b"\xff", "../x", "unpublished")
        beats = Path(pool.log).stat().st_size
        wait_until(lambda: redis.scard(keys.key("workers", "other@v1")) == 0, 60, "it has seen it")
        assert Path(pool.log).stat().st_size == beats, "and says nothing of it, once a second"
        assert_good_jobs_finish(client)
        redis.delete(keys.key("signatures", "other"))
        redis.hset(keys.key("signatures", "other"), mapping=signatures)
        redis.srem(keys.MODELS, b"\xff", "../x", "unpublished")
        assert client.submit("other", instances=[[1.0]]).wait(60)["predictions"] == [1.0]

    def test_a_result_that_is_there_before_its_job_has_run(self, redis, client, protocol, pool):
        redis.set(keys.key("results", "odd"), "not a stream")
        protocol.push("odd")
        assert_good_jobs_finish(client)
        job = wait_until(lambda: found if (found := client.get("odd")).status.is_terminal else None)
        assert job["predictions"] == [1.0]


class TestFields:
    """A7: one malformed field of a hash stops RQ's whole fleet."""

    @pytest.mark.parametrize(
        "fields",
        [
            {"timeout": "abc"},
            {"timeout": b"\xff"},
            {"timeout": -1},
            {"timeout": 99_999_999},
            {"created_at": "nope"},
            {"result_ttl": "1.5"},
            {"result_ttl": -1},
            {"failure_ttl": -1},
            {"dependency_ids": "{"},
            {"retry_intervals": "["},
            {"retries_left": 0},
            {"worker_name": b"\xff\xfe"},
            {"origin": "other@v1"},
            {"my_attempts": "nan"},
            {"my_crashes": b"\xff"},
            {"my_rows": "-1e9"},
            {"my_deadline": "inf"},
            {"my_token": "w.1"},
        ],
        ids=lambda fields: ", ".join(f"{name} {value!r}" for name, value in fields.items()),
    )
    def test_that_do_not_matter_are_passed_over_or_clamped(self, attack, redis, fields):
        assert code(attack(**fields)) == "finished"
        for family in ("job", "results"):
            assert 0 < redis.ttl(keys.key(family, "attack")) <= 604_800

    @pytest.mark.parametrize(
        "fields",
        [
            {"status": "weird"},
            {"status": b"\xff"},
            {"status": "scheduled"},
            {"data": b""},
            {"data": b"\x00"},
            {"data": call()[:-3]},
            {"data": b"[" * 100_000},
            {"data": wire.dumps(["worker.tasks.predict", None, [], {"rows": [[1.0]]}])},
        ],
        ids=lambda fields: ", ".join(f"{n} {str(v)[:20]!r}" for n, v in fields.items()),
    )
    def test_that_matter_fail_the_job(self, attack, fields):
        job = attack(**fields)
        assert code(job) == "invalid_job"
        assert job.error.message

    def test_a_payload_that_is_missing(self, redis, client, protocol, pool):
        redis.hset(keys.key("job", "attack"), mapping={"status": "queued", "origin": QUEUE})
        protocol.push_entries("attack")
        assert_good_jobs_finish(client)
        job = wait_until(lambda: job if (job := client.get("attack")).error else None)
        assert code(job) == "invalid_job"

    @pytest.mark.leaks_keys  # a job that is set aside gets no time to live
    @pytest.mark.parametrize("status", BAD_STATUSES)
    def test_a_job_that_says_it_has_ended_or_begun_is_set_aside(
        self, client, protocol, pool, status
    ):
        protocol.push("attack", status=status)
        assert_good_jobs_finish(client)
        assert aside(protocol)[0]["id"] == "attack"


class TestBombs:
    """A8: what is small on the way and large when opened."""

    @pytest.mark.parametrize("unit", [b"\0", b"[", b"0,"], ids=["zeros", "brackets", "a list"])
    def test_are_not_opened(self, attack, pool, unit):
        growth = growth_of(pool)
        job = attack(data=bomb(unit))
        assert code(job) == "invalid_job"
        assert growth() < MOST_GROWTH

    def test_one_in_another_is_not_opened_either(self, attack, pool):
        growth = growth_of(pool)
        job = attack(data=zlib.compress(bomb(b"\0")))
        assert code(job) == "invalid_job"
        assert growth() < MOST_GROWTH

    def test_many_at_once(self, client, protocol, pool):
        growth = growth_of(pool)
        data = bomb(b"\0")
        ids = [f"bomb-{n}" for n in range(64)]
        for job_id in ids:
            protocol.push(job_id, data=data)
        assert_good_jobs_finish(client)
        wait_until(lambda: all(client.get(i).status is JobStatus.FAILED for i in ids), 60)
        assert growth() < MOST_GROWTH

    def test_a_payload_over_the_bound_is_not_even_read(self, attack, pool, redis):
        growth = growth_of(pool)
        job = attack(data=b"[" + b" " * 64 * 2**20 + b"]")
        assert code(job) == "invalid_job"
        assert "too_large" in job.error.message
        assert growth() < MOST_GROWTH


def test_all_kinds_at_once_and_good_jobs_among_them(redis, client, protocol, pool, proof):
    """As they come in practice: in the same batches."""
    pushes: list[Callable[[int], object]] = [
        lambda n: protocol.push(f"a{n}", data=pickle.dumps(Toucher(proof))),
        lambda n: protocol.push(f"b{n}", data=call("os.system")),
        lambda n: protocol.push(f"c{n}", timeout="abc", status="weird"),
        lambda n: protocol.push_entries(f"no job {n}"),
        lambda n: protocol.push(f"d{n}", data=zlib.compress(b"\0" * 10**7)),
    ]
    growth = growth_of(pool)

    def push() -> None:
        for n in range(100):
            pushes[n % len(pushes)](n)

    pusher = threading.Thread(target=push)
    pusher.start()
    for _ in range(20):
        assert_good_jobs_finish(client)
    pusher.join()
    wait_until(lambda: not redis.exists(keys.key("queue", QUEUE)), 60)
    assert len(aside(protocol)) == 20
    assert not proof.exists()
    assert growth() < MOST_GROWTH


def bomb(unit: bytes) -> bytes:
    """300 MiB of ``unit``, of which 300 KB are left."""
    packer = zlib.compressobj()
    part = unit * (2**20 // len(unit))
    packed = [packer.compress(b"[" + part), *(packer.compress(part) for _ in range(299))]
    return b"".join([*packed, packer.flush()])


def growth_of(pool: RunningPool) -> Callable[[], int]:
    """By how much the worker's highest use of memory has grown since, in bytes."""
    (pid,) = (pid for pid in processes(pool) if psutil.Process(pid).num_threads() > 1)
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets the peak
    before = _peak(pid)
    return lambda: _peak(pid) - before


def _peak(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no such line")
