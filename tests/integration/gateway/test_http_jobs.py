"""Jobs over HTTP: submit, wait, ask, cancel; what the answers hold, and what Redis does then."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis

from gateway.api import schemas
from gateway.services.container import services_of
from producer import submission
from tests.helpers.gateways import RESULT, new_app, stand_in_worker
from tests.helpers.redis_server import RedisServer
from tests.helpers.stand_ins import (
    IRIS,
    NARROW,
    ROW,
    commands_sent,
    fail,
    finish,
    publish,
    queued,
    start,
)
from tests.helpers.waiting import ends_soon, wait_until
from yard.contract import keys

JOBS = "/v1/models/iris/jobs"
PREDICT = "/v1/models/iris/predict"
BODY = {"instances": [ROW]}


@pytest.fixture
def app(redis: Redis, redis_url: str) -> Iterator[Flask]:
    publish(redis, "iris", "v1", "v2", active="v1")
    with new_app(redis_url) as made:
        yield made


@pytest.fixture
def http(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def job_of(response: Any) -> Any:
    """The job in an answer, which must be just as the OpenAPI document says."""
    schemas.Job.model_validate(response.json, strict=True)
    return response.json


def arrived(redis: Redis, queue: str = "iris@v1") -> str:
    """The job that comes onto a queue."""
    return wait_until(lambda: queued(redis, queue), 20, "a job is queued")[0]


def someone_listens(redis: Redis) -> bool:
    """True while a request waits; only then does the completion listener subscribe."""
    return dict(redis.pubsub_numsub(keys.ENDED))[keys.ENDED.encode()] == 1


# Submit


def test_a_submitted_job_is_answered_with_its_address(http, redis: Redis):
    response = http.post(JOBS, json=BODY)
    assert response.status_code == 202
    job = job_of(response)
    assert response.headers["Location"] == job["url"] == f"/v1/jobs/{job['id']}"
    assert (job["status"], job["model"], job["version"]) == ("queued", "iris", "v1")
    assert job["queue"] == "iris@v1"
    assert (job["started_at"], job["ended_at"], job["attempts"]) == (None, None, 0)
    assert datetime.fromisoformat(job["created_at"]).tzinfo is not None
    assert queued(redis, "iris@v1") == [job["id"]]
    assert "Preference-Applied" not in response.headers


def test_ids_carry_128_random_bits(http):
    ids = {http.post(JOBS, json=BODY).json["id"] for _ in range(20)}
    assert len(ids) == 20
    assert all(len(base64.urlsafe_b64decode(job_id[11:] + "==")) == 16 for job_id in ids)


def test_the_version_of_the_body_is_obeyed(http, redis: Redis):
    redis.hset(keys.key("aliases", "iris"), "champion", "v2")
    for version in ("v2", "champion"):
        assert http.post(JOBS, json=BODY | {"version": version}).json["version"] == "v2"


def test_the_next_job_after_a_flip_goes_to_the_other_version(http, redis: Redis):
    assert http.post(JOBS, json=BODY).json["version"] == "v1"
    redis.set(keys.key("active", "iris"), "v2")
    assert http.post(JOBS, json=BODY).json["version"] == "v2"


def test_a_flip_to_a_version_with_other_inputs_holds_at_once(http, redis: Redis):
    publish(redis, "iris", "v3", signature=NARROW, active="v1")
    assert http.post(JOBS, json=BODY).status_code == 202
    redis.set(keys.key("active", "iris"), "v3")
    refused = http.post(JOBS, json=BODY)
    assert (refused.status_code, refused.json["code"]) == (422, "invalid_input")
    assert http.post(JOBS, json={"instances": [[1, 2]]}).json["version"] == "v3"


def test_rows_come_as_lists_objects_or_columns(http, redis: Redis):
    named = dict(zip(IRIS.names, ROW, strict=True))
    for body in (BODY, {"instances": [named]}, {"inputs": {k: [v] for k, v in named.items()}}):
        job = http.post(JOBS, json=body).json
        data = redis.hget(keys.key("job", job["id"]), "data")
        assert data == b'["worker.tasks.predict",null,[],{"instances":[[5.1,3.5,1.4,0.2]]}]'


def test_a_routing_key_keeps_its_version(http, redis: Redis):
    redis.hset(keys.key("weights", "iris"), mapping={"v1": 50, "v2": 50})
    for user in range(10):
        body = BODY | {"routing_key": f"user-{user}"}
        assert len({http.post(JOBS, json=body).json["version"] for _ in range(5)}) == 1


def test_a_deadline_is_written_with_the_job(http, redis: Redis):
    job = http.post(JOBS, json=BODY | {"deadline_ms": 5000}).json
    assert redis.zscore(keys.DEADLINES, job["id"]) is not None


def test_a_body_without_a_content_type_is_taken_for_json(http):
    assert http.post(JOBS, data=b'{"instances": [[1, 2, 3, 4]]}').status_code == 202


# Idempotency


def test_the_same_key_and_body_give_the_same_job(http, redis: Redis):
    headers = {"Idempotency-Key": "order-7"}
    first, again = (http.post(JOBS, json=BODY, headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json == again.json
    assert len(queued(redis, "iris@v1")) == 1
    finish(redis, first.json["id"], RESULT)
    ended = http.post(JOBS, json=BODY, headers=headers)
    assert (ended.status_code, ended.json["result"]) == (200, RESULT)


def test_the_same_key_with_another_body_is_refused(http, redis: Redis):
    headers = {"Idempotency-Key": "order-7"}
    http.post(JOBS, json=BODY, headers=headers)
    other = http.post(JOBS, json={"instances": [[1, 1, 1, 1]]}, headers=headers)
    assert (other.status_code, other.json["code"]) == (422, "idempotency_mismatch")
    assert len(queued(redis, "iris@v1")) == 1


def test_a_repeated_prediction_waits_for_the_first_ones_job(
    http, redis: Redis, threads: ThreadPoolExecutor
):
    headers = {"Idempotency-Key": "order-7"}
    first = http.post(JOBS, json=BODY, headers=headers).json
    waiting = threads.submit(http.post, PREDICT, json=BODY, headers=headers)
    wait_until(lambda: someone_listens(redis), 20)
    finish(redis, first["id"], RESULT)
    job = job_of(waiting.result(20))
    assert (job["id"], job["status"]) == (first["id"], "finished")


# Wait


def test_a_prediction_is_the_ended_job(http, redis_url: str):
    with stand_in_worker(redis_url, "iris@v1"):
        response = http.post(PREDICT, json=BODY)
    assert response.status_code == 200
    job = job_of(response)
    assert (job["status"], job["result"]) == ("finished", RESULT)
    assert datetime.fromisoformat(job["ended_at"]).tzinfo is not None
    assert job["timings_ms"]["total"] > 0


def test_a_failed_job_is_an_answer_not_a_problem(http, redis: Redis, threads: ThreadPoolExecutor):
    waiting = threads.submit(http.post, PREDICT, json=BODY)
    fail(redis, arrived(redis), "predict_failed", "it raised", 3)
    response = waiting.result(20)
    assert response.status_code == 200
    job = job_of(response)
    assert job["error"] == {"code": "predict_failed", "message": "it raised", "row": 3}
    assert "result" not in job


def test_a_prediction_that_takes_too_long_names_the_job_that_lives_on(http, redis: Redis):
    response = http.post(PREDICT + "?timeout=0.05", json=BODY)
    assert (response.status_code, response.json["code"]) == (504, "timeout")
    (job_id,) = queued(redis, "iris@v1")
    assert (response.json["job_id"], response.json["url"]) == (job_id, f"/v1/jobs/{job_id}")
    finish(redis, job_id, RESULT)
    assert http.get(response.json["url"]).json["result"] == RESULT


def test_a_prediction_whose_end_nobody_told_of_is_found(
    http, redis: Redis, threads: ThreadPoolExecutor
):
    waiting = threads.submit(http.post, PREDICT, json=BODY)
    finish(redis, arrived(redis), RESULT, is_told=False)
    assert waiting.result(20).json["result"] == RESULT


@pytest.fixture
def deaf(redis: Redis, redis_url: str) -> Iterator[Any]:
    """A gateway that hears of no job's end."""
    publish(redis, "iris", "v1", active="v1")
    with new_app(redis_url) as app:
        services_of(app).async_client.completions.close()
        yield app.test_client()


