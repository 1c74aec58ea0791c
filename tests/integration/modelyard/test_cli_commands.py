"""The client commands as people and scripts call them: tables, one JSON document, exit statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from redis import Redis

from gateway.api import schemas
from modelyard.cli import main
from producer.client import Client
from tests.helpers.redis_server import RedisServer
from tests.helpers.stand_ins import IRIS, ROW, fail, finish, new_client, publish, queued
from tests.helpers.waiting import wait_until
from yard import local
from yard import status as yard_status
from yard.contract import keys

COMMANDS = (
    "models",
    "route",
    "activate",
    "weights",
    "alias",
    "rollback",
    "submit",
    "result",
    "cancel",
    "jobs",
)
RESULT = {
    "predictions": ["setosa", "virginica"],
    "probabilities": [[0.98, 0.015, 0.005], [0.0, 0.25, 0.75]],
    "classes": ["setosa", "versicolor", "virginica"],
}


class Shell:
    """Calls `modelyard` in this process, against the Redis of the test."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, *words: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(
            main, words, input=stdin, env={"MODELYARD_REDIS_URL": self.url}, prog_name="modelyard"
        )

    def ok(self, *words: str, stdin: str | None = None) -> str:
        """Its output; the exit status must be 0."""
        ran = self(*words, stdin=stdin)
        assert ran.exit_code == 0, ran.output
        assert ran.stderr == ""
        return ran.stdout

    def json(self, *words: str, stdin: str | None = None) -> Any:
        return json.loads(self.ok(*words, "--json", stdin=stdin))

    def error(self, *words: str, stdin: str | None = None, status: int = 1) -> str:
        """The line on stderr; it must have failed so."""
        ran = self(*words, stdin=stdin)
        assert ran.exit_code == status, ran.output
        assert "Traceback" not in ran.output
        if status == 1:
            assert ran.stderr.startswith("error: ")
            assert ran.stderr.count("\n") == 1
        return ran.stderr


@pytest.fixture
def shell(redis: Redis, redis_url: str) -> Shell:
    """A yard where iris has v1, which is active, and v2."""
    publish(redis, "iris", "v1", "v2", active="v1")
    return Shell(redis_url)


@pytest.fixture
def client(shell: Shell) -> Iterator[Client]:
    with new_client(shell.url) as made:
        yield made


def lines(text: str) -> list[list[str]]:
    """A printed table as words."""
    return [line.split() for line in text.splitlines()]


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_an_example(command: str):
    ran = CliRunner().invoke(main, [command, "--help"])
    assert ran.exit_code == 0
    assert f"  modelyard {command}" in ran.stdout.partition("Example")[2]
    assert "--redis-url" in ran.stdout
    assert "--json" in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_the_group_knows_every_command(command: str):
    assert f"\n  {command} " in CliRunner().invoke(main, ["--help"]).stdout


# Which yard


