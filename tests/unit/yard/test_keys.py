"""Keys and queue names: every family is in the table, and queue names are parsed back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yard.contract import keys
from yard.contract.values import ModelRef, is_name

NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True).filter(is_name)

#: A table row: the key, which may list several, its type, then the rest.
_ROW = re.compile(
    r"^    ((?:rq|modelyard):.+?)  +(string|hash|list|set|zset|stream|channel) +(.*)$"
)


def table() -> dict[str, tuple[str, str]]:
    """The docstring's table: key without its placeholders -> type and the rest of its row."""
    found = {}
    for line in (keys.__doc__ or "").splitlines():
        if match := _ROW.match(line):
            for key in _spelled_out(match[1]):
                found[re.sub(r"\{.*", "", key)] = (match[2], match[3])
    return found


def _spelled_out(cell: str) -> list[str]:
    """``rq:finished|failed:{queue}`` and ``rq:workers, rq:workers:{queue}`` as single keys."""
    keys_ = []
    for key in cell.split(", "):
        head, bar, _ = key.partition("|")
        if not bar:
            keys_.append(key)
            continue
        prefix = head[: head.rindex(":") + 1]
        names, colon, tail = key.removeprefix(prefix).partition(":")
        keys_ += [prefix + name + colon + tail for name in names.split("|")]
    return keys_


@pytest.mark.parametrize("prefix", keys.PREFIXES.values())
def test_the_table_lists_every_family(prefix: str):
    assert prefix in table()


@pytest.mark.parametrize(
    "single", [v for k, v in vars(keys).items() if k.isupper() and isinstance(v, str)]
)
def test_the_table_lists_every_single_key(single: str):
    assert single in table()


def test_the_table_lists_nothing_else():
    known = {*keys.PREFIXES.values(), *keys.SINGLES.values()}
    known |= {v for k, v in vars(keys).items() if k.isupper() and isinstance(v, str)}
    assert set(table()) <= known


def test_what_the_table_calls_permanent_is_what_the_leak_check_allows():
    permanent = {key for key, (_, rest) in table().items() if "permanent" in rest}
    assert permanent == set(keys.PERMANENT)


def test_what_goes_when_it_is_empty_is_what_the_leak_check_allows_while_in_use():
    while_in_use = {key for key, (_, rest) in table().items() if "when empty" in rest}
    assert while_in_use <= set(keys.WHILE_IN_USE)


def test_no_family_begins_as_another_one_does():
    prefixes = sorted(keys.PREFIXES.values())
    assert len(set(prefixes)) == len(prefixes)
    for prefix in prefixes:
        assert not [p for p in prefixes if p != prefix and p.startswith(prefix)]


def test_a_key_is_its_family_and_its_name():
    assert keys.key("job", "abc") == "rq:job:abc"
    assert keys.key("active", "iris") == "modelyard:active:iris"


def test_an_unknown_family_is_an_error():
    with pytest.raises(KeyError):
        keys.key("nonsense", "x")


@given(NAMES, NAMES)
def test_a_queue_name_tells_its_model_and_version(model: str, version: str):
    queue = keys.queue_name(ModelRef(model, version))
    assert queue == f"{model}@{version}"
    assert keys.parse_queue(queue) == (model, version)


@given(NAMES)
def test_a_models_bare_name_is_its_unversioned_queue(model: str):
    assert keys.parse_queue(model) == (model, None)


@given(st.text(max_size=80))
def test_whatever_a_queue_is_called_it_is_ours_or_none(queue: str):
    parsed = keys.parse_queue(queue)
    if parsed is not None:
        model, version = parsed
        assert queue == (model if version is None else f"{model}@{version}")
        assert is_name(model)
        assert version is None or is_name(version)


@pytest.mark.parametrize(
    "queue", ["", "@", "iris@", "@v1", "iris@v1@v2", "iris@v1\n", "Iris@v1", "iris@../v1", "a b@v1"]
)
def test_what_is_no_queue_of_ours_is_none(queue: str):
    assert keys.parse_queue(queue) is None
