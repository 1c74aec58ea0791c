"""What is inspected of an ONNX file is what other readers take from the same bytes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import astuple
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.formats.onnx_check import inspect_onnx, is_onnx
from models.formats.onnx_schema import MESSAGES
from models.formats.protobuf import BYTES, VARINT
from yard.errors import ConfigurationError

onnx = pytest.importorskip("onnx")
message = pytest.importorskip("google.protobuf.message")
helper, TensorProto = onnx.helper, onnx.TensorProto


def number(value: int, more: int = 0) -> bytes:
    """A varint, with ``more`` bytes more than it needs."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    for _ in range(more):
        parts[-1] |= 0x80
        parts.append(0)
    return bytes(parts)


def field(place: int, content: bytes | int, tag: Callable[[int], bytes] = number) -> bytes:
    """A field of a message or bytes, or of a number."""
    if isinstance(content, int):
        return tag(place << 3 | VARINT) + number(content)
    return tag(place << 3 | BYTES) + number(len(content)) + content


def model(
    initializer: bytes = b"", node: bytes = b"", graph: bytes = b"", top: bytes = b""
) -> bytes:
    """A model of one node and one weight, with bytes added to each of its messages."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 1])
    multiply = helper.make_node("MatMul", ["x", "w"], ["y"]).SerializeToString() + node
    inside = field(1, multiply) + field(5, weight.SerializeToString() + initializer)
    for place, name, columns in ((11, "x", 2), (12, "y", 1)):
        shape = [None, columns]
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        inside += field(place, value.SerializeToString())
    version = field(8, helper.make_opsetid("", 18).SerializeToString())
    return field(1, 9) + field(7, inside + graph) + version + top


def whole() -> bytes:
    """A model with most kinds of messages."""
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=helper.make_tensor("v", 1, [1], [1.0]))],
        "inner",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [1])],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="first"),
        helper.make_node("If", ["b"], ["z"], then_branch=inner, else_branch=inner),
        helper.make_node(
            "LinearClassifier",
            ["m"],
            ["y", "p"],
            domain="ai.onnx.ml",
            classlabels_ints=[-1, 300, 2**40],
            coefficients=[0.5, 1.5],
        ),
        helper.make_node("Twice", ["m"], ["t"], domain="own"),
    ]
    twice = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 18)],
    )  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.INT64, ["rows"])],
        [
            helper.make_tensor("w", TensorProto.FLOAT, [2, 1], [0.5, 0.25]),
            helper.make_tensor("b", TensorProto.BOOL, [1], [True]),
            helper.make_tensor("i", TensorProto.INT64, [2], [-1, 5]),
            helper.make_tensor("s", TensorProto.STRING, [1], [b"text"]),
        ],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    made = helper.make_model(graph, opset_imports=imports, functions=[twice], ir_version=9)
    return bytes(made.SerializeToString())


WHOLE = whole()
#: ``location`` of a weight in another file, and the statement that it lies there.
ELSEWHERE = field(1, b"location") + field(2, b"/etc/passwd")


def messages(found: Any) -> Iterator[Any]:
    for below in found:
        yield below
        yield from messages(below.nested_types)


def test_the_fields_are_those_of_the_onnx_package():
    kinds = {3: "int64", 4: "uint64", 5: "int32", 14: "enum", 2: "float", 1: "double", 9: "string"}
    kinds[12] = "bytes"
    theirs = {
        found.full_name.removeprefix("onnx."): {
            known.number: (
                kinds.get(known.type) or known.message_type.full_name.removeprefix("onnx."),
                known.is_repeated,
            )
            for known in found.fields
        }
        for found in messages(onnx.onnx_ml_pb2.DESCRIPTOR.message_types_by_name.values())
        if found.name != "TrainingInfoProto"
    }
    ours = {
        name: {number: (known.kind, known.is_repeated) for number, known in fields.items()}
        for name, fields in MESSAGES.items()
    }
    for name, fields in theirs.items():  # an older package has fewer
        assert fields.items() <= ours[name].items(), name


def test_a_model_as_writers_make_it_is_taken():
    inspect_onnx(model())
    found = inspect_onnx(WHOLE)
    assert found.inputs == ["x"]
    assert found.labels == (-1, 300, 2**40)
    assert found.nodes == 7


@pytest.mark.parametrize("more", [1, 3])
@pytest.mark.parametrize(
    "hide",
    [
        lambda more: field(13, ELSEWHERE, lambda tag: number(tag, more)),
        lambda more: field(14, 1, lambda tag: number(tag, more)),
        lambda more: number(13 << 3 | BYTES) + number(len(ELSEWHERE), more) + ELSEWHERE,
        lambda more: number(14 << 3) + number(1, more),
        lambda more: field(13, ELSEWHERE, lambda tag: number(tag + (more << 35))),
        lambda more: field(13, ELSEWHERE, lambda tag: number(tag + (more << 32))),
        lambda more: field(14, 1, lambda tag: number(tag + (more << 32))),
        lambda more: field(14, 1 + (more << 32)),
    ],
)
def test_weights_in_other_files_are_found_however_their_fields_are_written(hide, more):
    with pytest.raises(ConfigurationError):
        inspect_onnx(model(hide(more)))


#: Models that two readers may take differently: bytes, and the reason that is given.
AMBIGUOUS = {
    "a longer tag": (model(field(8, b"w", lambda tag: number(tag, 1))), "longer than it has to"),
    "a longer length": (model(number(8 << 3 | 2) + number(1, 1) + b"w"), "longer than it has to"),
    "a longer number": (model(number(2 << 3) + number(1, 1)), "longer than it has to"),
    "eleven bytes": (model(top=number(5 << 3) + b"\xff" * 10 + b"\x01"), "no model's protobuf"),
    "65 bits": (model(top=number(5 << 3) + b"\xff" * 9 + b"\x03"), "longer than it has to"),
    "a wide tag": (model(field(8, b"w", lambda tag: number(tag + 2**32))), "no model's protobuf"),
    "a wide type": (model(node=field(5, field(1, b"a") + field(20, 2**32))), "wider than its"),
    "a name twice": (model(field(8, b"v")), "field 8 of TensorProto twice"),
    "two operators in one": (model(node=field(4, b"Add")), "field 4 of NodeProto twice"),
    "two graphs": (model(top=field(7, b"")), "field 7 of ModelProto twice"),
    "unknown in a graph": (model(graph=field(99, b"")), "field 99 in GraphProto"),
    "unknown in a node": (model(node=field(99, 1)), "field 99 in NodeProto"),
    "unknown in a tensor": (model(field(15, b"")), "field 15 in TensorProto"),
    "unknown in an attribute": (model(node=field(5, field(99, b""))), "99 in AttributeProto"),
    "two values in one": (
        model(node=field(5, field(1, b"a") + field(3, 1) + field(8, 1))),
        "several values in one AttributeProto",
    ),
    "two of one name": (
        model(node=field(5, field(1, b"a")) + field(5, field(1, b"a"))),
        "two attributes of one name",
    ),
    "no text": (model(node=field(7, b"\xff")), "not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("what", AMBIGUOUS)
def test_what_readers_may_take_differently_is_refused_with_the_reason(what):
    raw, reason = AMBIGUOUS[what]
    with pytest.raises(ConfigurationError, match=reason):
        inspect_onnx(raw)


def test_a_model_in_another_form_is_still_called_onnx():
    assert is_onnx(field(1, 9, lambda tag: number(tag, 1)) + model())


def test_labels_are_read_as_others_read_them_when_they_are_packed():
    labels = b"".join(map(number, (1, 300, 2**64 - 1)))
    attribute = field(1, b"classlabels_ints") + field(8, labels) + field(20, 7)
    assert inspect_onnx(model(node=field(5, attribute))).labels == (1, 300, -1)


def test_weights_that_are_given_as_sparse_ones_are_no_inputs():
    values = helper.make_tensor("x", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("", TensorProto.INT64, [1], [0])
    sparse = onnx.SparseTensorProto(values=values, indices=indices, dims=[2])
    assert inspect_onnx(model(graph=field(15, sparse.SerializeToString()))).inputs == []


class Mutator:
    """Writes a model anew, with faults and freedoms that the encoding has."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw

    def happens(self, one_in: int) -> bool:
        return self.draw.randrange(one_in) == 0

    def tag(self, tag: int) -> bytes:
        if self.happens(400):
            return number(tag, self.draw.randint(1, 4))
        return number(tag + (self.draw.randint(1, 8) << 32) if self.happens(400) else tag)

    def message(self, kind: str, raw: bytes) -> bytes:
        parts: list[bytes] = []
        known = list(split(raw))
        if self.happens(20):
            self.draw.shuffle(known)
        for place, wire, content in known:
            parts.append(self.field(kind, place, wire, content))
            if self.happens(300):
                parts.append(parts[-1])
        if self.happens(300):
            parts.append(field(self.draw.choice((3, 9, 13, 14, 15, 99)), ELSEWHERE, self.tag))
        if kind == "TensorProto" and self.happens(30):
            parts.append(field(13, ELSEWHERE, self.tag))
            parts.append(field(14, self.draw.choice((0, 1, 2**32)), self.tag))
        return b"".join(parts)

    def field(self, kind: str, place: int, wire: int, content: bytes) -> bytes:
        known = MESSAGES[kind][place]
        if known.kind in MESSAGES:
            content = self.message(known.kind, content)
        elif known.is_repeated and wire != BYTES and self.happens(3):
            wire = BYTES  # packed
        elif known.is_repeated and wire == BYTES and known.wire == VARINT and self.happens(3):
            return b"".join(self.tag(place << 3) + number(one) for one in varints(content))
        more = self.draw.randint(1, 3) if self.happens(400) else 0
        if wire == BYTES:
            return self.tag(place << 3 | wire) + number(len(content), more) + content
        if wire == VARINT and more:
            content = number(next(varints(content)), more)
        return self.tag(place << 3 | wire) + content