def test_commands_find_the_running_yard_from_any_folder(
    shell: Shell, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("MODELYARD_REDIS_URL", raising=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    me = os.getpid()

    def start(name: str, url: str) -> None:
        data = tmp_path / name / "data"
        data.mkdir(parents=True)
        store = str(tmp_path / name / "store")
        local.write(data, local.Yard(me, local.birth(me), url, "http://127.0.0.1:1", store, "now"))

    def run(*words: str) -> Result:
        return CliRunner().invoke(main, words, prog_name="modelyard")

    nothing = run("models")
    assert nothing.exit_code == 1
    assert str(tmp_path / "elsewhere" / "data") in nothing.stderr
    start("shop", shell.url)
    assert "iris" in run("models").stdout
    assert json.loads(run("doctor", "--json").stdout)["data"] == str(tmp_path / "shop" / "data")
    assert run("models", "--yard", "shop", "--redis-url", shell.url).exit_code == 2
    for words in (["models"], ["doctor"], ["inspect", "iris", "v1"]):
        other = run(*words, "--yard", "lab")
        assert other.exit_code == 1
        assert "no yard 'lab' is running; running: shop (" in other.output
    assert "iris" in run("models", "--yard", str(tmp_path / "shop")).stdout
    verified = json.loads(run("inspect", "iris", "v1", "--yard", "shop", "--json").stdout)
    assert verified["store"] == str(tmp_path / "shop" / "store")


# Eighty columns


def test_tables_fit_a_terminal_of_80_columns(
    shell: Shell, client: Client, redis: Redis, monkeypatch: pytest.MonkeyPatch
):
    long = "a-model-with-a-name-of-more-than-forty-letters"
    publish(redis, long, "v1-with-a-long-name-too", active="v1-with-a-long-name-too")
    handles = [client.submit(model, instances=[ROW]) for model in ("iris", long)]
    fail(redis, handles[0].id, "worker_crashed", "it died " * 20)
    monkeypatch.setenv("COLUMNS", "80")
    for words in (["models"], ["jobs"], ["result", handles[0].id], ["doctor"]):
        shown = shell(*words).stdout
        assert shown
        assert max(map(len, shown.splitlines())) <= 80, shown
    assert handles[0].id in shell.ok("jobs")


def test_classes_that_are_numbers_are_told_from_their_probabilities(
    shell: Shell, client: Client, redis: Redis
):
    handle = client.submit("iris", instances=[ROW])
    outputs = {"predictions": [1], "probabilities": [[0.0, 1.0]], "classes": [0, 1]}
    finish(redis, handle.id, outputs)
    assert "0: 0, 1: 1" in shell.ok("result", handle.id)


def test_of_many_classes_the_likely_ones_are_shown(shell: Shell, client: Client, redis: Redis):
    handle = client.submit("iris", instances=[ROW])
    shares = [0.0, 0.02, 0.9, 0.0, 0.08, 0.0]
    outputs = {"predictions": [2], "probabilities": [shares], "classes": list(range(6))}
    finish(redis, handle.id, outputs)
    assert "2: 0.9, 4: 0.08, 1: 0.02, 3 more" in shell.ok("result", handle.id)


# A Redis that lets nobody in


@pytest.fixture
def locked(redis: Redis, redis_url: str) -> Iterator[str]:
    """URL of the Redis, which asks for a password; the caller puts one in place of PASSWORD."""
    redis.config_set("requirepass", "secret")
    scheme, _, place = redis_url.partition("://")
    yield f"{scheme}://:PASSWORD@{place}"
    redis.config_set("requirepass", "")


@pytest.mark.parametrize(
    "words", [["models"], ["submit", "iris", "[[1, 2, 3, 4]]"], ["retire", "iris", "v1"]]
)
def test_a_wrong_password_is_called_so_with_the_remedy(locked: str, words: list[str]):
    said = Shell(locked.replace("PASSWORD", "wrong")).error(*words)
    assert "refuses the user or the password" in said
    assert "MODELYARD_REDIS_URL" in said
    assert "does not answer" not in said
    assert "doctor" not in said


def test_a_missing_password_is_called_so(locked: str):
    said = Shell(locked.replace(":PASSWORD@", "")).error("models")
    assert "asks for a password" in said


@pytest.mark.parametrize("password", ["wrong", ""])
def test_doctor_does_not_advise_to_start_a_redis_that_refuses(locked: str, password: str):
    url = locked.replace(":PASSWORD@", f":{password}@" if password else "")
    told = json.loads(Shell(url)("doctor", "--json").stdout)
    (found,) = [check for check in told["checks"] if check["name"] == "redis"]
    assert "password" in found["detail"]
    assert "start it" not in found["hint"]


# For operators


def test_models_are_listed_with_share_and_depth(shell: Shell, client: Client):
    client.submit("iris", instances=[ROW])
    head, *rows = lines(shell.ok("models"))
    assert head[:6] == ["MODEL", "VERSION", "TASK", "INPUTS", "SHARE", "QUEUED"]
    assert rows[0][:6] == ["iris", "v1", "classifier", "4", "100.0%", "1"]
    assert rows[1][:6] == ["iris", "v2", "classifier", "4", "-", "0"]


def test_models_as_json_have_the_names_of_the_http_call(shell: Shell, redis: Redis):
    redis.hset("modelyard:aliases:iris", "champion", "v2")
    (model,) = shell.json("models")["models"]
    assert set(model) == set(schemas.Model.model_fields)
    assert set(model["versions"][0]) == set(schemas.Version.model_fields)
    assert schemas.Model.model_validate(model).versions[1].aliases == ["champion"]
    assert model["route"]["shares"] == {"v1": 1.0}
    assert model["versions"][0]["signature_id"] == IRIS.id


def test_models_say_where_they_are_loaded_and_how_large_they_are(shell: Shell, redis: Redis):
    manifest = {
        "signature": IRIS.model_dump(mode="json"),
        "files": [{"name": "a", "size_bytes": 5}, {"name": "b", "size_bytes": 6}, "garbage"],
    }
    redis.hset("modelyard:versions:iris", "v1", json.dumps(manifest))
    redis.zadd(keys.PRESENCE, {"worker:w1": 9e15})
    loaded = {"versions": {"iris@v1": 7}, "host": "here"}
    redis.set("modelyard:loaded:w1", json.dumps(loaded), ex=60)
    (model,) = yard_status.read_models(redis)
    assert model["versions"][0]["size_bytes"] == 11
    assert model["versions"][0]["loaded"] == [{"worker": "w1", "host": "here", "bytes": 7}]
    assert model["versions"][1]["loaded"] == []


def test_no_models_are_no_error(redis: Redis, redis_url: str):
    shell = Shell(redis_url)
    assert "modelyard publish" in shell.ok("models")
    assert shell.json("models") == {"models": []}


def test_the_route_is_shown(shell: Shell):
    assert "active version v1; revision 1" in shell.ok("route", "iris")
    known = shell.json("route", "iris")
    assert (known["model"], known["mode"], known["active"]) == ("iris", "active", "v1")
    assert known["shares"] == {"v1": 1.0}


def test_what_is_wrong_with_the_keys_is_shown_without_escape_sequences(shell: Shell, redis: Redis):
    redis.set("modelyard:active:iris", "v9\x1b[31m\nINFO all is well")
    redis.hset("modelyard:aliases:iris", "\x1b[2J", "\x07")
    shown = shell.ok("route", "iris")
    assert "problem: active is 'v9?[31m?INFO all is well'" in shown
    assert "the last good route goes on" in shown
    assert not [char for char in shown if not char.isprintable() and char != "\n"]
    assert "problem of iris: active is 'v9?[31m" in shell.ok("models")


def test_activating_holds_for_the_next_job(shell: Shell, client: Client):
    assert "active version v2" in shell.ok("activate", "iris", "v2")
    assert client.submit("iris", instances=[ROW]).version == "v2"
    assert shell.json("activate", "iris", "v1")["active"] == "v1"
    assert client.submit("iris", instances=[ROW]).version == "v1"


def test_weights_split_and_are_cleared(shell: Shell):
    rows = lines(shell.ok("weights", "iris", "v1=90", "v2=10"))
    assert rows[1:-1] == [
        ["VERSION", "WEIGHT", "SHARE"],
        ["v1", "90", "90.0%"],
        ["v2", "10", "10.0%"],
    ]
    assert shell.json("route", "iris")["weights"] == {"v1": 90.0, "v2": 10.0}
    cleared = shell.json("weights", "iris", "--clear")
    assert (cleared["mode"], cleared["active"]) == ("active", "v1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give weights"),
        (["v1=1", "--clear"], "give weights"),
        (["v1"], "'v1' is no VERSION=WEIGHT"),
        (["v1="], "is no VERSION=WEIGHT"),
        (["v1=much"], "is no VERSION=WEIGHT"),
        (["v1=1", "v1=2"], "'v1' is given twice"),
    ],
)
def test_weights_that_cannot_be_read_are_a_usage_error(shell: Shell, words: list[str], said: str):
    assert said in shell.error("weights", "iris", *words, status=2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["v1=nan"], "no finite number"),
        (["v1=-1"], "no finite number"),
        (["v1=0"], "sum to zero"),
        (["v9=1"], "'v9' of model 'iris' is not published"),
    ],
)
def test_weights_that_could_not_be_obeyed_are_refused(shell: Shell, words: list[str], said: str):
    before = shell.json("route", "iris")
    assert said in shell.error("weights", "iris", "--", *words)
    assert shell.json("route", "iris") == before


