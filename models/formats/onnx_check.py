"""Structure check of ONNX files, without a library.

ONNX is data, but data that can name other files, load operators from libraries and unroll into
millions of nodes. `inspect_onnx` walks the protobuf once, iteratively and without copies, and
refuses all that; only then is a file passed to onnxruntime.

onnxruntime reads the same bytes with a reader of its own, so a file for which two readers may
differ is refused, too: numbers in another form than the shortest, a field twice that may be there
once, and fields that `models.formats.onnx_schema` does not know. Every message is walked.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from models.formats.onnx_schema import MESSAGES, Field
from models.formats.protobuf import (
    BYTES,
    VARINT,
    Raw,
    Span,
    check_packed,
    fields,
    packed_varints,
    raise_ambiguous,
    raise_broken,
)
from yard.errors import ConfigurationError

#: Domains whose operators onnxruntime brings itself; ``com.microsoft`` has those for quantised
#: weights and for splitting texts.
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
#: A forest is one node; the largest networks for tables have some hundreds.
MOST_NODES = 50_000
#: Fields in all of its messages; a run of numbers counts once.
MOST_FIELDS = 5_000_000
#: Graphs within graphs, and types within types.
MOST_DEPTH = 16
#: Bytes that a protobuf may have; onnxruntime takes no more either.
MOST_BYTES = 2**31 - 1


@dataclass(slots=True)
class OnnxFile:
    """Contents of a file that may be opened.

    Attributes:
        operators: The names of its operators.
        nodes: Number of nodes in all of its graphs.
        inputs: The names of the graph's inputs.
        outputs: The names of the graph's outputs.
        labels: A classifier's labels, in the order of its probabilities; None where no node has
            them.
    """

    operators: set[str] = field(default_factory=set)
    nodes: int = 0
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    labels: tuple[str | int, ...] | None = None


def is_onnx(raw: bytes) -> bool:
    """True if ``raw`` has the outer form of a model: a version, a graph, and only known fields.

    The format has no magic number; this reads a handful of fields.
    """
    found: dict[int, int] = {}
    try:
        for number, wire, *_ in fields(raw, (0, len(raw)), is_lenient=True):
            if number not in _MODEL or wire != _MODEL[number].wire:
                return False
            found[number] = found.get(number, 0) + 1
            if sum(found.values()) > 10_000:
                return False
    except ConfigurationError:
        return False
    return 1 in found and 7 in found


def inspect_onnx(raw: Raw) -> OnnxFile:
    """Returns the contents of ``raw``, if it may be opened.

    Raises:
        ConfigurationError: It is broken or out of bounds, may be read differently by others, keeps
            weights in other files, or uses operators that onnxruntime does not bring itself.
    """
    if len(raw) > MOST_BYTES:
        raise ConfigurationError(f"ONNX: has {len(raw)} bytes, the bound is {MOST_BYTES}")
    walk = _Walk(raw)
    walk.model()
    return walk.found


_MODEL = MESSAGES["ModelProto"]
#: Attributes in which classifiers keep their labels.
_LABELS = frozenset({"classlabels_strings", "classlabels_int64s", "classlabels_ints"})
#: Fields that are read, by the message.
_READ = {
    "ModelProto": frozenset({7, 20}),
    "NodeProto": frozenset({4, 5, 7}),
    "AttributeProto": frozenset({1, 8, 9}),
    "TensorProto": frozenset({13, 14}),
    "FunctionProto": frozenset({10}),
}
#: Messages that may be within one another without an end.
_NESTING = frozenset({"GraphProto", "TypeProto"})
_INT64_END, _INT32_END, _VARINT_END = 2**63, 2**31, 2**64

#: Fields of a message as they are in the file: number, wire type, span of the value.
_Fields = list[tuple[int, int, Span]]


class _Walk:
    """One pass over a model; messages wait on a stack, so that nesting cannot exhaust recursion."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        self.found = OnnxFile()
        self._domains = set(DOMAINS)
        self._used: set[str] = set()
        self._waiting: list[tuple[str, Span, int]] = []
        self._count = 0

    def model(self) -> None:
        top = self._fields("ModelProto", (0, len(self.raw)), 0)
        graphs = [span for number, _, span in top if number == 7]
        if len(graphs) != 1:
            raise_broken()
        if any(number == 20 for number, *_ in top):
            raise ConfigurationError("ONNX: is made for training, not for serving")
        self._outer_names(graphs[0])
        while self._waiting:
            kind, span, depth = self._waiting.pop()
            known = self._fields(kind, span, depth)
            match kind:
                case "NodeProto":
                    self._node(known)
                case "AttributeProto":
                    self._labels(known)
                case "TensorProto":
                    self._tensor(known)
                case "FunctionProto":  # made of operators in the file itself: the domain is its own
                    self._domains.add(self._text_of(known, 10))
        foreign = sorted(self._used - self._domains)
        if foreign:
            raise ConfigurationError(
                f"ONNX: uses operators of {', '.join(map(repr, foreign[:5]))}, which would have to "
                "come from a library of their own"
            )

    def _fields(self, kind: str, span: Span, depth: int) -> _Fields:
        """Checks the fields of a message, and returns those that are read.

        The messages in it wait to be walked.
        """
        depth += kind in _NESTING
        if depth > MOST_DEPTH + 1:
            raise ConfigurationError(
                f"ONNX: has more than {MOST_DEPTH} graphs within graphs, or types within types"
            )
        known: _Fields = []
        read = _READ.get(kind, frozenset())
        seen: set[int] = set()
        choices: dict[str, int] = {}
        for number, wire, inner, _ in fields(self.raw, span, is_attribute=kind == "AttributeProto"):
            self._count += 1
            if self._count > MOST_FIELDS:
                raise ConfigurationError(f"ONNX: has more than {MOST_FIELDS} fields")
            field = MESSAGES[kind].get(number)
            if field is None:
                raise_ambiguous(f"has a field {number} in {kind} that is not known here")
            if number in seen and not field.is_repeated:
                raise_ambiguous(f"has the field {number} of {kind} twice")
            seen.add(number)
            if field.choice and choices.setdefault(field.choice, number) != number:
                raise_ambiguous(f"has several values in one {kind}")
            self._check_value(field, wire, inner)
            if number in read:
                known.append((number, wire, inner))
            if field.kind in MESSAGES:
                self._waiting.append((field.kind, inner, depth))
        return known

    def _check_value(self, field: Field, wire: int, inner: Span) -> None:
        if wire != field.wire:
            if wire != BYTES or not field.is_repeated:
                raise_broken()
            check_packed(self.raw, inner, field.wire)
        elif wire == VARINT and field.kind in ("int32", "enum"):
            is_narrow = inner[0] < _INT32_END or inner[0] >= _VARINT_END - _INT32_END
            if not is_narrow and not field.is_repeated:
                raise_ambiguous("has a number that is wider than its field")

    def _outer_names(self, span: Span) -> None:
        """Records the names of the required inputs, and of the outputs."""
        inputs: list[str] = []
        given: set[str] = set()
        for number, wire, inner, _ in fields(self.raw, span):
            if wire != BYTES:
                continue
            match number:
                case 11:
                    inputs.append(self._name(inner, 1))
                case 12:
                    self.found.outputs.append(self._name(inner, 1))
                case 5:
                    given.add(self._name(inner, 8))
                case 15:
                    given |= {
                        self._name(values, 8)
                        for inside, kind, values, _ in fields(self.raw, inner)
                        if (inside, kind) == (1, BYTES)
                    }
        self.found.inputs = [name for name in inputs if name not in given]

    def _node(self, known: _Fields) -> None:
        self.found.nodes += 1
        if self.found.nodes > MOST_NODES:
            raise ConfigurationError(f"ONNX: has more than {MOST_NODES} nodes")
        self.found.operators.add(self._text_of(known, 4))
        self._used.add(self._text_of(known, 7))
        names = [self._name(span, 1) for number, _, span in known if number == 5]
        if len(set(names)) != len(names):
            raise_ambiguous("has a node with two attributes of one name")

    def _labels(self, known: _Fields) -> None:
        if self._text_of(known, 1) not in _LABELS:
            return
        labels: list[str | int] = []
        for number, wire, inner in known:
            if number == 9:
                labels.append(self._text(inner))
            elif number == 8:
                labels += map(_signed, self._ints(wire, inner))
        if labels:
            self.found.labels = tuple(labels)

    def _ints(self, wire: int, inner: Span) -> list[int]:
        """Returns the numbers of a packed field, or of a run of plain ones."""
        if wire == BYTES:
            return list(packed_varints(self.raw, inner))
        if inner[0] == inner[1]:  # a single number, not a run
            return [inner[0]]
        return [value[0] for _, _, value, _ in fields(self.raw, inner)]

    def _tensor(self, known: _Fields) -> None:
        if any(number == 13 or (number == 14 and inner[0] != 0) for number, _, inner in known):
            raise ConfigurationError(
                "ONNX: keeps weights in other files (external data); save it as one file"
            )

    def _name(self, span: Span, field_number: int) -> str:
        for number, wire, inner, _ in fields(self.raw, span, is_attribute=True):
            if number == field_number and wire == BYTES:
                return self._text(inner)
        return ""

    def _text_of(self, known: _Fields, field_number: int) -> str:
        return next((self._text(inner) for number, _, inner in known if number == field_number), "")

    def _text(self, span: Span) -> str:
        try:
            return self.raw[span[0] : span[1]].decode("utf-8")
        except UnicodeDecodeError:
            raise ConfigurationError("ONNX: has a name or a label that is not UTF-8") from None


def _signed(value: int) -> int:
    return value - _VARINT_END if value >= _INT64_END else value
