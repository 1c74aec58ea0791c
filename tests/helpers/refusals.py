"""Bad input, once for all tiers: each case with the code, the place and the message of its refusal.

A tier runs a table through its own door: `check_rows`, a `Client`, HTTP, or a push onto a queue.
Cases that only one door can meet (JSON that cannot be read, missing keys, ...) stay in its tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tests.helpers.stand_ins import ROW

Place = list[str | int]

_GOOD: dict[str, Any] = {"instances": [ROW]}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that is refused.

    Attributes:
        arguments: Arguments of the request, beside the model; one of them is wrong.
        loc: Place of the first error.
        msg: Part of that error's message.
        code: The error's code.
    """

    arguments: dict[str, Any]
    loc: Place
    msg: str
    code: str = "invalid_input"


def _rows(instances: Any, loc: Place, msg: str) -> Refusal:
    return Refusal({"instances": instances}, ["instances", *loc], msg)


def _columns(inputs: Any, loc: Place, msg: str) -> Refusal:
    return Refusal({"inputs": inputs}, ["inputs", *loc], msg)


def _outputs(outputs: Any, loc: Place, msg: str) -> Refusal:
    return Refusal(_GOOD | {"outputs": outputs}, ["outputs", *loc], msg)


def columns(names: str, values: list[Any]) -> dict[str, list[Any]]:
    """The same values for each of some inputs."""
    return {name: list(values) for name in names}


#: Rows and columns that do not fit `stand_ins.IRIS`.
BAD_ROWS: dict[str, Refusal] = {
    "no list": _rows("abc", [], "must be a list of rows, not a string"),
    "an object": _rows({"a": 1}, [], "must be a list of rows, not an object"),
    "a number": _rows(5, [], "must be a list of rows, not a number"),
    "false": _rows(False, [], "must be a list of rows, not a boolean"),
    "no row": _rows([], [], "must hold at least one row"),
    "an empty row": _rows([[]], [0], "has 0 values, the signature has 4 inputs"),
    "too few values": _rows([ROW, ROW[:3]], [1], "has 3 values, the signature has 4"),
    "too many values": _rows([[*ROW, 1]], [0], "has 5 values, the signature has 4"),
    "too many values later": _rows([ROW, [*ROW, 1]], [1], "has 5 values, the signature has 4"),
    "ragged rows": _rows([ROW[:2], ROW], [0], "has 2 values, the signature has 4"),
    "a bare value": _rows([5.1], [0], "must be a list of 4 values or an object"),
    "a null row": _rows([ROW, None], [1], "list of 4 values or an object, not null"),
    "a string for a row": _rows(["abcd"], [0], "or an object, not a string"),
    "a string": _rows([ROW, [1, "5.1", 1, 1]], [1, 1], "must be a number, not a string"),
    "a boolean": _rows([[1, 1, True, 1]], [0, 2], "must be a number, not a boolean"),
    "a null": _rows([[None, 1, 1, 1]], [0, 0], "must be a number, not null"),
    "a list": _rows([[1, 1, 1, [1]]], [0, 3], "must be a number, not a list"),
    "an object for a value": _rows([[1, 1, 1, {}]], [0, 3], "not an object"),
    "a missing input": _rows([{"a": 1, "b": 1, "c": 1}], [0, "d"], "is missing"),
    "an unknown input": _rows(
        [dict.fromkeys("abcde", 1)], [0, "e"], "unknown input; there are 'a', 'b', 'c', 'd'"
    ),
    "an unknown input for a known one": _rows(
        [{"a": 1, "b": 2, "c": 3, "e": 4}], [0, "e"], "unknown input"
    ),
    "a named string": _rows([dict.fromkeys("abc", 1) | {"d": "1"}], [0, "d"], "a number"),
    "columns in a list": _columns([[1]], [], "must be an object of columns by name, not a list"),
    "no columns": _columns({}, ["a"], "is missing"),
    "a missing column": _columns(columns("abc", [1]), ["d"], "is missing"),
    "an unknown column": _columns(columns("abcde", [1]), ["e"], "unknown input"),
    "a column that is no list": _columns(
        columns("abc", [1]) | {"d": 1}, ["d"], "must be a list of values"
    ),
    "a short column": _columns(
        columns("abc", [1, 2]) | {"d": [1]}, ["d"], "has 1 values, 'a' has 2"
    ),
    "a long column": _columns(
        columns("abc", [1]) | {"d": [1, 2]}, ["d"], "has 2 values, 'a' has 1"
    ),
    "empty columns": _columns(columns("abcd", []), [], "must hold at least one row"),
    "a string in a column": _columns(
        columns("abc", [1, 2]) | {"d": [1, "2"]}, ["d", 1], "must be a number, not a string"
    ),
}