def test_an_alias_is_set_used_and_deleted(shell: Shell):
    assert lines(shell.ok("alias", "iris", "champion", "v2"))[-1] == ["champion", "v2"]
    assert (
        shell.json("submit", "iris", json.dumps([ROW]), "--version", "champion")["version"] == "v2"
    )
    assert shell.json("alias", "iris", "champion", "--delete")["keys"]["aliases"] == {}


@pytest.mark.parametrize("words", [["champion"], ["champion", "v2", "--delete"], []])
def test_an_alias_needs_a_version_or_delete(shell: Shell, words: list[str]):
    shell.error("alias", "iris", *words, status=2)


def test_rollback_puts_the_last_route_back(shell: Shell):
    shell.ok("activate", "iris", "v2")
    assert shell.json("rollback", "iris")["active"] == "v1"
    assert "active version v2" in shell.ok("rollback", "iris")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["route", "nosuch"], "`modelyard models` lists what is published"),
        (["activate", "nosuch", "v1"], "`modelyard models` lists what is published"),
        (["activate", "iris", "v9"], "'v9' of model 'iris' is not published"),
        (["activate", "iris", "../v1"], "is no version name: 1 to 63 of a-z"),
        (["route", "\x1b[31m"], "is no model name"),
        (["alias", "nosuch", "champion", "v1"], "no version of model 'nosuch'"),
        (["alias", "nosuch", "champion", "--delete"], "no version of model 'nosuch'"),
        (["rollback", "iris"], "no other route"),
        (["rollback", "nosuch"], "no version of model 'nosuch'"),
    ],
)
def test_what_operators_ask_wrongly_is_one_line_that_helps(
    shell: Shell, words: list[str], said: str
):
    assert said in shell.error(*words)


