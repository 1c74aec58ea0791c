"""`modelyard doctor`: it finds what is wrong, says what to do, and is content with what is well."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from redis import Redis
from rq import suspension

from modelyard import cli
from modelyard.doctor.report import Report, run_checks
from yard import local
from yard.contract import keys
from yard.contract.values import Column, ModelRef, Output, Signature
from yard.registry import catalog
from yard.settings import Settings

_SIGNATURE = Signature(
    inputs=(Column(name="x"),), outputs=(Output(name="predictions", type="float64"),)
)


class _Readyz(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" and self.server.is_ready else 503)  # type: ignore[attr-defined]
        self.end_headers()
        self.wfile.write(b'{"detail": "no pool is alive"}')

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def gateway() -> Iterator[ThreadingHTTPServer]:
    """Stands for the gateway; ready unless a test says otherwise."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Readyz)
    server.is_ready = True  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def settings(redis: Redis, redis_url: str, tmp_path: Path, gateway: Any) -> Settings:
    """A set-up that is well: one version, published and stored, routed, a pool, a gateway."""
    redis.config_set("appendonly", "yes")
    files = tmp_path / "store" / "iris" / "v1"
    files.mkdir(parents=True)
    content = b"an artefact"
    (files / "model.joblib").write_bytes(content)
    manifest = {
        "signature": _SIGNATURE.model_dump(mode="json"),
        "digest": "d1",
        "files": [
            {
                "name": "model.joblib",
                "size_bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        ],
    }
    (files / "manifest.json").write_text(json.dumps(manifest))
    catalog.register(redis, ModelRef("iris", "v1"), json.dumps(manifest).encode(), _SIGNATURE)
    redis.set(keys.key("active", "iris"), "v1")
    announce_pool(redis)
    return Settings(
        redis_url=redis_url,
        store=str(tmp_path / "store"),
        data=str(tmp_path / "data"),
        port=gateway.server_address[1],
    )


@pytest.fixture(autouse=True)
def as_it_was(redis: Redis) -> Iterator[None]:
    """The server's configuration after the test."""
    yield
    redis.config_set("appendonly", "no")
    redis.config_set("maxmemory-policy", "noeviction")
    redis.config_set("stream-node-max-bytes", 4096)


def announce_pool(redis: Redis) -> None:
    seconds, _ = redis.time()
    redis.zadd(keys.PRESENCE, {"pool:p1": (seconds + 60) * 1000})
    redis.set(keys.key("pool", "p1"), '{"workers": {"idle": 1}}', ex=60)


def wrong(report: Report) -> dict[str, str]:
    """The checks that fail: detail and hint by name."""
    return {
        check.name: f"{check.detail} -> {check.hint}" for check in report.checks if not check.ok
    }


def test_a_set_up_that_is_well_is_told_to_be_well(settings, redis_url, tmp_path):
    report = run_checks(settings)
    assert wrong(report) == {}
    assert report.ok
    assert report.redis_url == redis_url
    assert report.store == str(tmp_path / "store")
    assert {"python", "modelyard", "redis", "rq", "redis-server"} <= report.versions.keys()


def test_the_command_exits_0_if_all_is_well_and_1_if_not(settings, gateway, monkeypatch):
    for name, value in settings.environ().items():
        monkeypatch.setenv(name, value)
    well = CliRunner().invoke(cli.main, ["doctor", "--json"])
    assert well.exit_code == 0, well.output
    told = json.loads(well.output)
    assert told["ok"] is True
    assert told["redis_url"] == settings.redis_url
    assert {"name", "ok", "detail", "hint"} == told["checks"][0].keys()
    gateway.is_ready = False
    ill = CliRunner().invoke(cli.main, ["doctor"])
    assert ill.exit_code == 1
    assert "WRONG  gateway" in ill.output
    assert "no pool is alive" in ill.output


def test_the_running_yard_s_redis_and_store_are_used(settings, redis, redis_url, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    me = os.getpid()
    gateway = f"http://127.0.0.1:{settings.port}"
    there = local.Yard(me, local.birth(me), redis_url, gateway, settings.store, "now")
    local.write(data, there)
    report = run_checks(Settings(data=str(data), store="nowhere", port=1))
    assert report.redis_url == redis_url
    assert wrong(report) == {}


def test_a_redis_that_is_away_is_told_and_the_password_only_to_programs(settings, monkeypatch):
    url = "redis://:secret@127.0.0.1:1/0"
    report = run_checks(settings.model_copy(update={"redis_url": url}))
    assert "does not answer" in wrong(report)["redis"]
    assert "secret" not in str(report.checks)
    assert report.to_dict()["redis_url"] == url


def test_no_redis_at_all_says_whether_up_could_start_one(settings):
    report = run_checks(settings.model_copy(update={"redis_url": None}))
    assert "modelyard up" in wrong(report)["redis"]
    assert report.redis_url is None
    assert any(check.name == "redis server" and check.ok for check in report.checks)


def test_a_redis_that_forgets_is_told(settings, redis):
    redis.config_set("appendonly", "no")
    redis.config_set("maxmemory-policy", "allkeys-lru")
    found = wrong(run_checks(settings))
    assert "appendonly yes" in found["append-only file"]
    assert "noeviction" in found["maxmemory-policy"]


def test_a_redis_that_sets_much_aside_for_results_is_told_but_not_wrong(settings, redis):
    def hint() -> str:
        report = run_checks(settings)
        assert "results" not in wrong(report)
        return next(check.hint for check in report.checks if check.name == "results")

    assert "stream-node-max-bytes 512" in hint()
    redis.config_set("stream-node-max-bytes", 512)
    assert hint() == ""


def test_a_stuck_pool_is_told_by_its_name(settings, redis):
    seconds, _ = redis.time()
    looked_ms = (seconds - keys.STUCK_S - 5) * 1000
    redis.set(keys.key("pool", "p1"), json.dumps({"workers": {}, "looked_ms": looked_ms}), ex=60)
    assert "p1 has completed no look" in wrong(run_checks(settings))["workers"]


def test_no_pool_is_told_and_one_that_has_expired_is_none(settings, redis):
    redis.zadd(keys.PRESENCE, {"pool:p1": 1})
    assert "modelyard pool" in wrong(run_checks(settings))["workers"]


def test_no_gateway_is_told(settings):
    report = run_checks(settings.model_copy(update={"port": 1}))
    assert "does not answer" in wrong(report)["gateway"]


def test_a_misspelt_variable_is_told_with_what_was_meant(settings, monkeypatch):
    monkeypatch.setenv("MODELYARD_PROT", "9000")
    assert "did you mean MODELYARD_PORT?" in wrong(run_checks(settings))["settings"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("model.joblib", b"an artefuct", "SHA-256"),
        ("model.joblib", b"short", "5 bytes"),
        ("model.joblib", None, "No such file"),
        ("manifest.json", b"{", "not valid JSON"),
        ("manifest.json", b"[]", ""),
        ("manifest.json", None, "No such file"),
    ],
)
def test_a_version_that_is_not_whole_is_told(settings, name, content, says):
    file = Path(settings.store) / "iris" / "v1" / name
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    found = wrong(run_checks(settings))
    assert "iris@v1" in found["store"]
    assert says in found["store"]


def test_a_store_that_is_not_there_is_told(settings, tmp_path):
    report = run_checks(settings.model_copy(update={"store": str(tmp_path / "nowhere")}))
    assert "MODELYARD_STORE" in wrong(report)["store"]
    assert "not in the store" in wrong(report)["catalogue"]


def test_a_version_that_redis_does_not_know_or_knows_otherwise_is_told(settings, redis):
    manifest = {"signature": _SIGNATURE.model_dump(mode="json"), "digest": "other"}
    catalog.register(redis, ModelRef("iris", "v1"), json.dumps(manifest).encode(), _SIGNATURE)
    assert "other bytes" in wrong(run_checks(settings))["catalogue"]
    redis.delete(keys.key("versions", "iris"))
    assert "not published" in wrong(run_checks(settings))["catalogue"]


def test_a_route_that_cannot_be_obeyed_is_told(settings, redis):
    redis.set(keys.key("active", "iris"), "v9")
    assert "v9" in wrong(run_checks(settings))["routes"]


def test_a_version_that_is_published_but_not_routed_is_named_and_no_fault(settings, redis):
    redis.delete(keys.key("active", "iris"), keys.key("route", "iris"))
    report = run_checks(settings)
    assert wrong(report) == {}
    (routes,) = [check for check in report.checks if check.name == "routes"]
    assert "no version is active of: iris" in routes.detail
    assert "modelyard activate" in routes.hint


@pytest.mark.parametrize("seconds", [None, 60])
@pytest.mark.leaks_keys
def test_workers_held_back_by_rq_are_told_with_the_way_back(settings, redis, seconds):
    suspension.suspend(redis, seconds)
    told = wrong(run_checks(settings))["suspension"]
    assert "rq suspend" in told
    assert "rq resume" in told
    assert ("s more" in told) == (seconds is not None)
    suspension.resume(redis)
    assert wrong(run_checks(settings)) == {}


@pytest.mark.parametrize(
    ("queue", "way_back"),
    [
        ("iris@V1", "push to iris@v1"),
        ("Iris@v1", "push to iris@v1"),
        ("IRIS", "push to iris "),
        ("iris@v9", "publish the version"),
        ("irsi@v1", "push to iris@v1"),
        ("iris@", "redis-cli DEL"),
        ("iris@../x", "redis-cli DEL"),
    ],
)
def test_a_queue_that_nobody_serves_is_told_with_the_way_back(settings, redis, queue, way_back):
    redis.rpush(f"rq:queue:{queue}", "waits-for-ever")
    told = wrong(run_checks(settings))["queues"]
    assert queue in told
    assert "1 job waits" in told
    assert way_back in told


def test_pushes_that_nobody_could_read_are_told(settings, redis):
    redis.rpush(keys.QUARANTINE, "x", "y")
    assert "2 pushes" in wrong(run_checks(settings))["quarantine"]


def test_jobs_that_no_version_will_run_are_told(settings, redis):
    redis.rpush(keys.key("queue", "iris@v1"), "waits-for-its-version")
    redis.rpush(keys.key("queue", "iris"), "waits-to-be-routed")
    redis.rpush(keys.key("queue", "default"), "another application's")
    assert wrong(run_checks(settings)) == {}
    redis.rpush(keys.key("queue", "iris@v7"), "lost")
    assert "iris@v7" in wrong(run_checks(settings))["queues"]


def test_scheduled_jobs_that_are_late_are_told(settings, redis):
    seconds, _ = redis.time()
    scheduled = keys.key("scheduled", "iris@v1")
    redis.zadd(scheduled, {"j1": seconds + 3600})
    redis.zadd(keys.key("deferred", "iris@v1"), {"j2": seconds})
    assert wrong(run_checks(settings)) == {}
    redis.zadd(scheduled, {"j0": seconds - 60})
    assert "no pool queues them" in wrong(run_checks(settings))["scheduled"]
    redis.set(keys.key("scheduler_lock", "iris@v1"), "theirs", ex=60)
    assert "an RQ scheduler holds its lock" in wrong(run_checks(settings))["scheduled"]


@pytest.mark.parametrize("key", ["rq:queue:iris@v1", "rq:scheduled:iris", "modelyard:quarantine"])
@pytest.mark.leaks_keys
def test_a_key_of_another_type_stops_no_check(settings, redis, key):
    redis.set(key, "x")
    assert len(run_checks(settings).checks) > 8


@pytest.mark.leaks_keys
def test_rubbish_in_every_key_stops_no_check(settings, redis):
    redis.hset(keys.key("versions", "iris"), mapping={"v2": "{", "..": "x", "v3": "[]"})
    redis.sadd(keys.MODELS, "../x", b"\xff", "ghost")
    redis.set(keys.key("weights", "iris"), "no hash")
    redis.set(b"rq:queue:\xff", "x")
    redis.set(keys.key("pool", "p1"), "[")
    report = run_checks(settings)
    assert {"routes", "queues", "workers"} <= {check.name for check in report.checks}


@pytest.mark.parametrize(
    "key",
    [*keys.TYPES, "modelyard:route:iris", "modelyard:history:iris", "rq:wip:iris@v1"],
)
@pytest.mark.leaks_keys
def test_a_key_of_another_type_is_named_with_the_way_out(settings, redis, key):
    redis.sadd(keys.MODELS, "iris")
    redis.sadd(keys.QUEUES, keys.key("queue", "iris@v1"))
    redis.delete(key)
    if keys.TYPES.get(key) == "string":
        redis.rpush(key, "x")
    else:
        redis.set(key, "x")
    report = run_checks(settings)
    found = next((check for check in report.checks if check.name == "keys"), None)
    assert found is not None
    if key not in (keys.MODELS, keys.QUEUES):
        assert {"routes", "queues", "workers"} <= {check.name for check in report.checks}
    assert not found.ok
    assert found.detail.startswith(f"{key} is a ")
    assert f"redis-cli DEL {key}" in found.hint
