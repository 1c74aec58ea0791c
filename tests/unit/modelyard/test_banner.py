"""The banner of a new user: every line must work when it is pasted."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from modelyard.up.banner import banner, redis_cli
from yard.contract.values import Column, ModelRef, Output, Signature
from yard.registry.catalog import PublishedVersion


def entry(model: str, version: str, example: Any) -> PublishedVersion:
    signature = Signature(
        inputs=(Column(name="x"),), outputs=(Output(name="predictions", type="float64"),)
    )
    return PublishedVersion(ModelRef(model, version), signature, {"example": example})


def lines_of(*known: PublishedVersion, url: str = "unix:///d/redis.sock") -> dict[str, str]:
    text = banner("http://127.0.0.1:8000", url, Path("data/logs"), known, 1.234)
    rows = [line.split(maxsplit=1) for line in text.splitlines() if line.startswith("  ")]
    return {name: value for name, value in rows}


def test_the_line_to_try_posts_one_row_of_iris():
    known = [entry("diabetes", "v1", [[1.0]]), entry("iris", "v1", [[5.1, 3.5], [1.0, 2.0]])]
    words = shlex.split(lines_of(*known)["try"])
    assert words[:3] == ["curl", "-s", "http://127.0.0.1:8000/v1/models/iris/predict"]
    assert words[words.index("-H") + 1] == "Content-Type: application/json"
    assert json.loads(words[words.index("-d") + 1]) == {"instances": [[5.1, 3.5]]}


def test_without_iris_another_model_is_tried_and_quotes_in_rows_survive_the_shell():
    words = shlex.split(lines_of(entry("sentiment", "v1", ['it\'s "fine" é $HOME']))["try"])
    assert json.loads(words[-1]) == {"instances": ['it\'s "fine" é $HOME']}


@pytest.mark.parametrize("example", [None, [], "text", {}])
def test_a_version_without_an_example_is_not_tried(example):
    assert "try" not in lines_of(entry("mine", "v1", example))
    assert "try" not in lines_of()


def test_a_model_with_two_versions_can_be_flipped():
    assert "flip" not in lines_of(entry("iris", "v1", [[1]]))
    known = [entry("iris", "v1", [[1]]), entry("iris", "v2", [[1]])]
    assert lines_of(*known)["flip"] == "modelyard activate iris v2"


def test_the_rest_is_where_things_are_and_how_to_stop():
    shown = lines_of()
    assert shown["docs"] == "http://127.0.0.1:8000/docs"
    assert shown["logs"] == "data/logs"
    assert shown["stop"] == "Ctrl-C"


@pytest.mark.parametrize(
    ("url", "command"),
    [
        ("unix:///a/data/redis/redis.sock", "redis-cli -s /a/data/redis/redis.sock"),
        ("unix:///my%20yard/redis.sock", "redis-cli -s '/my yard/redis.sock'"),
        ("redis://127.0.0.1:6379/0", "redis-cli -u redis://127.0.0.1:6379/0"),
        ("redis://:secret@host/0", "redis-cli -u 'redis://:***@host/0'"),
    ],
)
def test_redis_cli_reaches_the_redis_and_shows_no_password(url, command):
    assert redis_cli(url) == command