# Submitting


def test_a_submitted_job_is_shown(shell: Shell, redis: Redis):
    shown = lines(shell.ok("submit", "iris", json.dumps([ROW])))
    (job_id,) = queued(redis, "iris@v1")
    assert shown[:3] == [["job", job_id], ["status", "queued"], ["queue", "iris@v1"]]


def test_json_is_the_job_as_over_http(shell: Shell):
    job = shell.json("submit", "iris", json.dumps([ROW]))
    assert job["status"] == "queued"
    assert job["url"] == f"/v1/jobs/{job['id']}"
    assert shell.json("result", job["id"]) == job


@pytest.mark.parametrize(
    "body",
    [
        [ROW],
        {"instances": [ROW]},
        {"inputs": {name: [value] for name, value in zip("abcd", ROW, strict=True)}},
        {"instances": [dict(zip("abcd", ROW, strict=True))], "version": "v1"},
    ],
)
def test_rows_may_come_in_every_form_and_from_everywhere(
    shell: Shell, redis: Redis, tmp_path: Path, body: Any
):
    text = json.dumps(body)
    file = tmp_path / "rows.json"
    file.write_text(text)
    sent = [
        shell.json("submit", "iris", text),
        shell.json("submit", "iris", f"@{file}"),
        shell.json("submit", "iris", "-", stdin=text),
    ]
    data = {redis.hget(keys.key("job", job["id"]), "data") for job in sent}
    assert data == {
        json.dumps(
            ["worker.tasks.predict", None, [], {"instances": [ROW]}], separators=(",", ":")
        ).encode()
    }