def varints(raw: bytes) -> Iterator[int]:
    value = shift = 0
    for byte in raw:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield value
            value = shift = 0


def split(raw: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The fields of a message: number, wire type, and the content's own bytes."""
    place = 0

    def varint() -> int:
        nonlocal place
        start = place
        while raw[place] >= 0x80:
            place += 1
        place += 1
        return next(varints(raw[start:place]))

    while place < len(raw):
        tag = varint()
        start = place
        if tag & 7 == VARINT:
            varint()
        elif tag & 7 == BYTES:
            length = varint()
            start, place = place, place + length
        else:
            place += 4 if tag & 7 == 5 else 8
        yield tag >> 3, tag & 7, raw[start:place]


def inspected(raw: bytes) -> Any:
    """What is found, or None where it is refused."""
    try:
        return astuple(inspect_onnx(raw))
    except ConfigurationError:
        return None


@settings(max_examples=400)
@given(st.integers(0, 2**64), st.booleans())
def test_what_is_inspected_is_what_onnx_reads_or_is_refused(seed, flips):
    draw = random.Random(seed)
    raw = bytearray(Mutator(draw).message("ModelProto", WHOLE))
    for _ in range(draw.randint(1, 3) if flips else 0):
        raw[draw.randrange(len(raw))] = draw.randrange(256)
    ours = inspected(bytes(raw))
    if ours is None:
        return
    try:
        theirs = onnx.ModelProto.FromString(bytes(raw))
    except message.DecodeError:
        return  # no reader takes it
    assert inspected(theirs.SerializeToString()) == ours
    assert not [kept for kept in tensors(theirs) if kept.external_data or kept.data_location]


def tensors(found: Any) -> Iterator[Any]:
    for known, value in found.ListFields():
        if known.message_type is None:
            continue
        for below in value if known.is_repeated else [value]:
            if isinstance(below, TensorProto):
                yield below
            yield from tensors(below)


def test_the_mutations_leave_some_models_that_are_taken():
    taken = [
        seed
        for seed in range(200)
        if inspected(Mutator(random.Random(seed)).message("ModelProto", WHOLE)) is not None
    ]
    assert 20 < len(taken) < 180