def test_a_job_is_looked_at_once_more_at_the_end_of_the_wait(
    deaf, redis: Redis, threads: ThreadPoolExecutor
):
    waiting = threads.submit(deaf.post, PREDICT + "?timeout=2", json=BODY)
    finish(redis, arrived(redis), RESULT)
    assert (waiting.result(20).status_code, waiting.result().json["result"]) == (200, RESULT)


def test_a_job_that_has_ended_is_not_waited_for(deaf, redis: Redis):
    job_id = deaf.post(JOBS, json=BODY).json["id"]
    finish(redis, job_id, RESULT)
    with ends_soon():
        assert deaf.get(f"/v1/jobs/{job_id}?wait=30").json["result"] == RESULT


def test_a_preference_to_wait_is_honoured(http, redis_url: str):
    with stand_in_worker(redis_url, "iris@v1"):
        response = http.post(JOBS, json=BODY, headers={"Prefer": "respond-async, wait=10"})
    assert (response.status_code, job_of(response)["status"]) == (200, "finished")
    assert response.headers["Preference-Applied"] == "wait=10"


def test_a_preference_that_runs_out_leaves_the_job(http):
    response = http.post(JOBS, json=BODY, headers={"Prefer": "wait=0.05"})
    assert (response.status_code, job_of(response)["status"]) == (202, "queued")
    assert response.headers["Location"] == response.json["url"]