#: Numbers that JSON does not carry, or not as integers: only callers in Python can pass them.
BAD_NUMBERS: dict[str, Refusal] = {
    "an integer beyond JSON's": _rows([[1, -(2**63) - 1, 1, 1]], [0, 1], "64 bits"),
    "NaN": _rows([[1, 1, 1, math.nan]], [0, 3], "must be finite"),
    "infinity": _rows([[1, math.inf, 1, 1]], [0, 1], "must be finite"),
    "infinities that cancel": _rows([[math.inf, -math.inf, 1, 1]], [0, 0], "be finite"),
    "an integer beyond a double": _rows([[10**400, 1, 1, 1]], [0, 0], "too large"),
    "integers that cancel": _rows([[10**400, -(10**400), 1, 1]], [0, 0], "too large"),
    "NaN in a column": _columns(columns("bcd", [1]) | {"a": [math.nan]}, ["a", 0], "be finite"),
}

#: Outputs that `stand_ins.IRIS` does not have.
BAD_OUTPUTS: dict[str, Refusal] = {
    "outputs in a string": _outputs("predictions", [], "must be a list"),
    "no outputs": _outputs([], [], "at least one"),
    "outputs in an object": _outputs({"predictions": 1}, [], "must be a list"),
    "an unknown output": _outputs(["predictions", "magic"], [1], "'predictions', 'probabilities'"),
    "a list for an output": _outputs([["predictions"]], [0], "unknown output"),
    "null for an output": _outputs([None], [0], "unknown output"),
}

#: Members of a request that no signature is needed for.
BAD_MEMBERS: dict[str, Refusal] = {
    "neither rows nor columns": Refusal({}, [], "exactly one of"),
    "rows and columns": Refusal(_GOOD | {"inputs": {"a": [1]}}, [], "exactly one of"),
    "a version that is a number": Refusal(_GOOD | {"version": 2}, ["version"], "must be a string"),
    "a routing key that is a number": Refusal(
        _GOOD | {"routing_key": 42}, ["routing_key"], "must be a string"
    ),
    **{
        f"a deadline of {deadline!r}": Refusal(
            _GOOD | {"deadline_ms": deadline}, ["deadline_ms"], "must be "
        )
        for deadline in (0, -1, 0.5, 1.5, True, "5", 2**40 + 1)
    },
}

#: Texts that name no model, no version and no alias.
BAD_NAMES = [
    "",
    "../v1",
    "..%2fv1",
    "%252e%252e",
    "v1\n",
    "v1\r\nX-A: b",
    "v1\r\nFLUSHALL",
    "v1 :intermediate",
    "v1*",
    "*",
    "{v1}",
    "v" * 64,
    "\uff36\uff29",
    "\u202ev1",
    "<img src=x onerror=alert(1)>",
    ".hidden",
    "-v1",
    "_v1",
    "a..b",
    "V1",
    "a/b",
    "a\\b",
    "a@b",
    "a:b",
    "a=b",
    "v1\0",
    "\u0661",
    "\u00e9",
]

BAD_IDEMPOTENCY_KEYS = {"empty": "", "too long": "k" * 257}

#: Texts that are no job id.
BAD_JOB_IDS = {
    "a space": "bad id!",
    "a path": "../../x",
    "empty": "",
    "colons": "a:b:c",
    "a line break": "a\n",
    "another alphabet": "\u0661",
    "10 MiB": "x" * 10 * 2**20,
}

#: Entries of a queue that are set aside: the entry, and the reason that is noted.
BAD_ENTRIES: dict[str, tuple[bytes, str]] = {
    **{what: (job_id.encode(), "not a job id") for what, job_id in BAD_JOB_IDS.items()},
    "no UTF-8": (b"\xff\xfe", "not a job id"),
    "unknown": (b"no-such-job", "no such job"),
}

#: Statuses of jobs that have ended or begun, so that a push with one is set aside.
BAD_STATUSES = ["finished", "failed", "canceled", "started"]
