"""Keys that operators set by hand: a good value holds at once, a bad one never takes effect."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis

from producer.client import Client
from producer.handle import Handle
from tests.helpers.stand_ins import ROW, new_client, publish
from yard.contract import keys
from yard.contract.values import Request, Route
from yard.errors import (
    InvalidName,
    InvalidRoute,
    NoActiveVersion,
    RevisionMismatch,
    UnknownModel,
)
from yard.routing.routes import (
    history,
    look_at_routes,
    read_route,
    rollback,
    set_alias,
    set_route,
)

ACTIVE = "modelyard:active:iris"
WEIGHTS = "modelyard:weights:iris"

Write = Callable[[Redis], Any]


@pytest.fixture
def client(redis: Redis, redis_url: str) -> Iterator[Client]:
    """A client of a yard where iris has v1, which is active, v2 and v3."""
    publish(redis, "iris", "v1", "v2", "v3", active="v1")
    with new_client(redis_url) as made:
        yield made


def next_version(client: Client) -> str:
    """Where the very next job goes."""
    return client.submit("iris", instances=[ROW]).version


def weights(**values: Any) -> Write:
    def write(redis: Redis) -> None:
        redis.delete(WEIGHTS)
        redis.hset(WEIGHTS, mapping=dict[Any, Any](values))

    return write


def named(version: bytes) -> Write:
    def write(redis: Redis) -> None:
        redis.delete(WEIGHTS)
        redis.hset(WEIGHTS, version, 1)

    return write


def active(value: Any) -> Write:
    return lambda redis: redis.set(ACTIVE, value)


def of_type(key: str, kind: str) -> Write:
    """The key holds something else."""

    def write(redis: Redis) -> None:
        redis.delete(key)
        match kind:
            case "string":
                redis.set(key, "v2")
            case "list":
                redis.rpush(key, "v2")
            case "hash":
                redis.hset(key, "v2", "1")
            case "stream":
                redis.xadd(key, {"v2": "1"})

    return write


# The value that is written -> a part of the problem that is named.
BAD_ACTIVE: dict[str, tuple[Write, str]] = {
    "an unknown version": (active("v9"), "active is 'v9', which is not published"),
    "an alias": (active("champion"), "'champion', which is not published"),
    "a trailing newline": (active("v1\n"), "'v1?', which is not published"),
    "a plan": (active("v2=1 v3"), "which is not published"),
    "no UTF-8": (active(b"\xff\xfe\x00"), "'???', which is not published"),
    "markup": (active("<img src=x onerror=alert(1)>"), "which is not published"),
    "an escape sequence": (active("\x1b[31mv2"), "'?[31mv2'"),
    "nothing": (active(""), "the key modelyard:active:iris is empty; only DEL clears it"),
    "a megabyte": (active("v" * 2**20), "which is not published"),
    "a list": (of_type(ACTIVE, "list"), "the key modelyard:active:iris is no string"),
    "a hash": (of_type(ACTIVE, "hash"), "the key modelyard:active:iris is no string"),
    "a stream": (of_type(ACTIVE, "stream"), "the key modelyard:active:iris is no string"),
}
BAD_WEIGHTS: dict[str, tuple[Write, str]] = {
    "below zero": (weights(v1=-1, v2=2), "'-1', which is no finite number >= 0"),
    "NaN": (weights(v1="nan", v2=1), "'nan', which is no finite number"),
    "infinity": (weights(v2="inf"), "'inf', which is no finite number"),
    "beyond a double": (weights(v2="1e309"), "'1e309', which is no finite number"),
    "a sum beyond a double": (weights(v1="1e300", v2="1e300"), "beyond all bounds"),
    "a sum of zero": (weights(v1=0, v2="0.0"), "the weights sum to zero"),
    "a word": (weights(v2="many"), "'many', which is no finite number"),
    "nothing": (weights(v2=""), "'', which is no finite number"),
    "a space": (weights(v2=" 5"), "which is no finite number"),
    "hexadecimal": (weights(v2="0x10"), "which is no finite number"),
    "a comma": (weights(v2="1,5"), "which is no finite number"),
    "per cent": (weights(v2="50%"), "which is no finite number"),
    "two numbers": (weights(v2="1 v3=1"), "which is no finite number"),
    "five thousand digits": (weights(v2="1" * 5000), "which is no finite number"),
    "no UTF-8": (weights(v2=b"\xff\xfe"), "'??', which is no finite number"),
    "an unknown version": (weights(v2=1, v9=1), "weights name 'v9', which is not published"),
    "an unknown version of weight zero": (weights(v2=1, v9=0), "'v9', which is not published"),
    "a name that is no UTF-8": (named(b"\xff"), "'?', which is not published"),
    "a name of a megabyte": (named(b"v" * 2**20), "which is not published"),
    "10,000 versions": (
        weights(**{f"v{n}": 1 for n in range(10_000)}),
        "weights name more than 256 versions",
    ),
    "a string": (of_type(WEIGHTS, "string"), "the key modelyard:weights:iris is no hash"),
    "a list": (of_type(WEIGHTS, "list"), "the key modelyard:weights:iris is no hash"),
}


def check_kept(client: Client, before: Route, problem: str) -> None:
    """The route goes on as it was, and says what is wrong with its keys."""
    for _ in range(5):
        assert next_version(client) in before.weights
    after = read_route(client.redis, "iris")
    assert (after.mode, after.weights, after.active) == (before.mode, before.weights, before.active)
    assert len(after.problems) == 1
    assert problem in after.problems[0]
    assert after.problems[0].isprintable()
    assert len(after.problems[0]) < 200
    assert after.revision == before.revision + 1


@pytest.mark.parametrize(("write", "problem"), BAD_ACTIVE.values(), ids=BAD_ACTIVE)
def test_a_bad_active_version_keeps_the_last_good_one(client: Client, write: Write, problem: str):
    before = read_route(client.redis, "iris")
    write(client.redis)
    check_kept(client, before, problem)


@pytest.mark.parametrize(("write", "problem"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_bad_weights_keep_the_active_version(client: Client, write: Write, problem: str):
    before = read_route(client.redis, "iris")
    write(client.redis)
    check_kept(client, before, problem)


@pytest.mark.parametrize(("write", "problem"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_bad_weights_keep_the_last_good_split(client: Client, write: Write, problem: str):
    weights(v1=1, v2=3)(client.redis)
    before = read_route(client.redis, "iris")
    assert before.weights == {"v1": 1, "v2": 3}
    write(client.redis)
    check_kept(client, before, problem)


@pytest.mark.parametrize(("write", "problem"), BAD_ACTIVE.values(), ids=BAD_ACTIVE)
def test_a_bad_active_version_beside_a_split_only_says_so(
    client: Client, write: Write, problem: str
):
    weights(v2=1, v3=1)(client.redis)
    before = read_route(client.redis, "iris")
    write(client.redis)
    check_kept(client, before, problem)


@pytest.mark.parametrize(("write", "_problem"), [*BAD_ACTIVE.values(), *BAD_WEIGHTS.values()])
def test_bad_values_from_the_start_route_nothing(
    redis: Redis, redis_url: str, write: Write, _problem: str
):
    publish(redis, "iris", "v1", "v2")
    write(redis)
    with new_client(redis_url) as client, pytest.raises(NoActiveVersion):
        next_version(client)
    route = read_route(redis, "iris")
    assert (route.mode, route.weights, len(route.problems)) == ("none", {}, 1)


def test_a_good_value_after_a_bad_one_holds_at_once_and_the_problem_goes(client: Client):
    for bad, _ in BAD_ACTIVE.values():
        bad(client.redis)
        assert next_version(client) == "v1"
        active("v2")(client.redis)
        assert next_version(client) == "v2"
        assert read_route(client.redis, "iris").problems == ()
        active("v1")(client.redis)
        assert next_version(client) == "v1"


def test_a_flip_holds_although_the_weights_are_bad(client: Client):
    weights(v1="nan")(client.redis)
    assert next_version(client) == "v1"
    active("v2")(client.redis)
    assert next_version(client) == "v2"
    assert len(read_route(client.redis, "iris").problems) == 1


def test_both_keys_may_be_bad_at_once(client: Client):
    active("v9")(client.redis)
    weights(v8=1)(client.redis)
    assert next_version(client) == "v1"
    problems = read_route(client.redis, "iris").problems
    assert ["v9" in problems[0], "v8" in problems[1]] == [True, True]


def test_a_problem_that_moves_from_one_key_to_the_other_is_seen(client: Client):
    of_type(ACTIVE, "list")(client.redis)
    assert "active:iris is no string" in read_route(client.redis, "iris").problems[0]
    client.redis.delete(ACTIVE)
    of_type(WEIGHTS, "string")(client.redis)
    assert "weights:iris is no hash" in read_route(client.redis, "iris").problems[0]


def test_deleting_the_weights_ends_the_split_even_if_active_is_bad_by_then(client: Client):
    weights(v2=1, v3=1)(client.redis)
    assert next_version(client) in {"v2", "v3"}
    active("v9")(client.redis)
    assert next_version(client) in {"v2", "v3"}
    client.redis.delete(WEIGHTS)
    assert next_version(client) == "v1"


def test_an_empty_value_shows_as_such_and_an_absent_one_as_none(client: Client):
    active("")(client.redis)
    assert read_route(client.redis, "iris").keys["active"] == ""
    client.redis.delete(ACTIVE)
    route = read_route(client.redis, "iris")
    assert (route.keys["active"], route.problems, route.mode) == (None, (), "none")


def test_an_empty_value_does_not_lose_the_last_good_route(client: Client):
    active("")(client.redis)
    assert next_version(client) == "v1"
    active("v2")(client.redis)  # no job uses it
    active("v9")(client.redis)
    assert next_version(client) == "v1"


@pytest.mark.parametrize("bad", ["", "v9"])
def test_a_route_that_was_looked_at_goes_on_although_no_job_used_it(client: Client, bad: str):
    client.redis.delete(ACTIVE)
    look_at_routes(client.redis, ["iris"])
    active("v2")(client.redis)
    assert look_at_routes(client.redis, ["iris", "nosuch"]) == {"iris": (), "nosuch": ()}
    active(bad)(client.redis)
    assert len(look_at_routes(client.redis, ["iris"])["iris"]) == 1
    assert next_version(client) == "v2"


def test_a_look_writes_the_history(client: Client):
    weights(v1=1, v3=3)(client.redis)
    look_at_routes(client.redis, ["iris"])
    newest: Any = client.redis.xrevrange("modelyard:history:iris", count=1)
    assert newest[0][1][b"plan"] == b"v1=1 v3=3"


def test_a_look_past_a_model_whose_keys_are_broken_reads_the_others(client: Client):
    models = [f"m{n:03}" for n in range(120)]
    for model in models:
        publish(client.redis, model, "v1")
        client.redis.set(f"modelyard:active:{model}", "v1")
    client.redis.delete("modelyard:route:m007")
    client.redis.set("modelyard:route:m007", "rubbish")
    found = look_at_routes(client.redis, models)
    assert sorted(found) == [model for model in models if model != "m007"]
    assert client.redis.hget("modelyard:route:m119", "plan") == b"v1=1"


@pytest.mark.parametrize("named", [None, "champion", "v2"])
def test_a_call_reads_a_route_or_a_name_once_for_all_its_jobs(client: Client, named: str | None):
    weights(v1=1, v2=1)(client.redis)
    set_alias(client.redis, "iris", "champion", "v2")
    requests = [Request("iris", [ROW], version=named) for _ in range(50)]
    client.submit_many(requests)  # the script and the signatures are known from now on
    client.redis.config_resetstat()
    assert {type(one) for one in client.submit_many(requests)} == {Handle}
    stats: Any = client.redis.info("commandstats")
    reads = {
        name: stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("hlen", "hmget")
    }
    assert reads == dict.fromkeys(reads, 0 if named else 1)
    by_job = 50  # each looks whether it was queued before
    assert stats["cmdstat_hget"]["calls"] <= by_job + 3


def test_jobs_of_one_call_are_split_as_single_ones_are(client: Client):
    weights(v1=1, v2=2, v3=1)(client.redis)
    set_alias(client.redis, "iris", "champion", "v3")
    requests = [Request("iris", [ROW], routing_key=f"user-{n}") for n in range(60)]
    requests += [Request("iris", [ROW], version=name) for name in ("champion", "v2", "v9", "v2")]
    outcomes = client.submit_many(requests)
    *routed, alias, by_name, unknown, again = [getattr(one, "version", None) for one in outcomes]
    assert routed == [client.submit_request(request).version for request in requests[:60]]
    assert set(routed) == {"v1", "v2", "v3"}
    assert (alias, by_name, unknown, again) == ("v3", "v2", None, "v2")


def test_deleting_all_keys_routes_nothing(client: Client):
    assert next_version(client) == "v1"
    client.redis.delete(ACTIVE)
    with pytest.raises(NoActiveVersion):
        next_version(client)
    assert read_route(client.redis, "iris").mode == "none"


def test_a_key_written_before_its_version_is_published_holds_from_then_on(client: Client):
    active("v4")(client.redis)
    assert next_version(client) == "v1"
    publish(client.redis, "iris", "v4")
    assert next_version(client) == "v4"
    assert read_route(client.redis, "iris").problems == ()


@pytest.mark.parametrize(
    ("text", "value"), [("5.", 5), (".5", 0.5), ("1e2", 100), ("+3", 3), ("007", 7), ("1e+1", 10)]
)
def test_weights_may_be_written_as_any_decimal_number(client: Client, text: str, value: float):
    weights(v2=text)(client.redis)
    assert read_route(client.redis, "iris").weights == {"v2": value}
    assert next_version(client) == "v2"


def test_a_weight_of_zero_gets_nothing(client: Client):
    weights(v1=0, v2=1, v3="-0")(client.redis)
    assert {next_version(client) for _ in range(20)} == {"v2"}


def test_a_split_between_256_versions_is_the_most(client: Client):
    versions = [f"w{n}" for n in range(257)]
    publish(client.redis, "iris", *versions)
    weights(**dict.fromkeys(versions[:256], 1))(client.redis)
    assert len(read_route(client.redis, "iris").weights) == 256
    with pytest.raises(InvalidRoute, match="257 weights, the bound is 256"):
        set_route(client.redis, "iris", weights=dict.fromkeys(versions, 1.0))
    assert (
        len(set_route(client.redis, "iris", weights=dict.fromkeys(versions[:256], 2.0)).weights)
        == 256
    )


def test_the_route_shows_what_the_keys_say_whatever_that_is(client: Client):
    active("v1\n<b>")(client.redis)
    client.redis.hset(WEIGHTS, mapping={b"\xff": b"\xfe", "v2": "x" * 1000})
    client.redis.hset("modelyard:aliases:iris", mapping={"champion": "v2", b"\xff": b"\xff"})
    said = read_route(client.redis, "iris").keys
    assert said["active"] == "v1\n<b>"
    assert said["weights"] == {"\ufffd": "\ufffd", "v2": "x" * 200}
    assert said["aliases"] == {"champion": "v2", "\ufffd": "\ufffd"}


def test_reading_a_route_that_stands_writes_nothing(client: Client):
    before = read_route(client.redis, "iris")
    for _ in range(5):
        next_version(client)
    assert read_route(client.redis, "iris") == before
    assert len(history(client.redis, "iris")) == 1


def test_a_route_of_no_model_is_an_error_and_leaves_no_key(client: Client):
    before = client.redis.dbsize()
    for model in ("nosuch", "a" * 63):
        with pytest.raises(UnknownModel):
            read_route(client.redis, model)
        with pytest.raises(UnknownModel):
            set_route(client.redis, model, active="v1")
    with pytest.raises(InvalidName):
        read_route(client.redis, "../iris")
    assert client.redis.dbsize() == before


# Written through `set_route`


def test_activating_a_version_ends_a_split(client: Client):
    weights(v2=1, v3=1)(client.redis)
    route = set_route(client.redis, "iris", active="v3")
    assert (route.mode, route.weights, route.active) == ("active", {"v3": 1}, "v3")
    assert client.redis.get(ACTIVE) == b"v3"
    assert client.redis.exists(WEIGHTS) == 0
    assert next_version(client) == "v3"


def test_weights_leave_the_active_version_for_when_they_are_cleared(client: Client):
    route = set_route(client.redis, "iris", weights={"v2": 90, "v3": 0.5})
    assert (route.mode, route.weights, route.active) == ("weights", {"v2": 90, "v3": 0.5}, "v1")
    route = set_route(client.redis, "iris", weights={})
    assert (route.mode, route.weights, route.active) == ("active", {"v1": 1}, "v1")


def test_new_weights_replace_the_old_ones(client: Client):
    set_route(client.redis, "iris", weights={"v2": 90, "v3": 10})
    assert set_route(client.redis, "iris", weights={"v1": 1}).weights == {"v1": 1}
    assert client.redis.hgetall(WEIGHTS) == {b"v1": b"1"}


def test_active_and_weights_may_be_written_together(client: Client):
    route = set_route(client.redis, "iris", active="v2", weights={"v1": 1, "v3": 1})
    assert (route.mode, route.weights, route.active) == ("weights", {"v1": 1, "v3": 1}, "v2")


def test_writing_repairs_a_key_of_another_type(client: Client):
    of_type(ACTIVE, "list")(client.redis)
    of_type(WEIGHTS, "string")(client.redis)
    route = set_route(client.redis, "iris", active="v2", weights={"v2": 1, "v3": 1})
    assert (route.weights, route.active, route.problems) == ({"v2": 1, "v3": 1}, "v2", ())


@pytest.mark.parametrize(
    "asked",
    [
        {"active": "v9"},
        {"active": "v2", "weights": {"v9": 1}},
        {"weights": {"v2": -1}},
        {"weights": {"v2": math.nan}},
        {"weights": {"v2": math.inf}},
        {"weights": {"v1": 0, "v2": 0}},
        {"weights": {"v1": 1e300, "v2": 1e300}},
        {},
    ],
)
def test_what_could_not_be_obeyed_is_refused_and_changes_nothing(
    client: Client, asked: dict[str, Any]
):
    weights(v2=1, v3=1)(client.redis)
    before = read_route(client.redis, "iris")
    with pytest.raises(InvalidRoute):
        set_route(client.redis, "iris", **asked)
    assert read_route(client.redis, "iris") == before


@pytest.mark.parametrize("asked", [{"active": "../v1"}, {"weights": {"V1": 1}}])
def test_a_name_outside_the_alphabet_is_refused(client: Client, asked: dict[str, Any]):
    with pytest.raises(InvalidName):
        set_route(client.redis, "iris", **asked)


def test_a_write_may_be_bound_to_a_revision(client: Client):
    seen = read_route(client.redis, "iris").revision
    route = set_route(client.redis, "iris", active="v2", revision=seen)
    assert route.revision > seen
    with pytest.raises(RevisionMismatch, match=f"at revision {route.revision}, not {seen}"):
        set_route(client.redis, "iris", active="v3", revision=seen)
    assert next_version(client) == "v2"


def test_a_change_by_hand_moves_the_revision(client: Client):
    seen = read_route(client.redis, "iris").revision
    active("v3")(client.redis)
    with pytest.raises(RevisionMismatch):
        set_route(client.redis, "iris", active="v2", revision=seen)
    assert next_version(client) == "v3"


def test_a_change_and_back_by_hand_moves_the_revision_once_it_was_seen(client: Client):
    seen = read_route(client.redis, "iris").revision
    active("v3")(client.redis)
    next_version(client)
    active("v1")(client.redis)
    assert read_route(client.redis, "iris").revision == seen + 2


# History and rollback


def test_history_tells_the_routes_latest_first(client: Client):
    active("v2")(client.redis)
    next_version(client)
    set_route(client.redis, "iris", weights={"v1": 1, "v3": 3})
    known = history(client.redis, "iris")
    assert [(entry["mode"], entry["plan"]) for entry in known] == [
        ("weights", "v1=1 v3=3"),
        ("active", "v2=1"),
        ("active", "v1=1"),
    ]
    assert [entry["revision"] for entry in known] == sorted(
        (entry["revision"] for entry in known), reverse=True
    )
    assert known[0]["at_ms"] >= known[-1]["at_ms"] > 1.7e12
    assert len(history(client.redis, "iris", count=1)) == 1


def test_a_bad_value_makes_no_history(client: Client):
    for bad, _ in [*BAD_ACTIVE.values(), *BAD_WEIGHTS.values()]:
        bad(client.redis)
        next_version(client)
    assert len(history(client.redis, "iris")) == 1


def test_history_is_bounded(client: Client):
    for turn in range(keys.HISTORY_LENGTH + 500):
        active(("v1", "v2")[turn % 2])(client.redis)
        read_route(client.redis, "iris")
    assert client.redis.xlen("modelyard:history:iris") < keys.HISTORY_LENGTH + 200


def test_rollback_puts_the_route_before_the_present_one_back(client: Client):
    active("v2")(client.redis)
    next_version(client)
    route = rollback(client.redis, "iris")
    assert (route.mode, route.active) == ("active", "v1")
    assert next_version(client) == "v1"
    assert rollback(client.redis, "iris").active == "v2"


def test_rollback_restores_a_split_with_its_active_version(client: Client):
    set_route(client.redis, "iris", active="v1", weights={"v2": 90, "v3": 10})
    set_route(client.redis, "iris", active="v3")
    route = rollback(client.redis, "iris")
    assert (route.mode, route.weights, route.active) == ("weights", {"v2": 90, "v3": 10}, "v1")


def test_rollback_ends_a_split(client: Client):
    set_route(client.redis, "iris", weights={"v2": 90, "v3": 10})
    route = rollback(client.redis, "iris")
    assert (route.mode, route.weights) == ("active", {"v1": 1})
    assert client.redis.exists(WEIGHTS) == 0


def test_rollback_without_another_route_is_refused(client: Client):
    with pytest.raises(InvalidRoute, match="no other route"):
        rollback(client.redis, "iris")


def test_rollback_to_a_version_that_is_gone_is_refused_and_changes_nothing(client: Client):
    active("v2")(client.redis)
    next_version(client)
    client.redis.hdel("modelyard:signatures:iris", "v1")
    with pytest.raises(InvalidRoute, match="'v1' of model 'iris' is not published"):
        rollback(client.redis, "iris")
    assert next_version(client) == "v2"


# Aliases


def test_an_alias_is_set_and_taken_away(client: Client):
    set_alias(client.redis, "iris", "champion", "v2")
    assert read_route(client.redis, "iris").keys["aliases"] == {"champion": "v2"}
    set_alias(client.redis, "iris", "champion", None)
    assert read_route(client.redis, "iris").keys["aliases"] == {}


@pytest.mark.parametrize(
    ("alias", "version", "error"),
    [
        ("champion", "v9", InvalidRoute),
        ("v1", "v2", InvalidRoute),
        ("Champion", "v2", InvalidName),
        ("champion", "../v2", InvalidName),
    ],
)
def test_an_alias_that_could_not_be_obeyed_is_refused(
    client: Client, alias: str, version: str, error: type[Exception]
):
    with pytest.raises(error):
        set_alias(client.redis, "iris", alias, version)
    assert client.redis.exists("modelyard:aliases:iris") == 0
