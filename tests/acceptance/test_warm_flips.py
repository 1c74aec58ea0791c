"""Loading in real workers: once each, proven, before traffic, and a failure harms no other version.

F11, F17 and F18 of what must hold when things break: a version that does not load, that loads
slowly, and a crowd of jobs for a cold one.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq.suspension import resume, suspend

from models.manifest import Golden, Tolerance
from models.publish.publisher import publish
from models.store.repository import Repository
from producer.client import Client
from tests.helpers import estimators
from tests.helpers.pools import running_pool
from tests.helpers.waiting import ends_soon, wait_until
from yard.cluster.presence import read_presence
from yard.contract import keys
from yard.contract.values import ModelRef
from yard.errors import ModelUnavailable
from yard.registry import catalog
from yard.routing.routes import RouteChange, read_route
from yard.routing.warmup import WarmupResult, flip_route


class House:
    """A store with an echo that serves, and versions of another model that follow orders."""

    def __init__(self, folder: Path, redis: Redis) -> None:
        self.folder = folder
        self.redis = redis
        self.store = folder / "store"
        echo = estimators.Echo().fit([[1.0]])
        publish(Repository(self.store), redis, echo, "echo", "v1", [[1.0]], activate=True)

    def publish(self, version: str, orders: str = "", *, active: bool = False) -> None:
        """An obedient version, published as one that loads; the orders hold from then on."""
        model = estimators.Obedient(str(self.orders(version)), str(self.folder / version))
        publish(
            Repository(self.store),
            self.redis,
            model.fit([[1.0]]),
            "slow",
            version,
            [[1.0]],
            activate=active,
            warm_s=0,
        )
        (self.folder / version).write_text("")
        if orders:
            self.orders(version).write_text(orders)

    def orders(self, version: str) -> Path:
        return self.folder / f"{version}.orders"

    def loads(self, version: str) -> Counter[str]:
        """Number of times that each process has opened the version."""
        return Counter((self.folder / version).read_text().split())

    def flip(self, version: str, warm_s: float = 30) -> WarmupResult:
        return flip_route(self.redis, RouteChange("slow", active=version), warm_s)[1]

    @property
    def active(self) -> str | None:
        return read_route(self.redis, "slow").active


@pytest.fixture
def house(tmp_path: Path, redis: Redis) -> House:
    return House(tmp_path, redis)


def failed(job: Any) -> tuple[str, str]:
    assert job.error is not None, job
    return job.error.code, job.error.message


def test_a_flip_loads_the_version_first_and_its_first_job_waits_for_no_load(
    house: House, client: Client, redis: Redis, redis_url: str, tmp_path: Path
):
    house.publish("v1", active=True)
    house.publish("v2", "sleep 1")
    with running_pool(redis_url, house.store, tmp_path, pool_min=1) as pool:
        pool.wait_for_workers(redis)
        wait_until(lambda: read_presence(redis).pools, 60)
        warmth = house.flip("v2")
        assert (warmth.state, house.active) == ("warm", "v2")
        job = client.submit("slow", instances=[[2.0]]).wait(60)
        assert job.timings is not None
        assert (job.version, job.timings.load) == ("v2", 0.0)
        assert set(house.loads("v2").values()) == {1}
        counted = redis.hgetall(keys.METRICS)
        assert float(counted[b"model_load_time_seconds_count|model=slow|model_version=v2"]) == 1


def test_a_pool_without_workers_starts_one_for_a_flip(
    house: House, redis: Redis, redis_url: str, tmp_path: Path
):
    house.publish("v1", active=True)
    with running_pool(redis_url, house.store, tmp_path, pool_min=0):
        wait_until(lambda: read_presence(redis).pools, 60)
        assert house.flip("v1").state == "warm"
        assert read_presence(redis).holders("slow@v1")


def test_every_worker_of_a_pool_loads_what_gets_traffic(
    house: House, redis: Redis, redis_url: str, tmp_path: Path
):
    house.publish("v1", active=True)
    with running_pool(redis_url, house.store, tmp_path, pool_min=2, pool_max=2) as pool:
        pool.wait_for_workers(redis, 2)
        wait_until(lambda: read_presence(redis).pools, 60)
        house.flip("v1")
        wait_until(lambda: len(read_presence(redis).holders("slow@v1")) == 2, 60)


@pytest.mark.parametrize(("number", "count"), [(estimators.SLOW, 4), (1.0, 4_000)])
def test_a_busy_worker_loads_between_two_batches(
    house: House,
    client: Client,
    redis: Redis,
    redis_url: str,
    tmp_path: Path,
    number: float,
    count: int,
):
    house.publish("v1")
    with running_pool(redis_url, house.store, tmp_path, batch_jobs=1) as pool:
        pool.wait_for_workers(redis)
        wait_until(lambda: read_presence(redis).pools, 60)
        suspend(redis)
        jobs = [client.submit("echo", instances=[[number]]) for _ in range(count)]
        resume(redis)
        assert house.flip("v1").state == "warm"
        assert jobs[-1].get().status.value == "queued"
        assert jobs[-1].wait(60)["predictions"] == [number]


def test_a_version_that_does_not_load_gets_no_traffic_until_it_is_mended(
    house: House, client: Client, redis: Redis, redis_url: str, tmp_path: Path
):
    house.publish("v1", active=True)
    house.publish("v2", "raise 0")
    with running_pool(redis_url, house.store, tmp_path) as pool:
        pool.wait_for_workers(redis)
        wait_until(lambda: read_presence(redis).pools, 60)
        with pytest.raises(ModelUnavailable, match="it was told not to load"):
            house.flip("v2")
        assert house.active == "v1"
        ((_, why),) = read_presence(redis).failures("slow@v2")
        assert "it was told not to load" in why.reason
        assert why.retry_at is not None
        house.orders("v2").unlink()
        assert house.flip("v2").state == "warm"  # no backoff delays a new request
        assert not read_presence(redis).failures("slow@v2")


@pytest.mark.parametrize("orders", ["kill 0", "sleep 600"])
def test_a_version_that_ends_or_hangs_its_loader_is_refused_after_some_deaths(
    house: House, client: Client, redis: Redis, redis_url: str, tmp_path: Path, orders: str
):
    house.publish("v1", active=True)
    house.publish("v2", orders)
    with running_pool(redis_url, house.store, tmp_path, attempts=2, timeout_s=1) as pool:
        pool.wait_for_workers(redis)
        wait_until(lambda: read_presence(redis).pools, 60)
        with pytest.raises(ModelUnavailable, match="2 workers died while they loaded it"):
            house.flip("v2", 60)
        assert len(house.loads("v2")) == 2
        assert house.active == "v1"
        assert client.submit("echo", instances=[[1.0]]).wait(60)["predictions"] == [1.0]


def test_golden_answers_that_come_out_wrong_make_a_version_unavailable(
    house: House, client: Client, redis: Redis, redis_url: str, tmp_path: Path
):
    house.publish("v1", active=True)
    tamper_with_golden_answers(house, redis, "v1")
    with running_pool(redis_url, house.store, tmp_path) as pool:
        pool.wait_for_workers(redis)
        code, message = failed(client.submit("slow", instances=[[1.0]]).wait(60))
        assert code == "model_unavailable"
        assert "does not answer as it did when it was published" in message
        assert "expected [7.0]" in message or "expected 7.0" in message
        assert not read_presence(redis).holders("slow@v1")


def test_jobs_of_a_version_that_does_not_load_fail_soon_each_try_once_and_others_go_on(
    house: House, client: Client, redis: Redis, redis_url: str, tmp_path: Path
):
    house.publish("v1", "raise 0", active=True)
    with running_pool(redis_url, house.store, tmp_path) as pool:
        pool.wait_for_workers(redis)
        client.submit("echo", instances=[[1.0]]).wait(60)
        jobs = [client.submit("slow", instances=[[1.0]]) for _ in range(50)]
        others = [client.submit("echo", instances=[[2.0]]) for _ in range(50)]
        with ends_soon():
            messages = {failed(job.wait(60)) for job in jobs}
        assert all(job.wait(60)["predictions"] == [2.0] for job in others)
        ((code, message),) = messages
        assert code == "model_unavailable"
        assert "it was told not to load" in message
        assert set(house.loads("v1").values()) == {1}  # 50 jobs, one try: the rest is remembered


def test_a_crowd_of_jobs_for_a_cold_version_loads_it_once_a_worker(
    house: House, client: Client, redis: Redis, redis_url: str, tmp_path: Path
):
    house.publish("v1", "sleep 1", active=True)
    settings = {"pool_min": 4, "pool_max": 4, "batch_jobs": 8}
    with running_pool(redis_url, house.store, tmp_path, **settings) as pool:
        pool.wait_for_workers(redis, 4)
        jobs = [client.submit("slow", instances=[[float(n)]]) for n in range(500)]
        assert [job.wait(60)["predictions"] for job in jobs] == [[float(n)] for n in range(500)]
        loads = house.loads("v1")
        assert 1 <= len(loads) <= 4
        assert set(loads.values()) == {1}


def test_a_version_that_loads_slowly_keeps_one_worker_only_from_others(
    house: House, client: Client, redis: Redis, redis_url: str, tmp_path: Path
):
    house.publish("v1", "sleep 3", active=True)
    settings = {"pool_min": 2, "pool_max": 2}
    with running_pool(redis_url, house.store, tmp_path, **settings) as pool:
        pool.wait_for_workers(redis, 2)
        client.submit("echo", instances=[[1.0]]).wait(60)
        slow = client.submit("slow", instances=[[1.0]])
        wait_until(lambda: house.loads("v1"), 60)
        for _ in range(20):
            assert client.submit("echo", instances=[[2.0]]).wait(60)["predictions"] == [2.0]
        assert slow.get().status.value == "started"  # it loads still
        assert slow.wait(60)["predictions"] == [1.0]


def tamper_with_golden_answers(house: House, redis: Redis, version: str) -> None:
    """Let the version's manifest promise other answers, as if another library had given them."""
    manifest = Repository(house.store).manifest(ModelRef("slow", version))
    golden = Golden(outputs={"predictions": [7.0]}, tolerance=Tolerance(rtol=1e-6))
    other = manifest.model_copy(update={"golden": golden})
    path = house.store / "slow" / version / "manifest.json"
    path.chmod(0o644)
    path.write_bytes(other.to_json())
    catalog.register(redis, other.ref, other.to_json(), other.signature)
