"""A flip waits until the pools have loaded the version: its request, its wait and its answer.

Pools and workers are announced by hand here; `tests.acceptance.test_warm_flips` has real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner
from redis import Redis

from gateway.api import schemas
from modelyard.cli import main
from tests.helpers.gateways import announce, announce_worker, new_app
from tests.helpers.stand_ins import publish
from yard.cluster.presence import read_presence
from yard.contract import keys
from yard.contract.values import ModelRef
from yard.errors import InvalidRoute, ModelUnavailable, RevisionMismatch, UnknownModel
from yard.routing.routes import RouteChange, read_route, routed_versions
from yard.routing.warmup import cold_versions, flip_route, read_wanted_versions, unmet_warmups, warm

V2 = "iris@v2"


@pytest.fixture(autouse=True)
def iris(redis: Redis) -> None:
    publish(redis, "iris", "v1", "v2", active="v1")


def pool(redis: Redis, name: str = "here", **known: Any) -> None:
    announce(redis, "pool", name, {"workers": {"idle": 1}, "warms": True, "pattern": "*"} | known)


def then(*steps: Callable[[], object]) -> Callable[[float], object]:
    """Takes one step for each time that is waited, and none after the last."""
    left = list(steps)

    def wait(_seconds: float) -> None:
        if left:
            left.pop(0)()

    return wait


def active(redis: Redis) -> str | None:
    return read_route(redis, "iris").active


def test_the_flip_comes_after_the_load(redis: Redis):
    pool(redis)
    seen = []

    def load() -> None:
        seen.append(
            (active(redis), list(read_wanted_versions(redis)), redis.llen(keys.key("bell", V2)))
        )
        announce_worker(redis, "w1", versions={V2: 10})

    route, warmth = flip_route(redis, RouteChange("iris", active="v2"), 30, then(load))
    assert seen == [("v1", [V2], 1)]  # asked for, an idle worker woken, and no traffic yet
    assert (route.active, warmth.state, warmth.versions) == ("v2", "warm", ("v2",))


def test_every_pool_that_serves_the_model_must_have_it(redis: Redis):
    pool(redis, "a")
    pool(redis, "b", pattern="ir*")
    pool(redis, "c", pattern="wine")
    steps = then(
        lambda: announce_worker(redis, "w1", pool="a", versions={V2: 10}),
        lambda: announce_worker(redis, "w2", pool="b", versions={V2: 10}),
    )
    assert flip_route(redis, RouteChange("iris", active="v2"), 30, steps)[0].active == "v2"
    assert len(read_presence(redis).holders(V2)) == 2


def test_what_is_loaded_already_is_not_asked_for(redis: Redis):
    pool(redis)
    announce_worker(redis, "w1", versions={V2: 10})
    assert flip_route(redis, RouteChange("iris", active="v2"), 30)[1].state == "warm"
    assert not redis.exists(keys.WANTED)


def test_without_a_pool_the_flip_is_made_at_once_and_says_so(redis: Redis):
    route, warmth = flip_route(redis, RouteChange("iris", active="v2"), 30)
    assert (route.active, warmth.state) == ("v2", "no_pool")


@pytest.mark.parametrize("known", [{"warms": None}, {"warms": False}, {"looked_ms": 1}])
def test_a_pool_that_is_of_old_or_drains_or_is_stuck_is_not_waited_for(redis: Redis, known):
    pool(redis, **known)
    assert flip_route(redis, RouteChange("iris", active="v2"), 30)[1].state == "no_pool"


def test_a_version_that_does_not_load_is_not_flipped_to(redis: Redis):
    pool(redis)

    def fail() -> None:
        (wanted_ms,) = read_wanted_versions(redis).values()
        failed = {V2: {"reason": f"{V2}: it is broken", "retry_at": None, "wanted_ms": wanted_ms}}
        announce_worker(redis, "w1", versions={}, failed=failed)

    with pytest.raises(ModelUnavailable, match=r"iris@v2: it is broken \(worker w1\)"):
        flip_route(redis, RouteChange("iris", active="v2"), 30, then(fail))
    assert active(redis) == "v1"


def test_a_failure_of_an_earlier_wish_does_not_count(redis: Redis):
    pool(redis)
    failed = {V2: {"reason": "it was broken", "retry_at": None, "wanted_ms": 1}}
    announce_worker(redis, "w1", versions={}, failed=failed)
    mended = then(lambda: announce_worker(redis, "w1", versions={V2: 10}))
    assert flip_route(redis, RouteChange("iris", active="v2"), 30, mended)[0].active == "v2"


def test_a_version_that_is_not_loaded_in_time_is_not_flipped_to(redis: Redis):
    pool(redis)
    with pytest.raises(ModelUnavailable, match=r"pool here has not loaded it within 0.2 s"):
        flip_route(redis, RouteChange("iris", active="v2"), 0.2)
    assert active(redis) == "v1"


def test_only_versions_with_a_weight_above_zero_are_waited_for(redis: Redis):
    pool(redis)
    announce_worker(redis, "w1", versions={V2: 10})
    route, warmth = flip_route(redis, RouteChange("iris", weights={"v1": 0, "v2": 1}), 30)
    assert (route.shares["v2"], warmth.versions) == (1.0, ("v2",))


def test_clearing_the_weights_waits_for_the_active_version(redis: Redis):
    flip_route(redis, RouteChange("iris", weights={"v2": 1}), 0)
    pool(redis)
    load = then(lambda: announce_worker(redis, "w1", versions={"iris@v1": 10}))
    assert flip_route(redis, RouteChange("iris", weights={}), 30, load)[1].versions == ("v1",)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (RouteChange("iris", active="v9"), InvalidRoute),
        (RouteChange("iris", weights={"v1": 1, "v9": 1}), InvalidRoute),
        (RouteChange("iris", weights={"v1": float("nan")}), InvalidRoute),
        (RouteChange("iris"), InvalidRoute),
        (RouteChange("iris", active="v2", revision=99), RevisionMismatch),
        (RouteChange("wine", active="v1"), UnknownModel),
    ],
)
def test_what_cannot_be_obeyed_is_refused_before_anything_is_loaded(redis: Redis, change, error):
    pool(redis)
    with pytest.raises(error):
        flip_route(redis, change, 30)
    assert not redis.exists(keys.WANTED)


def test_a_wish_is_forgotten_when_its_time_has_passed(redis: Redis):
    pool(redis)
    redis.hset(keys.WANTED, "iris@v1", "1 2")
    redis.hset(keys.WANTED, "iris@v3", "rubbish")
    assert read_wanted_versions(redis) == {}
    with pytest.raises(ModelUnavailable):
        warm(redis, [ModelRef("iris", "v2")], 0.01)
    assert redis.hkeys(keys.WANTED) == [b"iris@v2"]
    assert 0 < redis.ttl(keys.WANTED) <= keys.WANTED_TTL_S


def test_somebody_elses_key_in_the_place_of_wishes_harms_nobody(redis: Redis):
    redis.set(keys.WANTED, "mine")
    assert read_wanted_versions(redis) == {}
    pool(redis)
    load = then(lambda: announce_worker(redis, "w1", versions={V2: 10}))
    assert flip_route(redis, RouteChange("iris", active="v2"), 30, load)[1].state == "warm"


def test_a_wish_is_work_for_a_pool_until_its_own_worker_has_answered_it(redis: Redis):
    redis.hset(keys.WANTED, V2, f"1000 {2**45}")
    redis.expire(keys.WANTED, 60)

    def left() -> list[str]:
        return unmet_warmups(redis, "here", lambda queue: queue.startswith("iris"))

    assert left() == [V2]
    assert unmet_warmups(redis, "here", lambda queue: False) == []
    announce_worker(redis, "w1", pool="elsewhere", versions={V2: 10})
    assert left() == [V2]
    announce_worker(redis, "w2", versions={}, failed={V2: {"reason": "x", "wanted_ms": 999}})
    assert left() == [V2]
    announce_worker(redis, "w2", versions={}, failed={V2: {"reason": "x", "wanted_ms": 1000}})
    assert left() == []


def test_a_key_set_by_hand_is_obeyed_at_once_and_its_cold_start_is_shown(redis: Redis, redis_url):
    pool(redis)
    announce_worker(redis, "w1", versions={"iris@v1": 10})
    redis.set(keys.key("active", "iris"), "v2")
    with new_app(redis_url) as app:
        http: Any = app.test_client()
        shown = http.get("/v1/models/iris/route").json
        assert (shown["active"], shown["cold"]) == ("v2", ["v2"])
        assert 'model_version_cold{model="iris",model_version="v2"} 1.0' in metrics(http)
        assert http.get("/v1/models/iris").json["route"]["cold"] == ["v2"]
        announce_worker(redis, "w1", versions={V2: 10})
        assert http.get("/v1/models/iris/route").json["cold"] == []
        assert 'model_version_cold{model="iris",model_version="v2"} 0.0' in metrics(http)


def test_what_some_pool_lacks_is_cold(redis: Redis):
    pool(redis, "a")
    pool(redis, "b")
    announce_worker(redis, "w1", pool="a", versions={"iris@v1": 10})
    assert cold_versions(read_route(redis, "iris"), read_presence(redis)) == ["v1"]


def test_the_versions_of_the_route_in_force_are_known(redis: Redis):
    flip_route(redis, RouteChange("iris", weights={"v1": 1, "v2": 0.5}), 0)
    assert routed_versions(redis, ["iris", "wine"]) == {
        ModelRef("iris", "v1"),
        ModelRef("iris", "v2"),
    }


class TestHttp:
    def test_a_change_says_what_it_waited_for(self, redis: Redis, redis_url):
        pool(redis)
        announce_worker(redis, "w1", versions={V2: 10})
        with new_app(redis_url) as app:
            answer: Any = app.test_client().put("/v1/models/iris/route", json={"active": "v2"})
        changed = schemas.RouteChanged.model_validate(answer.json)
        assert (changed.warm.state, changed.warm.versions, changed.cold) == ("warm", ["v2"], [])

    def test_a_change_that_must_not_wait_does_not(self, redis: Redis, redis_url):
        pool(redis)
        with new_app(redis_url) as app:
            answer: Any = app.test_client().put(
                "/v1/models/iris/route?wait=0", json={"active": "v2"}
            )
        assert (answer.json["active"], answer.json["warm"]["state"]) == ("v2", "skipped")
        assert answer.json["cold"] == ["v2"]

    def test_a_version_that_is_not_loaded_is_a_problem(self, redis: Redis, redis_url):
        pool(redis)
        with new_app(redis_url) as app:
            answer: Any = app.test_client().put(
                "/v1/models/iris/route?wait=0.1", json={"active": "v2"}
            )
        assert (answer.status_code, answer.json["code"]) == (409, "model_unavailable")
        assert active(redis) == "v1"

    @pytest.mark.parametrize("seconds", ["-1", "61", "x", ""])
    def test_a_wait_that_is_no_number_of_seconds_is_refused(self, redis_url, seconds):
        with new_app(redis_url) as app:
            path = f"/v1/models/iris/route?wait={seconds}"
            answer: Any = app.test_client().put(path, json={"active": "v2"})
        assert (answer.status_code, answer.json["code"]) == (422, "invalid_input")

    def test_a_failed_load_is_in_the_catalogue_with_the_reason(self, redis: Redis, redis_url):
        failed = {V2: {"reason": "it is broken", "retry_at": "2026-01-02T03:04:05.678Z"}}
        announce_worker(redis, "w1", versions={}, failed=failed | {"iris@v1": "rubbish"})
        with new_app(redis_url) as app:
            http: Any = app.test_client()
            v1, v2 = http.get("/v1/models/iris").json["versions"]
            assert 'model_load_failures{model="iris",model_version="v2"} 1.0' in metrics(http)
        assert v1["failed"] == []
        assert v2["failed"] == [
            {
                "worker": "w1",
                "host": "h",
                "reason": "it is broken",
                "retry_at": "2026-01-02T03:04:05.678Z",
            }
        ]


class TestCommandLine:
    def run(self, url: str, *words: str, status: int = 0) -> Any:
        ran = CliRunner().invoke(main, [*words, "--redis-url", url], env={"MODELYARD_WARM_S": "2"})
        assert ran.exit_code == status, ran.output
        return ran

    def test_activate_waits_in_vain_and_leaves_the_route(self, redis: Redis, redis_url):
        pool(redis)
        ran = self.run(redis_url, "activate", "iris", "v2", status=1)
        assert "waiting until the pools have loaded it" in ran.stderr
        assert "error: iris@v2: pool here has not loaded it within 2 s" in ran.stderr
        assert active(redis) == "v1"

    @pytest.mark.parametrize("words", [["activate", "iris", "v2"], ["weights", "iris", "v2=1"]])
    def test_no_wait_flips_at_once_and_says_what_that_means(self, redis: Redis, redis_url, words):
        pool(redis)
        ran = self.run(redis_url, *words, "--no-wait")
        assert "not warmed" in ran.stdout
        assert read_route(redis, "iris").shares == {"v2": 1.0}
        assert "cold: v2" in self.run(redis_url, "route", "iris").stdout

    def test_rollback_waits_too(self, redis: Redis, redis_url):
        flip_route(redis, RouteChange("iris", active="v2"), 0)
        pool(redis)
        assert "within 2 s" in self.run(redis_url, "rollback", "iris", status=1).stderr
        assert active(redis) == "v2"
        self.run(redis_url, "rollback", "iris", "--no-wait")
        assert active(redis) == "v1"

    def test_what_does_not_load_is_listed_with_the_reason(self, redis: Redis, redis_url):
        failed = {V2: {"reason": f"{V2}: it is \x1b broken", "retry_at": None}}
        announce_worker(redis, "w1", versions={}, failed=failed)
        listed = self.run(redis_url, "models").stdout
        assert "not loaded by w1: iris@v2: it is ? broken" in listed

    def test_without_a_pool_it_says_so(self, redis_url):
        assert "no pool is alive" in self.run(redis_url, "activate", "iris", "v2").stdout


def metrics(http: Any) -> str:
    return str(http.get("/metrics").text)