def test_every_option_reaches_the_job(shell: Shell, redis: Redis):
    options = ["--version", "v2", "--deadline-ms", "60000", "--routing-key", "u"]
    options += ["--output", "predictions", "--output", "probabilities", "--idempotency-key", "k"]
    job = shell.json("submit", "iris", json.dumps([ROW]), *options)
    assert job["version"] == "v2"
    assert redis.zscore(keys.DEADLINES, job["id"]) is not None
    data = json.loads(redis.hget(keys.key("job", job["id"]), "data") or "")
    assert data[3]["outputs"] == ["predictions", "probabilities"]
    assert shell.json("submit", "iris", json.dumps([ROW]), *options)["id"] == job["id"]
    other = shell.error("submit", "iris", json.dumps([[1, 2, 3, 4]]), *options)
    assert "with another body; choose another key" in other


def test_an_option_wins_over_a_member_of_the_object(shell: Shell):
    body = json.dumps({"instances": [ROW], "version": "v1"})
    assert shell.json("submit", "iris", body)["version"] == "v1"
    assert shell.json("submit", "iris", body, "--version", "v2")["version"] == "v2"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("[[1, 2", "not valid JSON"),
        ("", "not valid JSON"),
        ('{"instances": [], "instances": []}', "given twice"),
        ("[[NaN, 1, 1, 1]]", "not valid JSON"),
        ('"text"', "give a list of rows"),
        ("5", "give a list of rows"),
        ('{"rows": []}', "unknown member 'rows'; there are deadline_ms"),
        ('{"\\u001b[31m": 1}', "unknown member '?[31m'"),
        ("@nosuch.json", "nosuch.json: No such file"),
        ("@.", "Is a directory"),
    ],
)
def test_json_that_cannot_be_read_is_a_usage_error(
    shell: Shell, redis: Redis, body: str, said: str
):
    assert said in shell.error("submit", "iris", body, status=2)
    assert redis.keys("rq:job:*") == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["iris", '[["x", 1, 1, 1]]'], "instances[0][0]: must be a number, not a string"),
        (["iris", "[[1]]"], "instances[0]: has 1 values, the signature has 4 inputs"),
        (["iris", "[]"], "instances: must hold at least one row"),
        (["iris", "{}"], "exactly one of 'instances' (rows) and 'inputs' (columns)"),
        (["iris", '{"instances": [[1,1,1,1]], "version": 2}'], "version: must be a string"),
        (["iris", '{"instances": [[1,1,1,1]], "deadline_ms": "5"}'], "deadline_ms: must be"),
        (["iris", "[[1,1,1,1]]", "--output", "magic"], "outputs[0]: unknown output"),
        (
            ["iris", "[[1,1,1,1]]", "--version", "v9"],
            "no version or alias 'v9'; `modelyard models`",
        ),
        (["nosuch", "[[1,1,1,1]]"], "no version of model 'nosuch'"),
    ],
)
def test_a_request_that_is_refused_is_one_line_that_says_where(
    shell: Shell, redis: Redis, words: list[str], said: str
):
    assert said in shell.error("submit", *words)
    assert redis.keys("rq:job:*") == []


def test_a_file_over_the_bound_is_not_read_to_its_end(shell: Shell):
    assert "more than 8388608 bytes" in shell.error("submit", "iris", "@/dev/zero")


