"""JSON as it travels: what is refused, and what comes through unchanged."""

from __future__ import annotations

import contextlib
import json
import math
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yard.contract import wire
from yard.errors import InvalidJson, TooLarge

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(":{ab", max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)

REFUSED = {
    "100,000 brackets deep": b"[" * 100_000,
    "100,000 objects deep": b'{"a":' * 100_000,
    "a number of 5,000 digits": b"1" * 5_000,
    "a number beyond a double": b"1e999",
    "NaN": b"NaN",
    "Infinity": b"[Infinity]",
    "minus Infinity": b"-Infinity",
    "a key given twice": b'{"a":1,"a":2}',
    "a key given twice, once escaped": b'{"a":1,"\\u0061":2}',
    "a key given twice, deep down": b'{"x":[{"y":{"a":1,"b":2,"a":3}}]}',
    "a key given twice, with colons in strings": b'{"a":":::","a":"::"}',
    "a key given twice, as deep as may be": b"[" * 1000 + b'{"a":1,"a":2}' + b"]" * 1000,
    "a lone surrogate": b'"\\ud800"',
    "a byte-order mark": b"\xef\xbb\xbf[1]",
    "UTF-16": "[1]".encode("utf-16"),
    "bytes that are no UTF-8": b'"\xff"',
    "a raw control character": b'"\n"',
    "a raw NUL": b'"\x00"',
    "two values": b"[1] [2]",
    "a trailing comma": b"[1,]",
    "single quotes": b"{'a':1}",
    "a comment": b"[1] // one",
    "nothing": b"",
    "only spaces": b"  ",
    "a half": b'{"a": [1, 2',
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_strict_json_is_refused(raw: bytes):
    with pytest.raises(InvalidJson, match="not valid JSON"):
        wire.loads(raw)


def test_the_message_says_where():
    with pytest.raises(InvalidJson, match="line 2 column 7"):
        wire.loads(b'{"a": 1,\n "b": x}')


def test_the_message_names_the_key_that_is_given_twice():
    with pytest.raises(InvalidJson, match="the key 'rows' is given twice"):
        wire.loads(b'{"rows": [], "other": 1, "rows": [1]}')


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"-0", 0),
        (b"-0.0", -0.0),
        (b"1e-400", 0.0),
        (b"123456789012345678901234567890", 1.2345678901234568e29),
        (b'"\\u0000"', "\0"),
        (b'{"a":{"a":{"a":1}}}', {"a": {"a": {"a": 1}}}),
        (b'[{"a":1},{"a":2}]', [{"a": 1}, {"a": 2}]),
        (b'{"a:b":"c:d"}', {"a:b": "c:d"}),
        (b'{"a":"{:","b":":}"}', {"a": "{:", "b": ":}"}),
        (b' \t\r\n"x" ', "x"),
    ],
)
def test_unusual_but_valid_json_is_taken(raw: bytes, value: Any):
    assert wire.loads(raw) == value


@given(VALUES)
def test_every_value_comes_back_as_it_was(value: Any):
    assert wire.loads(wire.dumps(value)) == value


@given(st.lists(st.tuples(st.text('a:{"\\', max_size=2), VALUES), max_size=4), st.integers(0, 3))
def test_a_repeated_key_is_found_wherever_it_is(pairs: list[tuple[str, Any]], depth: int):
    members = ",".join(f"{json.dumps(k)}:{json.dumps(v)}" for k, v in pairs)
    text = "[" * depth + "{" + members + "}" + "]" * depth
    is_repeated = len({key for key, _ in pairs}) < len(pairs)
    if is_repeated:
        with pytest.raises(InvalidJson, match="given twice"):
            wire.loads(text)
    else:
        assert wire.loads(text) == json.loads(text)


@given(st.binary(max_size=60))
def test_any_bytes_become_a_value_or_invalid_json(raw: bytes):
    with contextlib.suppress(InvalidJson):
        wire.loads(raw)


@pytest.mark.parametrize("value", [object(), {1, 2}, 2**64, {1: 2}, "\ud800", b"x"])
def test_what_json_has_no_form_for_is_not_written(value: Any):
    with pytest.raises(InvalidJson, match="not JSON"):
        wire.dumps(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_never_written(value: float):
    assert wire.dumps([value]) == b"[null]"


def test_plain_and_zlibbed_payloads_read_alike():
    plain = b'["x"]'
    assert wire.inflate(plain, 100) == plain
    for level in range(10):
        assert wire.inflate(zlib.compress(plain, level), 100) == plain


@pytest.mark.parametrize("raw", [b"[" * 101, zlib.compress(b"[" * 101)])
def test_a_payload_over_the_bound_is_too_large(raw: bytes):
    assert len(wire.inflate(raw, 101)) == 101
    with pytest.raises(TooLarge, match="100"):
        wire.inflate(raw, 100)


def test_a_zip_bomb_is_refused_without_being_inflated():
    bomb = zlib.compress(bytes(100_000_000), 9)
    assert len(bomb) < 100_000
    tracemalloc.start()
    with pytest.raises(TooLarge):
        wire.inflate(bomb, 8 * 2**20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32_000_000


@pytest.mark.parametrize("raw", [b"x", b"xyz", b"\x78\x9c", zlib.compress(b"[" * 90)[:-1]])
def test_a_broken_zlib_payload_is_invalid_json(raw: bytes):
    with pytest.raises(InvalidJson, match="broken zlib"):
        wire.inflate(raw, 1000)
