"""Scripts: a server that does not know them is taught, and a known one is sent the digest only."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from tests.helpers.redis_server import RedisServer
from tests.helpers.stand_ins import ROW, commands_sent, new_client, publish
from yard.broker.lua import Script
from yard.contract import keys
from yard.routing.routes import read_route, set_route

SCRIPTS = sorted(
    (package, file.name.removesuffix(".lua"))
    for package in ("yard", "producer", "worker")
    for file in files(package).joinpath("scripts").iterdir()
    if file.name.endswith(".lua")
)


def test_every_call_works_after_the_server_forgot_its_scripts(redis: Redis, redis_url: str):
    publish(redis, "iris", "v1", "v2", active="v1")
    with new_client(redis_url) as client:
        for version in ("v1", "v2", "v1"):
            redis.script_flush()
            set_route(redis, "iris", active=version)
            redis.script_flush()
            handle = client.submit("iris", instances=[ROW])
            assert handle.version == version
            redis.script_flush()
            assert client.resolve("iris").version == version
            redis.script_flush()
            assert handle.cancel().status == "canceled"
            redis.script_flush()
            assert read_route(redis, "iris").active == version
        assert redis.llen("rq:queue:iris@v1") == redis.llen("rq:queue:iris@v2") == 0


def test_a_restarted_server_is_taught_again(
    redis: Redis, redis_url: str, redis_server: RedisServer
):
    publish(redis, "iris", "v1", active="v1")
    with new_client(redis_url) as client:
        client.submit("iris", instances=[ROW])
        redis_server.kill()
        redis_server.start()
        with redis_server.client() as fresh:
            publish(fresh, "iris", "v1", active="v1")
            assert client.submit("iris", instances=[ROW]).version == "v1"
            assert fresh.llen("rq:queue:iris@v1") == 1


def test_a_script_that_the_server_knows_is_called_by_its_digest_alone(redis: Redis):
    publish(redis, "iris", "v1", active="v1")
    script = Script("yard", "resolve")
    script(redis, ["iris", "", 0.5])
    with commands_sent(redis) as sent:
        assert script(redis, ["iris", "", 0.5])[0] == b"ok"
    assert len(sent) == 1
    assert sent[0].startswith(f"EVALSHA {script.sha} ")


def test_an_error_inside_a_script_is_not_taken_for_a_missing_script(redis: Redis):
    redis.set("modelyard:models", "x")
    with commands_sent(redis) as sent, pytest.raises(ResponseError, match="WRONGTYPE"):
        Script("yard", "resolve")(redis, ["iris", "", 0.5])
    assert len(sent) <= 2  # taught at most once, and not again for the error


@pytest.mark.parametrize(("package", "name"), SCRIPTS)
def test_every_script_compiles(redis: Redis, package: str, name: str):
    script = Script(package, name)
    assert redis.script_load(script.source) == script.sha


@pytest.mark.parametrize(("package", "name"), SCRIPTS)
def test_a_script_spells_no_key_and_every_family_that_it_names_exists(package: str, name: str):
    text = files(package).joinpath("scripts", f"{name}.lua").read_text(encoding="utf-8")
    code = "\n".join(line.partition("--")[0] for line in text.splitlines())
    assert "modelyard:" not in code
    assert "rq:" not in code
    known = keys.PREFIXES.keys() | keys.SINGLES.keys() | keys.NUMBERS.keys()
    assert set(re.findall(r"\bK\.(\w+)", text)) <= known


@pytest.mark.parametrize(("package", "name"), SCRIPTS)
def test_a_script_holds_each_part_that_it_uses_once(package: str, name: str):
    source = Script(package, name).source
    assert "--- use" not in source
    functions = re.findall(r"^local function (\w+)", source, re.MULTILINE)
    assert len(functions) == len(set(functions))


def test_an_unknown_script_is_an_error_at_once():
    with pytest.raises(FileNotFoundError):
        Script("yard", "nosuch")