@pytest.mark.parametrize(
    "preference", ["wait=soon", "wait", "wait=-1", "wait=nan", "return=minimal"]
)
def test_a_preference_that_makes_no_sense_is_passed_over(http, preference):
    response = http.post(JOBS, json=BODY, headers={"Prefer": preference})
    assert response.status_code == 202
    assert "Preference-Applied" not in response.headers


def test_a_job_is_asked_for_until_it_ends(http, redis: Redis, threads: ThreadPoolExecutor):
    job_id = http.post(JOBS, json=BODY).json["id"]
    assert job_of(http.get(f"/v1/jobs/{job_id}"))["status"] == "queued"
    start(redis, job_id)
    assert job_of(http.get(f"/v1/jobs/{job_id}"))["status"] == "started"
    waiting = threads.submit(http.get, f"/v1/jobs/{job_id}?wait=10")
    wait_until(lambda: someone_listens(redis), 20)
    finish(redis, job_id, RESULT)
    assert job_of(waiting.result(20))["result"] == RESULT


def test_a_wait_that_runs_out_answers_with_the_job_as_it_is(http):
    job_id = http.post(JOBS, json=BODY).json["id"]
    response = http.get(f"/v1/jobs/{job_id}?wait=0.05")
    assert (response.status_code, response.json["status"]) == (200, "queued")


@pytest.mark.parametrize("job_id", ["0" * 32, "no!", "a" * 65, "%0a", "..", "x:y"])
def test_an_unknown_job_is_not_found(http, job_id):
    for response in (http.get(f"/v1/jobs/{job_id}"), http.delete(f"/v1/jobs/{job_id}")):
        assert (response.status_code, response.json["code"]) == (404, "unknown_job")


@pytest.mark.parametrize("seconds", ["61", "-1", "soon", "nan", "inf", "1e3", "", "+1", "0x1"])
def test_a_wait_that_is_no_number_of_seconds_is_refused(http, seconds):
    job_id = http.post(JOBS, json=BODY).json["id"]
    response = http.get(f"/v1/jobs/{job_id}", query_string={"wait": seconds})
    assert (response.status_code, response.json["code"]) == (422, "invalid_input")
    assert response.json["errors"][0]["loc"] == ["wait"]


# Bounds on waiting


@pytest.fixture
def crowded(redis: Redis, redis_url: str) -> Iterator[FlaskClient]:
    """A gateway where one request may wait, and one does."""
    publish(redis, "iris", "v1", active="v1")
    with new_app(redis_url, gateway_waits=1) as app, ThreadPoolExecutor(1) as thread:
        http = app.test_client()
        waiting = thread.submit(app.test_client().post, PREDICT, json=BODY)
        job_id = arrived(redis)
        yield http
        finish(redis, job_id, RESULT)
        assert waiting.result(20).status_code == 200


def test_a_prediction_beyond_the_bound_is_refused_before_there_is_a_job(crowded, redis: Redis):
    response = crowded.post(PREDICT, json=BODY)
    assert (response.status_code, response.json["code"]) == (503, "unavailable")
    assert response.headers["Retry-After"] == "1"
    assert len(queued(redis, "iris@v1")) == 1


def test_other_waits_beyond_the_bound_are_answered_at_once(crowded):
    with ends_soon():
        response = crowded.post(JOBS, json=BODY, headers={"Prefer": "wait=10"})
        assert response.status_code == 202
        assert "Preference-Applied" not in response.headers
        assert crowded.get(response.json["url"] + "?wait=10").json["status"] == "queued"


