"""The workload, as it is read from Redis and as the gateway shows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from gateway.api import schemas
from tests.helpers.gateways import announce_pool, announce_worker, new_app
from tests.helpers.stand_ins import ROW, publish, start
from worker.pool.autoscaler import Observation, Policy
from worker.pool.observer import Observer
from worker.queue.scheduler import QueueScheduler
from yard.cluster import metrics
from yard.cluster.capacity import Pace, Work
from yard.cluster.presence import Presence, read_presence
from yard.cluster.workload import (
    announced_arrivals_s,
    parse_pace,
    read_waits_s,
    read_workload,
    write_paces,
)
from yard.contract import keys, wire

V1, V2 = "iris@v1", "iris@v2"
PACE = Pace(batch_s=0.0, row_s=0.01, load_s=0.5, rows=2.0)


@pytest.fixture
def http(redis: Redis, redis_url: str) -> Iterator[FlaskClient]:
    publish(redis, "iris", "v1", "v2", active="v1")
    publish(redis, "other", "v1", active="v1")
    with new_app(redis_url) as app:
        yield app.test_client()


def submit(http, version: str, count: int, rows: int = 1) -> list[str]:
    body = {"instances": [ROW] * rows, "version": version}
    answers = [http.post("/v1/models/iris/jobs", json=body) for _ in range(count)]
    assert {answer.status_code for answer in answers} == {202}
    return [answer.json["id"] for answer in answers]


def ended(redis: Redis, count: int) -> None:
    """Count ended jobs of iris v1, as the script does that ends them."""
    labels = {"model": "iris", "model_version": "v1", "status": "finished"}
    name = metrics.field("model_prediction_requests_total", labels)
    redis.hincrbyfloat(keys.METRICS, name, count)


def announce(redis: Redis, name: str = "here", **what: Any) -> None:
    """A pool that says more than its workers."""
    announce_pool(redis, name)
    known = {"host": "h", "pid": 1, "workers": {}, "pattern": "*"} | what
    redis.set(keys.key("pool", name), wire.dumps(known), ex=keys.PRESENCE_TTL_S)


def look(redis: Redis, pattern: str) -> Observation:
    """The observation of a pool that has no worker."""
    observer = Observer(redis, "me", QueueScheduler(redis, pattern).queues, Policy(0, 4, 60))
    return observer.observe(0.0, {}, {}, 0.0)


# What is read


def test_a_queue_is_read_with_its_rows_its_runs_and_its_pace(http, redis: Redis):
    first, *_ = submit(http, "v1", 3, rows=5)
    start(redis, first)
    write_paces(redis, {V1: PACE})
    announce_worker(redis, "w1", versions={V1: 1})
    load = read_workload(redis, [V1, V2, "iris"], read_presence(redis), {V1: 7.0})
    one, two, door = load.works
    assert (one.depth, one.rows, one.running, one.holders) == (2, 10.0, 1, 1)
    assert (one.pace, one.arrivals_s) == (PACE, 7.0)
    assert two == Work(V2)
    assert door == Work("iris")
    assert not load.is_suspended


def test_every_job_that_came_is_counted_wherever_it_is(http, redis: Redis):
    first, *_ = submit(http, "v1", 3)
    start(redis, first)
    ended(redis, 40)
    assert read_workload(redis, [V1, "iris"], Presence()).counts == {V1: 43}


def test_a_job_pushed_without_its_rows_counts_as_jobs_did_before(http, redis: Redis):
    (job_id,) = submit(http, "v1", 1, rows=5)
    redis.hdel(keys.key("job", job_id), "my_rows")
    assert read_workload(redis, [V1], Presence()).works[0].rows == 1
    write_paces(redis, {V1: PACE})
    assert read_workload(redis, [V1], Presence()).works[0].rows == 2


def test_how_long_the_first_job_has_waited_is_read(http, redis: Redis):
    first, _ = submit(http, "v1", 2)
    redis.hset(keys.key("job", first), "created_at", "2020-01-01T00:00:00Z")
    found = read_waits_s(redis, [V1, V2])
    assert set(found) == {V1}
    assert found[V1] > 1e6


def test_suspension_is_seen(http, redis: Redis):
    redis.set(keys.SUSPENDED, 1, ex=60)
    assert read_workload(redis, [V1], Presence()).is_suspended


def test_what_others_wrote_under_our_names_counts_as_nothing(http, redis: Redis):
    redis.set(keys.key("queue", V1), "no list", ex=60)
    redis.rpush(keys.key("queue", V2), b"\xff\xfe", "no-such-job")
    redis.hset(keys.key("pace", V2), "a", "hash")
    redis.expire(keys.key("pace", V2), 60)
    redis.set(keys.key("wip", V2), "no zset", ex=60)
    works = read_workload(redis, [V1, V2], Presence()).works
    assert [(work.depth, work.rows, work.pace) for work in works] == [
        (0, 0.0, None),
        (2, 2.0, None),
    ]


@pytest.mark.parametrize(
    "raw",
    [
        None,
        b"",
        b"[]",
        b'{"batch_s":1,"row_s":1,"load_s":1}',
        b'{"batch_s":1,"row_s":-1,"load_s":1,"rows":1}',
        b'{"batch_s":1,"row_s":1,"load_s":"x","rows":1}',
        b'{"batch_s":1,"row_s":1,"load_s":1,"rows":0}',
        b'{"batch_s":1,"row_s":1e999,"load_s":1,"rows":1}',
    ],
)
def test_a_pace_that_nobody_measured_is_none(raw):
    assert parse_pace(raw) is None


def test_a_pace_is_kept_for_a_day(redis: Redis):
    write_paces(redis, {V1: PACE})
    assert 0 < redis.ttl(keys.key("pace", V1)) <= keys.PACE_TTL_S
    assert parse_pace(redis.get(keys.key("pace", V1))) == PACE


def test_rates_that_pools_announce_are_read_the_largest_of_each(redis: Redis):
    announce(redis, "a", arrivals_s={V1: 5.0, V2: 1})
    announce(redis, "b", arrivals_s={V1: 7.5, V2: "x", "iris": None})
    announce(redis, "c", arrivals_s=[1])
    assert announced_arrivals_s(read_presence(redis)) == {V1: 7.5, V2: 1.0, "iris": 0.0}


# Other pools


def test_a_pool_sees_those_that_serve_the_same_models_and_not_itself(http, redis: Redis):
    announce(redis, "me", staying=1, room=3)
    announce(redis, "same", staying=2, room=1, min=1, pattern="iri*")
    announce(redis, "else", staying=9, pattern="nothing")
    announce(redis, "older", workers={"busy": 2, "idle": 1}, max=8)
    announce(redis, "leaving", workers={"busy": 3}, staying=0, room=0, max=8)
    seen = look(redis, "iris")
    peers = {peer.name: (peer.workers, peer.least, peer.most) for peer in seen.peers}
    assert peers == {"same": (2, 1, 3), "older": (3, 0, 8), "leaving": (0, 0, 0)}


def test_a_pool_looks_at_the_queues_of_its_models_only(http, redis: Redis):
    seen = look(redis, "oth*")
    assert {work.queue for work in seen.works} == {"other@v1", "other"}


def test_a_pool_knows_which_workers_alone_hold_a_version(http, redis: Redis):
    announce_worker(redis, "w1", versions={V1: 1, V2: 1})
    announce_worker(redis, "w2", versions={V1: 1})
    seen = look(redis, "*")
    assert seen.only == {"w1"}


# Answers and metrics


def test_the_work_of_each_version_and_of_all_is_told(http, redis: Redis):
    submit(http, "v1", 300)
    submit(http, "v2", 1)
    write_paces(redis, {V1: PACE, V2: PACE})
    announce_pool(redis, busy=1, idle=1)
    announce_worker(redis, "w1", versions={V1: 1})
    answer = http.get("/v1/scaling")
    assert answer.status_code == 200
    told = answer.json
    assert schemas.Scaling.model_validate(told).total.workers == 2
    assert told["target_wait_s"] == 1.0
    by_queue = {entry["queue"]: entry for entry in told["versions"]}
    assert list(by_queue) == [V1, V2, "other@v1"]
    assert by_queue[V1] == {
        "model": "iris",
        "version": "v1",
        "queue": V1,
        "depth": 300,
        "rows": 300,
        "seconds_of_work": pytest.approx(3.0),
        "wanted_workers": 3,
        "workers": 1,
    }
    assert by_queue[V2]["seconds_of_work"] == pytest.approx(0.51), "nobody has it loaded"
    assert told["total"] == {
        "depth": 301,
        "rows": 301,
        "seconds_of_work": pytest.approx(3.51),
        "wanted_workers": 4,
        "workers": 2,
    }


def test_without_a_pool_what_waits_wants_a_worker(http):
    submit(http, "v1", 1)
    assert http.get("/v1/scaling").json["total"]["wanted_workers"] == 1


def test_what_pools_have_counted_arriving_wants_workers(http, redis: Redis):
    write_paces(redis, {V1: PACE})
    announce(redis, arrivals_s={V1: 100.0})
    assert http.get("/v1/scaling").json["total"]["wanted_workers"] == 3  # 2 rows of 10 ms a job


def test_jobs_of_an_unversioned_queue_want_a_worker_under_no_version(http, redis: Redis):
    redis.rpush(keys.key("queue", "iris"), "j1")
    told = http.get("/v1/scaling").json
    entry = next(entry for entry in told["versions"] if entry["queue"] == "iris")
    assert (entry["version"], entry["depth"], entry["wanted_workers"]) == (None, 1, 1)
    assert told["total"]["wanted_workers"] == 1


def test_an_empty_yard_wants_nobody(http):
    assert http.get("/v1/scaling").json["total"]["wanted_workers"] == 0


def test_models_are_chosen_by_a_pattern(http):
    submit(http, "v1", 1)
    assert http.get("/v1/scaling?model=oth*").json["total"]["depth"] == 0
    told = http.get("/v1/scaling?model=iris").json
    assert {entry["model"] for entry in told["versions"]} == {"iris"}
    assert told["total"]["depth"] == 1
    assert http.get("/v1/scaling?model=nothing").json["versions"] == []


def test_a_pattern_longer_than_any_name_is_refused(http):
    answer = http.get("/v1/scaling?model=" + "a*" * 200)
    assert (answer.status_code, answer.json["code"]) == (422, "invalid_input")


def test_without_redis_it_is_503(redis_server, http):
    redis_server.kill()
    answer = http.get("/v1/scaling")
    assert (answer.status_code, answer.json["code"]) == (503, "unavailable")


def test_the_metrics_add_up_to_the_same(http, redis: Redis):
    submit(http, "v1", 300)
    submit(http, "v2", 1)
    write_paces(redis, {V1: PACE, V2: PACE})
    total = http.get("/v1/scaling").json["total"]
    found = {
        name: sum(
            sample.value
            for family in text_string_to_metric_families(http.get("/metrics").text)
            for sample in family.samples
            if sample.name == name
        )
        for name in ("queue_work_seconds", "workers_wanted", "queue_depth")
    }
    assert found == {
        "queue_work_seconds": pytest.approx(total["seconds_of_work"]),
        "workers_wanted": total["wanted_workers"],
        "queue_depth": total["depth"],
    }