@pytest.mark.parametrize(
    "words",
    [
        ["submit", "iris"],
        ["submit", "iris", "[]", "--deadline-ms", "0"],
        ["submit", "iris", "[]", "--wait=-1"],
        ["submit", "iris", "[]", "--wait=long"],
        ["result"],
        ["jobs", "--limit", "0"],
        ["jobs", "--status", "lost"],
        ["route"],
        ["activate", "iris"],
    ],
)
def test_a_call_that_is_none_is_a_usage_error(shell: Shell, words: list[str]):
    assert "Usage: modelyard" in shell.error(*words, status=2)


# Waiting


def ended_by(redis: Redis, end: Any) -> None:
    """End the first job that comes to iris@v1."""
    (job_id,) = wait_until(lambda: queued(redis, "iris@v1"))
    end(redis, job_id)


def test_submit_waits_and_prints_the_result_as_a_table(shell: Shell, redis: Redis):
    with ThreadPoolExecutor(1) as threads:
        ending = threads.submit(ended_by, redis, lambda r, i: finish(r, i, RESULT))
        shown = shell.ok("submit", "iris", json.dumps([ROW, ROW]), "--wait")
        ending.result(20)
    assert "status   finished" in shown
    rows = shown.splitlines()
    assert rows[-3].split() == ["ROW", "predictions", "probabilities"]
    assert rows[-2].split(maxsplit=2) == [
        "0",
        "setosa",
        "setosa: 0.98, versicolor: 0.015, virginica: 0.005",
    ]
    assert rows[-1].split()[:2] == ["1", "virginica"]


def test_submit_waits_as_long_as_said_and_tells_how_to_go_on(shell: Shell, redis: Redis):
    ran = shell("submit", "iris", json.dumps([ROW]), "--wait", "0.05", "--json")
    (job_id,) = queued(redis, "iris@v1")
    assert ran.exit_code == 1
    assert json.loads(ran.stdout)["status"] == "queued"
    assert ran.stderr == (
        f"error: job {job_id} did not end within 0.05 s; "
        "it lives on: `modelyard result ID --wait` waits for it\n"
    )


def test_a_failed_job_is_exit_status_1_and_its_error(shell: Shell, client: Client, redis: Redis):
    job_id = client.submit("iris", instances=[ROW]).id
    fail(redis, job_id, "invalid_input", "no \x1b[31mnumber", row=3)
    ran = shell("result", job_id, "--json")
    assert ran.exit_code == 1
    assert json.loads(ran.stdout)["error"] == {
        "code": "invalid_input",
        "message": "no \x1b[31mnumber",
        "row": 3,
    }
    assert ran.stderr == f"error: job {job_id} failed: invalid_input: no ?[31mnumber (row 3)\n"
    assert "status   failed" in shell("result", job_id).stdout


def test_submit_and_wait_for_a_job_that_fails_is_exit_status_1(shell: Shell, redis: Redis):
    with ThreadPoolExecutor(1) as threads:
        ending = threads.submit(
            ended_by, redis, lambda r, i: fail(r, i, "predict_failed", "ValueError")
        )
        said = shell.error("submit", "iris", json.dumps([ROW]), "--wait", "10")
        ending.result(20)
    assert "failed: predict_failed: ValueError" in said


def test_result_waits_for_the_end(shell: Shell, client: Client, redis: Redis):
    job_id = client.submit("iris", instances=[ROW]).id
    assert shell.json("result", job_id)["status"] == "queued"
    finish(redis, job_id, RESULT)
    assert shell.json("result", job_id, "--wait")["result"] == RESULT


def test_a_long_result_is_shown_in_part_and_given_whole_as_json(
    shell: Shell, client: Client, redis: Redis
):
    job_id = client.submit("iris", instances=[ROW] * 30).id
    finish(redis, job_id, {"predictions": list(range(30)), "odd": "x", "short": [{"a": None}]})
    shown = shell.ok("result", job_id)
    assert "... and 10 more rows: --json prints all" in shown
    assert lines(shown)[-22:-19] == [
        ["ROW", "predictions", "short"],
        ["0", "0", '{"a":null}'],
        ["1", "1", "-"],
    ]
    assert len(shell.json("result", job_id)["result"]["predictions"]) == 30