def test_waits_end_early_when_the_process_is_to_stop(
    app: Flask, redis: Redis, threads: ThreadPoolExecutor
):
    http: Any = app.test_client()
    job_id = http.post(JOBS, json=BODY).json["id"]
    asking = threads.submit(http.get, f"/v1/jobs/{job_id}?wait=60")
    predicting = threads.submit(http.post, PREDICT, json=BODY)
    wait_until(lambda: len(queued(redis, "iris@v1")) == 2, 20)
    services_of(app).async_client.end_within(0.1)
    assert asking.result(5).json["status"] == "queued"
    assert predicting.result(20).status_code == 504


# Cancel


def test_canceling_is_idempotent_and_takes_the_job_off_the_queue(http, redis: Redis):
    job_id = http.post(JOBS, json=BODY).json["id"]
    for _ in range(2):
        response = http.delete(f"/v1/jobs/{job_id}")
        assert (response.status_code, job_of(response)["status"]) == (200, "canceled")
    assert queued(redis, "iris@v1") == []
    assert http.get(f"/v1/jobs/{job_id}").json["status"] == "canceled"


def test_a_job_that_has_ended_cannot_be_canceled(http, redis: Redis):
    job_id = http.post(JOBS, json=BODY).json["id"]
    finish(redis, job_id, RESULT)
    response = http.delete(f"/v1/jobs/{job_id}")
    assert (response.status_code, response.json["code"]) == (409, "job_ended")
    assert http.get(f"/v1/jobs/{job_id}").json["result"] == RESULT


def test_a_wait_ends_when_its_job_is_canceled(http, redis: Redis, threads: ThreadPoolExecutor):
    waiting = threads.submit(http.post, PREDICT, json=BODY)
    http.delete(f"/v1/jobs/{arrived(redis)}")
    response = waiting.result(20)
    assert (response.status_code, job_of(response)["status"]) == (200, "canceled")


# Costs, and calls without Redis


def test_a_prediction_is_one_command_to_submit(
    app: Flask, redis: Redis, redis_url: str, redis_server: RedisServer
):
    http = app.test_client()
    with stand_in_worker(redis_url, "iris@v1"):
        assert (
            http.post(PREDICT, json=BODY).status_code == 200
        )  # the script and catalogue are known
    with redis_server.client() as watcher, commands_sent(watcher) as sent:
        http.post(PREDICT + "?timeout=0", json=BODY)
    mine = [command for command in sent if command.startswith(f"EVALSHA {submission.SUBMIT.sha}")]
    assert len(mine) == 1
    assert not [command for command in sent if command.startswith(("EVAL ", "HGETALL"))]


def test_without_redis_every_call_is_unavailable_at_once_and_recovers(
    http, redis_server: RedisServer, redis: Redis
):
    job_id = http.post(JOBS, json=BODY).json["id"]
    calls = [
        ("POST", JOBS),
        ("POST", PREDICT),
        ("GET", f"/v1/jobs/{job_id}"),
        ("GET", f"/v1/jobs/{job_id}?wait=30"),
        ("DELETE", f"/v1/jobs/{job_id}"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/iris"),
        ("GET", "/v1/models/iris/versions/v1"),
        ("GET", "/v1/models/iris/route"),
        ("PUT", "/v1/models/iris/route"),
    ]
    redis_server.kill()
    for method, path in calls:
        body = None if method == "GET" else {"active": "v1"} if method == "PUT" else BODY
        with ends_soon():
            response = http.open(path, method=method, json=body)
        assert (response.status_code, response.json["code"]) == (503, "unavailable"), path
        assert response.headers["Retry-After"] == "1"
    redis_server.start()
    publish(redis, "iris", "v1", active="v1")
    assert http.post(JOBS, json=BODY).status_code == 202


@pytest.mark.parametrize("path", [PREDICT, JOBS])
def test_a_redis_that_hangs_is_unavailable_soon(http, redis_server: RedisServer, path: str):
    """The job may be queued all the same, and can be read once Redis goes on."""
    assert http.post(JOBS, json=BODY).status_code == 202
    redis_server.pause()
    with ends_soon():
        response = http.post(path, json=BODY)
    redis_server.resume()
    assert (response.status_code, response.json["code"]) == (503, "unavailable")
    job = http.get(response.json["url"]).json
    assert (job["id"], job["status"]) == (response.json["job_id"], "queued")
    assert http.post(JOBS, json=BODY).status_code == 202
