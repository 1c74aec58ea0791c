"""Submission: in one round trip, once, and to the version that the keys name at that moment."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import rq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from producer import Client, Handle
from producer.submission import CHUNK
from tests.helpers.redis_server import RedisServer
from tests.helpers.refusals import (
    BAD_IDEMPOTENCY_KEYS,
    BAD_MEMBERS,
    BAD_NAMES,
    BAD_NUMBERS,
    BAD_OUTPUTS,
    BAD_ROWS,
    Refusal,
)
from tests.helpers.stand_ins import (
    IRIS,
    NARROW,
    ROW,
    TEXT,
    commands_sent,
    new_client,
    publish,
    queued,
)
from tests.helpers.waiting import ends_soon
from yard.contract import keys, wire
from yard.contract.values import TASK_NAME, JobStatus, Request
from yard.errors import (
    IdempotencyMismatch,
    InvalidInput,
    InvalidName,
    ModelyardError,
    NoActiveVersion,
    QueueFull,
    TooLarge,
    Unavailable,
    UnknownModel,
    UnknownVersion,
)
from yard.routing.routes import choose, read_route, routing_point

REFUSALS = BAD_ROWS | BAD_NUMBERS | BAD_OUTPUTS | BAD_MEMBERS


@pytest.fixture
def client(redis: Redis, redis_url: str) -> Iterator[Client]:
    """A client of a yard where iris has v1, which is active, and v2."""
    publish(redis, "iris", "v1", "v2", active="v1")
    with new_client(redis_url) as made:
        yield made


def snapshot(redis: Redis) -> set[bytes]:
    """All keys: what must not change where nothing is accepted."""
    return set(redis.scan_iter(count=1000))


# What is written


def test_a_submission_is_one_round_trip(client: Client, redis: Redis):
    client.submit("iris", instances=[ROW])  # connects, and reads the catalogue
    with commands_sent(redis) as sent:
        client.submit("iris", instances=[ROW], routing_key="u", idempotency_key="k", deadline_ms=9)
    assert [command.split()[0] for command in sent] == ["EVALSHA"]


def test_preparing_from_the_cached_catalogue_asks_redis_nothing(client: Client, redis: Redis):
    good, bad = Request("iris", [ROW], routing_key="u"), Request("iris", [[1, 2]])
    assert client.submitter.prepare_cached(good, "job-1") is None, "the catalogue has not been read"
    prepared = client.submitter.prepare(good, "job-1")
    with commands_sent(redis) as sent:
        assert client.submitter.prepare_cached(good, "job-1") == prepared
        assert client.submitter.prepare_cached(bad, "job-1") is None, (
            "Redis may name another version"
        )
        with pytest.raises(InvalidName):
            client.submitter.prepare_cached(Request("IRIS", [ROW]), "job-1")
    assert sent == []
    with pytest.raises(InvalidInput):
        client.submitter.prepare(bad, "job-1")
    (handle,) = client.submitter.submit([prepared])
    assert isinstance(handle, Handle)
    assert (handle.id, queued(redis, "iris@v1")) == ("job-1", ["job-1"])


def test_many_submissions_are_one_round_trip_for_each_chunk(client: Client, redis: Redis):
    client.submit("iris", instances=[ROW])
    with commands_sent(redis) as sent:
        handles = client.submit_many(Request("iris", [ROW]) for _ in range(3 * CHUNK + 1))
    assert [command.split()[0] for command in sent] == ["EVALSHA"] * 4
    assert queued(redis, "iris@v1")[1:] == [h.id for h in handles if isinstance(h, Handle)]
    assert len({h.id for h in handles if isinstance(h, Handle)}) == 3 * CHUNK + 1


def test_a_handle_says_where_the_job_went(client: Client, redis: Redis):
    handle = client.submit("iris", instances=[ROW])
    assert (handle.model, handle.version, handle.queue) == ("iris", "v1", "iris@v1")
    assert not handle.is_repeat
    assert len(handle.id) == 33
    assert queued(redis, "iris@v1") == [handle.id]
    job = handle.get()
    assert (job.status, job.model, job.version) == (JobStatus.QUEUED, "iris", "v1")
    assert job.attempts == 0
    assert job.created_at is not None
    assert job.created_at.endswith("Z")


def test_rq_reads_what_was_written(client: Client, redis: Redis):
    handle = client.submit("iris", instances=[ROW], outputs=["predictions"])
    queue = rq.Queue("iris@v1", connection=redis, serializer="json")
    assert queue.get_job_ids() == [handle.id]
    job = rq.job.Job.fetch(handle.id, connection=redis, serializer="json")
    assert job.func_name == TASK_NAME
    assert job.instance is None
    assert job.args == []
    assert job.kwargs == {"instances": [ROW], "outputs": ["predictions"]}
    assert job.get_status() == "queued"
    assert job.origin == "iris@v1"
    assert job.timeout == client.settings.timeout_s
    assert job.result_ttl == client.settings.result_ttl_s
    assert job.failure_ttl == client.settings.failure_ttl_s
    assert job.enqueued_at is not None
    seconds, _ = redis.time()
    assert abs(job.created_at.timestamp() - seconds) < 5
    assert "iris@v1" in {known.name for known in rq.Queue.all(connection=redis)}


def test_jobs_wait_in_the_order_in_which_they_were_accepted(client: Client, redis: Redis):
    ids = [client.submit("iris", instances=[ROW]).id for _ in range(5)]
    assert queued(redis, "iris@v1") == ids


def test_rows_travel_as_lists_in_signature_order_whatever_form_they_came_in(
    client: Client, redis: Redis
):
    forms: list[dict[str, Any]] = [
        {"instances": [[1, 2, 3, 4]]},
        {"instances": [{"d": 4, "c": 3, "b": 2, "a": 1}]},
        {"inputs": {"b": [2], "a": [1], "d": [4], "c": [3]}},
    ]
    for form in forms:
        job = keys.key("job", client.submit("iris", **form).id)
        assert wire.loads(redis.hget(job, "data") or b"") == [
            TASK_NAME,
            None,
            [],
            {"instances": [[1, 2, 3, 4]]},
        ]
        assert redis.hget(job, "my_rows") == b"1"


def test_a_submission_rings_the_bell_of_its_queue_once(client: Client, redis: Redis):
    bell = keys.key("bell", "iris@v1")
    for _ in range(3):
        client.submit("iris", instances=[ROW])
    assert redis.llen(bell) == 1
    assert 0 < redis.ttl(bell) <= keys.BELL_TTL_S
    redis.lpop(bell)
    client.submit("iris", instances=[ROW])
    assert redis.llen(bell) == 1
    assert redis.llen(keys.key("bell", "iris@v2")) == 0


def test_many_threads_may_share_a_client(client: Client, redis: Redis):
    def submit(_: int) -> str:
        return client.submit("iris", instances=[ROW]).id

    with ThreadPoolExecutor(16) as threads:
        ids = list(threads.map(submit, range(400)))
    assert sorted(queued(redis, "iris@v1")) == sorted(ids)
    assert len(set(ids)) == 400


# Once


def test_the_same_id_twice_queues_once(client: Client, redis: Redis):
    request = Request("iris", [ROW])
    first = client.submit_request(request, "the-id")
    again = client.submit_request(request, "the-id")
    assert first.id == again.id == "the-id"
    assert queued(redis, "iris@v1") == ["the-id"]


def test_a_repeated_call_answers_where_the_job_is_even_after_a_flip(client: Client, redis: Redis):
    request = Request("iris", [ROW])
    client.submit_request(request, "the-id")
    redis.set("modelyard:active:iris", "v2")
    assert client.submit_request(request, "the-id").version == "v1"
    assert queued(redis, "iris@v2") == []


def test_an_idempotency_key_names_one_job(client: Client, redis: Redis):
    first = client.submit("iris", instances=[ROW], idempotency_key="k")
    again = client.submit("iris", instances=[ROW], idempotency_key="k")
    assert (first.is_repeat, again.is_repeat) == (False, True)
    assert again.id == first.id
    assert queued(redis, "iris@v1") == [first.id]


def test_two_idempotency_keys_name_two_jobs(client: Client, redis: Redis):
    ids = [client.submit("iris", instances=[ROW], idempotency_key=k).id for k in ("k", "K", "k ")]
    assert queued(redis, "iris@v1") == ids


def test_an_idempotency_key_names_its_job_after_a_flip_too(client: Client, redis: Redis):
    first = client.submit("iris", instances=[ROW], idempotency_key="k")
    redis.set("modelyard:active:iris", "v2")
    again = client.submit("iris", instances=[ROW], idempotency_key="k")
    assert (again.id, again.version) == (first.id, "v1")


@pytest.mark.parametrize(
    "other",
    [
        {"instances": [[1, 2, 3, 5]]},
        {"instances": [ROW], "version": "v1"},
        {"instances": [ROW], "routing_key": "u"},
        {"instances": [ROW], "outputs": ["predictions"]},
        {"instances": [ROW], "deadline_ms": 5},
        {"inputs": dict(zip("abcd", ([v] for v in ROW), strict=True))},
    ],
)
def test_an_idempotency_key_with_another_body_is_refused(
    client: Client, redis: Redis, other: dict[str, Any]
):
    first = client.submit("iris", instances=[ROW], idempotency_key="k")
    with pytest.raises(IdempotencyMismatch, match=first.id):
        client.submit("iris", idempotency_key="k", **other)
    assert queued(redis, "iris@v1") == [first.id]


def test_idempotency_keys_of_different_models_do_not_meet(client: Client, redis: Redis):
    publish(redis, "other", "v1", active="v1")
    first = client.submit("iris", instances=[ROW], idempotency_key="k")
    second = client.submit("other", instances=[ROW], idempotency_key="k")
    assert first.id != second.id
    assert not second.is_repeat


def test_an_idempotency_key_outlives_neither_its_time_nor_its_job(client: Client, redis: Redis):
    first = client.submit("iris", instances=[ROW], idempotency_key="k")
    (remembered,) = redis.keys("modelyard:idempotency:*")
    assert 0 < redis.ttl(remembered) <= client.settings.idempotency_ttl_s
    redis.delete(keys.key("job", first.id))
    again = client.submit("iris", instances=[ROW], idempotency_key="k")
    assert again.id != first.id
    assert not again.is_repeat


def test_an_idempotency_key_used_twice_in_one_call_queues_once(client: Client, redis: Redis):
    request = Request("iris", [ROW], idempotency_key="k")
    first, second = client.submit_many([request, request])
    assert isinstance(first, Handle)
    assert isinstance(second, Handle)
    assert first.id == second.id
    assert queued(redis, "iris@v1") == [first.id]


def test_an_idempotency_key_is_kept_as_a_digest_only(client: Client, redis: Redis):
    client.submit("iris", instances=[ROW], idempotency_key="secret\r\n of the caller")
    (name,) = redis.keys("modelyard:idempotency:*")
    assert len(name) == len("modelyard:idempotency:iris:") + 64
    assert b"secret" not in name
    assert b"secret" not in (redis.get(name) or b"")


@pytest.mark.parametrize("key", BAD_IDEMPOTENCY_KEYS.values(), ids=BAD_IDEMPOTENCY_KEYS)
def test_an_idempotency_key_has_1_to_256_characters(client: Client, key: str):
    with pytest.raises(InvalidInput, match="1 to 256"):
        client.submit("iris", instances=[ROW], idempotency_key=key)


# Bounds


def test_a_full_queue_takes_no_more(redis: Redis, redis_url: str):
    publish(redis, "iris", "v1", "v2", active="v1")
    with new_client(redis_url, queue_bound=3) as client:
        for _ in range(3):
            client.submit("iris", instances=[ROW])
        before = snapshot(redis)
        with pytest.raises(QueueFull, match="iris@v1 holds 3 jobs") as caught:
            client.submit("iris", instances=[ROW], idempotency_key="k", deadline_ms=1000)
        assert caught.value.retryable
        assert snapshot(redis) == before
        assert client.submit("iris", instances=[ROW], version="v2").version == "v2"
        redis.lpop(keys.key("queue", "iris@v1"))
        assert client.submit("iris", instances=[ROW]).version == "v1"


def test_of_many_submissions_a_queue_takes_up_to_its_bound(redis: Redis, redis_url: str):
    publish(redis, "iris", "v1", active="v1")
    with new_client(redis_url, queue_bound=100) as client:
        outcomes = client.submit_many([Request("iris", [ROW])] * 130)
    assert [isinstance(outcome, Handle) for outcome in outcomes] == [True] * 100 + [False] * 30
    assert {type(outcome) for outcome in outcomes[100:]} == {QueueFull}
    assert redis.llen("rq:queue:iris@v1") == 100


def test_many_submissions_each_have_their_own_outcome(client: Client, redis: Redis):
    outcomes = client.submit_many(
        [
            Request("iris", [ROW]),
            Request("iris", [["x"] * 4]),
            Request("nosuch", [ROW]),
            Request("iris", [ROW], version="v9"),
            Request("iris", [ROW], version="v2"),
        ]
    )
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [Handle, InvalidInput, UnknownModel, UnknownVersion, Handle]
    assert redis.llen("rq:queue:iris@v1") == redis.llen("rq:queue:iris@v2") == 1


def test_no_submissions_are_no_round_trip(client: Client):
    assert client.submit_many([]) == []


def test_too_many_rows_or_bytes_are_refused(redis: Redis, redis_url: str):
    publish(redis, "iris", "v1", active="v1")
    publish(redis, "text", "v1", active="v1", signature=TEXT)
    before = snapshot(redis)
    with new_client(redis_url, rows=10, body_bytes=1024) as client:
        with pytest.raises(TooLarge, match="11 rows"):
            client.submit("iris", instances=[ROW] * 11)
        with pytest.raises(TooLarge, match="bytes, the bound is 1024"):
            client.submit("text", instances=["x" * 1024])
        assert snapshot(redis) == before
        client.submit("iris", instances=[ROW] * 10)


def test_a_deadline_is_kept_in_the_job_and_among_the_deadlines(client: Client, redis: Redis):
    handle = client.submit("iris", instances=[ROW], deadline_ms=5000)
    seconds, micros = redis.time()
    due_us = int(redis.hget(keys.key("job", handle.id), "my_deadline") or 0)
    assert 0 < due_us - (seconds * 1_000_000 + micros) <= 5_000_000
    assert redis.zscore(keys.DEADLINES, handle.id) == due_us
    without = client.submit("iris", instances=[ROW])
    assert redis.hget(keys.key("job", without.id), "my_deadline") is None
    assert redis.zcard(keys.DEADLINES) == 1


# Unknown things


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_bad_input_is_refused_with_its_place_and_leaves_nothing(
    client: Client, redis: Redis, refusal: Refusal
):
    before = snapshot(redis)
    with pytest.raises(InvalidInput) as caught:
        client.submit("iris", **refusal.arguments)
    assert caught.value.code == refusal.code
    assert caught.value.errors[0]["loc"] == refusal.loc
    assert refusal.msg in caught.value.errors[0]["msg"]
    assert snapshot(redis) == before


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_outside_the_alphabet_is_refused_and_leaves_nothing(
    client: Client, redis: Redis, name: str
):
    before = snapshot(redis)
    with pytest.raises(InvalidName):
        client.submit("iris", instances=[ROW], version=name)
    with pytest.raises(InvalidName):
        client.submit(name, instances=[ROW])
    assert snapshot(redis) == before


@pytest.mark.parametrize(
    ("model", "known", "error"),
    [
        ("nosuch", {}, UnknownModel),
        ("nosuch", {"version": "v1"}, UnknownModel),
        ("iris", {"version": "v9"}, UnknownVersion),
        (5, {}, InvalidInput),
        ("iris", {"idempotency_key": b"k"}, InvalidInput),
    ],
)
def test_what_cannot_be_served_is_refused_and_leaves_nothing(
    client: Client, redis: Redis, model: Any, known: dict[str, Any], error: type[ModelyardError]
):
    before = snapshot(redis)
    with pytest.raises(error):
        client.submit(model, instances=[ROW], **known)
    assert snapshot(redis) == before


def test_a_model_without_an_active_version_says_what_to_set(redis: Redis, redis_url: str):
    publish(redis, "iris", "v1")
    with new_client(redis_url) as client:
        with pytest.raises(NoActiveVersion, match="modelyard:active:iris"):
            client.submit("iris", instances=[ROW])
        assert client.submit("iris", instances=[ROW], version="v1").version == "v1"


def test_thousands_of_unknown_names_write_nothing(client: Client, redis: Redis):
    before = snapshot(redis)
    names = [secrets.token_hex(8) for _ in range(1000)]
    requests = [Request("iris", [ROW], version=name) for name in names]
    assert {type(outcome) for outcome in client.submit_many(requests)} == {UnknownVersion}
    for name in names[:300]:
        with pytest.raises(UnknownModel):
            client.submit(name, instances=[ROW])
        with pytest.raises(UnknownModel):
            client.resolve(name)
    assert snapshot(redis) == before


def test_a_version_published_a_moment_ago_is_known_at_once(client: Client, redis: Redis):
    client.submit("iris", instances=[ROW])  # the catalogue is remembered now
    publish(redis, "iris", "v3", signature=NARROW)
    assert client.submit("iris", instances=[[1, 2]], version="v3").version == "v3"


# Signatures


def test_rows_are_checked_against_the_version_that_gets_them(client: Client, redis: Redis):
    publish(redis, "iris", "v3", signature=NARROW)
    client.submit("iris", instances=[ROW])
    redis.set("modelyard:active:iris", "v3")
    with pytest.raises(InvalidInput, match=r"instances\[0\]: has 4 values, the signature has 2"):
        client.submit("iris", instances=[ROW])
    assert client.submit("iris", instances=[[1, 2]]).version == "v3"
    redis.set("modelyard:active:iris", "v1")
    assert client.submit("iris", instances=[ROW]).version == "v1"
    assert redis.llen("rq:queue:iris@v3") == 1


def test_rows_of_one_chunk_may_go_to_versions_with_other_signatures(client: Client, redis: Redis):
    publish(redis, "iris", "v3", signature=NARROW)
    redis.hset("modelyard:aliases:iris", "small", "v3")
    outcomes = client.submit_many(
        [
            Request("iris", [[1, 2]], version="small"),
            Request("iris", [ROW]),
            Request("iris", [ROW], version="small"),
            Request("iris", [[1, 2]], version="v1"),
        ]
    )
    assert [getattr(outcome, "version", type(outcome)) for outcome in outcomes] == [
        "v3",
        "v1",
        InvalidInput,
        InvalidInput,
    ]


def test_a_version_published_again_with_another_signature_is_met_with_new_checks(
    client: Client, redis: Redis
):
    client.submit("iris", instances=[ROW])
    publish(redis, "iris", "v1", signature=NARROW)
    with pytest.raises(InvalidInput):
        client.submit("iris", instances=[ROW])
    assert client.submit("iris", instances=[[1, 2]]).version == "v1"


# Flips


def test_the_very_next_submission_obeys_a_flip(client: Client, redis: Redis):
    for turn in range(200):
        version = ("v1", "v2")[turn % 2]
        redis.set("modelyard:active:iris", version)
        assert client.submit("iris", instances=[ROW]).version == version


def test_queued_jobs_stay_where_they_were_accepted(client: Client, redis: Redis):
    ids = [client.submit("iris", instances=[ROW]).id for _ in range(3)]
    redis.set("modelyard:active:iris", "v2")
    client.submit("iris", instances=[ROW])
    assert queued(redis, "iris@v1") == ids


def test_an_alias_names_a_version_from_the_next_submission_on(client: Client, redis: Redis):
    redis.hset("modelyard:aliases:iris", "champion", "v2")
    assert client.submit("iris", instances=[ROW], version="champion").version == "v2"
    redis.hset("modelyard:aliases:iris", "champion", "v1")
    assert client.submit("iris", instances=[ROW], version="champion").version == "v1"
    redis.hdel("modelyard:aliases:iris", "champion")
    with pytest.raises(UnknownVersion, match="champion"):
        client.submit("iris", instances=[ROW], version="champion")


def test_a_version_wins_over_an_alias_of_its_name(client: Client, redis: Redis):
    redis.hset("modelyard:aliases:iris", "v1", "v2")
    assert client.submit("iris", instances=[ROW], version="v1").version == "v1"


@pytest.mark.parametrize("value", ["v9", "", "champion", "v1\n", b"\xff\xfe", "v1=1 v2"])
def test_an_alias_of_what_is_not_published_is_unknown(
    client: Client, redis: Redis, value: bytes | str
):
    redis.hset("modelyard:aliases:iris", "champion", value)
    with pytest.raises(UnknownVersion):
        client.submit("iris", instances=[ROW], version="champion")


def test_an_alias_key_of_another_type_names_nothing(client: Client, redis: Redis):
    redis.set("modelyard:aliases:iris", "v1")
    with pytest.raises(UnknownVersion):
        client.submit("iris", instances=[ROW], version="champion")
    assert client.submit("iris", instances=[ROW], version="v2").version == "v2"


# Splits


def test_weights_split_the_jobs_in_proportion(client: Client, redis: Redis):
    redis.hset("modelyard:weights:iris", mapping={"v1": 90, "v2": 10})
    outcomes = client.submit_many([Request("iris", [ROW])] * 3000)
    count = Counter(outcome.version for outcome in outcomes if isinstance(outcome, Handle))
    assert count.total() == 3000
    assert 200 < count["v2"] < 400  # 300, and 6 standard deviations of 16.4 to each side


def test_a_split_holds_for_the_very_next_submission_and_ends_with_its_key(
    client: Client, redis: Redis
):
    for _ in range(20):
        redis.hset("modelyard:weights:iris", mapping={"v1": 0, "v2": 1})
        assert client.submit("iris", instances=[ROW]).version == "v2"
        redis.delete("modelyard:weights:iris")
        assert client.submit("iris", instances=[ROW]).version == "v1"


def test_a_routing_key_gets_the_same_version_from_every_client(
    client: Client, redis: Redis, redis_url: str
):
    redis.hset("modelyard:weights:iris", mapping={"v1": 50, "v2": 50})
    users = [f"user-{n}" for n in range(60)]
    first = {
        user: client.submit("iris", instances=[ROW], routing_key=user).version for user in users
    }
    with new_client(redis_url) as other:
        for user in users:
            again = other.submit("iris", instances=[ROW], routing_key=user)
            assert again.version == first[user]
    assert len(set(first.values())) == 2


WEIGHTS = st.floats(0, 1e9) | st.integers(0, 100) | st.sampled_from([1e-300, 1e299, 0.1, 0.3])


@given(
    st.dictionaries(
        st.sampled_from(["v1", "v2", "v1.1", "v10", "a-b", "a_b"]), WEIGHTS, min_size=1
    ),
    st.floats(0, 1, exclude_max=True) | st.text(max_size=5),
)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200
)
def test_the_scripts_choice_is_that_of_routing_choose(
    redis: Redis, client: Client, weights: dict[str, float], at: float | str
):
    publish(redis, "iris", "v1", "v2", "v1.1", "v10", "a-b", "a_b")
    redis.delete("modelyard:weights:iris")
    redis.hset("modelyard:weights:iris", mapping={v: repr(w) for v, w in weights.items()})
    point = at if isinstance(at, float) else routing_point("iris", at)
    route = read_route(redis, "iris")
    chosen = choose(route.weights, point)
    assert client.resolve("iris", point=point).version == chosen
    if 0 < sum(weights.values()) <= 1e300:
        assert route.mode == "weights"
        assert route.weights == {v: w for v, w in weights.items() if w > 0}
        assert weights[chosen or ""] > 0


# Redis


def test_without_redis_it_says_so_at_once_and_serves_again_once_it_is_back(
    client: Client, redis: Redis, redis_server: RedisServer
):
    client.submit("iris", instances=[ROW])
    redis_server.kill()
    with ends_soon(), pytest.raises(Unavailable, match="does not answer"):
        client.submit("iris", instances=[ROW])
    redis_server.start()
    with redis_server.client() as fresh:
        publish(fresh, "iris", "v1", active="v1")
        handle = client.submit("iris", instances=[ROW])
        assert queued(fresh, "iris@v1") == [handle.id]


def test_a_redis_that_hangs_is_unavailable_soon(
    client: Client, redis: Redis, redis_server: RedisServer
):
    client.submit("iris", instances=[ROW])
    redis_server.pause()
    try:
        with ends_soon(), pytest.raises(Unavailable, match="does not answer"):
            client.submit("iris", instances=[ROW])
    finally:
        redis_server.resume()


def test_a_full_redis_takes_no_job_and_says_so(client: Client, redis: Redis):
    client.submit("iris", instances=[ROW])
    before = snapshot(redis)
    redis.config_set("maxmemory", 1)
    with pytest.raises(Unavailable, match="full"):
        client.submit("iris", instances=[ROW])
    redis.config_set("maxmemory", 0)
    assert snapshot(redis) == before
    client.submit("iris", instances=[ROW])


def test_a_queue_key_of_another_type_is_unavailable_and_leaves_no_job(client: Client, redis: Redis):
    redis.set("rq:queue:iris@v1", "x")
    before = snapshot(redis)
    with pytest.raises(Unavailable, match="rq:queue:iris@v1 is no list"):
        client.submit("iris", instances=[ROW])
    assert snapshot(redis) == before
    assert client.submit("iris", instances=[ROW], version="v2").version == "v2"


def test_signatures_of_the_catalogue_are_those_that_jobs_are_checked_against(client: Client):
    assert client.catalog.versions("iris")["v1"].signature == IRIS