def test_canceling_shows_the_job_and_waiting_for_it_then_fails(
    shell: Shell, client: Client, redis: Redis
):
    job_id = client.submit("iris", instances=[ROW]).id
    assert "status   canceled" in shell.ok("cancel", job_id)
    assert shell.json("cancel", job_id)["status"] == "canceled"
    assert f"job {job_id} was canceled" in shell.error("result", job_id, "--wait")
    assert queued(redis, "iris@v1") == []


def test_an_ended_job_cannot_be_canceled(shell: Shell, client: Client, redis: Redis):
    job_id = client.submit("iris", instances=[ROW]).id
    finish(redis, job_id, RESULT)
    assert "has finished already" in shell.error("cancel", job_id)


@pytest.mark.parametrize("command", ["result", "cancel"])
def test_an_unknown_job_is_one_line_that_helps(shell: Shell, command: str):
    assert "`modelyard jobs` lists the latest" in shell.error(command, "0" * 32)
    assert "is no job id" in shell.error(command, "bad id!")


# Listing


def test_jobs_are_listed_newest_first(shell: Shell, client: Client, redis: Redis):
    ids = [client.submit("iris", instances=[ROW]).id for _ in range(3)]
    finish(redis, ids[0], RESULT)
    fail(redis, ids[1], "expired", "too late")
    head, *rows = lines(shell.ok("jobs"))
    assert head == ["ID", "STATUS", "QUEUE", "AGE", "MS", "ERROR"]
    assert [row[:3] for row in rows] == [
        [ids[2], "queued", "iris@v1"],
        [ids[1], "failed", "iris@v1"],
        [ids[0], "finished", "iris@v1"],
    ]
    assert [row[-1] for row in rows] == ["-", "expired", "-"]
    found = shell.json("jobs", "iris", "--status", "failed", "--status", "queued", "--limit", "5")
    assert [job["id"] for job in found["jobs"]] == [ids[2], ids[1]]


def test_no_jobs_are_no_error(shell: Shell):
    assert shell.ok("jobs") == "No jobs.\n"
    assert shell.json("jobs", "iris") == {"jobs": []}
    assert "no version of model 'nosuch'" in shell.error("jobs", "nosuch")


# Redis


@pytest.mark.parametrize(
    "words",
    [["models"], ["route", "iris"], ["submit", "iris", "[[1,1,1,1]]"], ["result", "x"], ["jobs"]],
)
def test_without_redis_every_command_says_so_in_one_line(
    shell: Shell, redis_server: RedisServer, words: list[str]
):
    redis_server.kill()
    assert "Redis does not answer" in shell.error(*words)


def test_the_option_beats_the_environment(shell: Shell):
    elsewhere = Shell("redis://127.0.0.1:1/0")
    assert elsewhere.json("route", "iris", "--redis-url", shell.url)["active"] == "v1"


def test_a_url_that_is_none_is_one_line_without_its_password(shell: Shell):
    said = shell.error("models", "--redis-url", "http://user:secret@host/0")
    assert "secret" not in said


def test_without_a_yard_it_says_how_to_start_one(redis: Redis, tmp_path: Path):
    ran = CliRunner().invoke(
        main, ["models"], env={"MODELYARD_REDIS_URL": "", "MODELYARD_DATA": str(tmp_path)}
    )
    assert ran.exit_code in (1, 2)
    assert "modelyard up" in ran.stderr


def test_a_reader_that_leaves_early_is_no_absence_of_redis(redis: Redis, redis_url: str):
    publish(redis, "iris", "v1", active="v1")
    words = [sys.executable, "-m", "modelyard.cli", "submit", "iris", json.dumps([ROW])]
    words += ["--redis-url", redis_url]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ran = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writer)
    assert ran.stderr == ""
