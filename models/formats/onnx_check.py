"""Structure check of ONNX files, without a library.

ONNX is data, but data that can name other files, load operators from libraries and unroll into
millions of nodes. `inspect_onnx` walks the protobuf (onnx.proto of ONNX 1.x) once, iteratively and
without copies, and refuses all that; only then is a file passed to onnxruntime.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from models.formats.protobuf import BYTES, VARINT, Raw, Span, fields, raise_broken
from yard.errors import ConfigurationError

#: Domains whose operators onnxruntime brings itself; ``com.microsoft`` has those for quantised
#: weights and for splitting texts.
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
#: A forest is one node; the largest networks for tables have some hundreds.
MOST_NODES = 50_000
#: Graphs within graphs.
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
        for number, wire, *_ in fields(raw, (0, len(raw))):
            if number not in _MODEL or wire != _MODEL[number]:
                return False
            found[number] = found.get(number, 0) + 1
            if sum(found.values()) > 10_000:
                return False
    except ConfigurationError:
        return False
    return found.get(1) == 1 and found.get(7) == 1


def inspect_onnx(raw: Raw) -> OnnxFile:
    """Returns the contents of ``raw``, if it may be opened.

    Raises:
        ConfigurationError: It is broken or out of bounds, keeps weights in other files, or uses
            operators that onnxruntime does not bring itself.
    """
    if len(raw) > MOST_BYTES:
        raise ConfigurationError(f"ONNX: has {len(raw)} bytes, the bound is {MOST_BYTES}")
    walk = _Walk(raw)
    walk.model()
    return walk.found


#: Fields of ModelProto and the wire type of each.
_MODEL = {
    1: VARINT,  # ir_version
    2: BYTES,  # producer_name
    3: BYTES,
    4: BYTES,  # domain
    5: VARINT,
    6: BYTES,
    7: BYTES,  # graph
    8: BYTES,  # opset_import
    14: BYTES,  # metadata_props
    20: BYTES,  # training_info
    25: BYTES,  # functions
    26: BYTES,
}


class _Walk:
    """One pass over a model; messages wait on a stack, so that nesting cannot exhaust recursion."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        self.found = OnnxFile()
        self._domains = set(DOMAINS)
        self._used: set[str] = set()

    def model(self) -> None:
        graphs: list[Span] = []
        functions: list[Span] = []
        for number, wire, span, _ in fields(self.raw, (0, len(self.raw))):
            if _MODEL.get(number) != wire:
                raise_broken()
            match number:
                case 7:
                    graphs.append(span)
                case 20:
                    raise ConfigurationError("ONNX: is made for training, not for serving")
                case 25:
                    functions.append(span)
        if len(graphs) != 1:
            raise_broken()
        self._outer_names(graphs[0])
        for span in functions:
            self._function(span)
        self._messages([("graph", graphs[0], 0)])
        foreign = sorted(self._used - self._domains)
        if foreign:
            raise ConfigurationError(
                f"ONNX: uses operators of {', '.join(map(repr, foreign[:5]))}, which would have to "
                "come from a library of their own"
            )

    def _outer_names(self, span: Span) -> None:
        """Records the names of the required inputs, and of the outputs."""
        inputs: list[str] = []
        given: set[str] = set()
        for number, wire, inner, _ in fields(self.raw, span):
            if wire == BYTES and number == 11:
                inputs.append(self._name(inner, 1))
            elif wire == BYTES and number == 12:
                self.found.outputs.append(self._name(inner, 1))
            elif wire == BYTES and number == 5:
                given.add(self._name(inner, 8))
        self.found.inputs = [name for name in inputs if name not in given]

    def _function(self, span: Span) -> None:
        """Walks a function that the file itself defines out of operators; its domain is its own."""
        for number, wire, inner, _ in fields(self.raw, span):
            if wire == BYTES and number == 10:
                self._domains.add(self._text(inner))
            elif wire == BYTES and number == 7:
                self._messages([("node", inner, 1)])
            elif wire == BYTES and number == 11:
                self._messages([("attribute", inner, 1)])

    def _messages(self, waiting: list[tuple[str, Span, int]]) -> None:
        while waiting:
            kind, span, depth = waiting.pop()
            if depth > MOST_DEPTH:
                raise ConfigurationError(f"ONNX: has more than {MOST_DEPTH} graphs within graphs")
            if kind == "node":
                self._count_node(span)
            inside = _INSIDE[kind]
            if kind == "attribute":
                self._read_labels(span)
            for number, wire, inner, _ in fields(self.raw, span, is_attribute=kind == "attribute"):
                if kind == "tensor":
                    self._check_tensor(number, wire, inner)
                elif number in inside:
                    if wire != BYTES:
                        raise_broken()
                    below = inside[number]
                    waiting.append((below, inner, depth + (below == "graph")))

    def _count_node(self, span: Span) -> None:
        self.found.nodes += 1
        if self.found.nodes > MOST_NODES:
            raise ConfigurationError(f"ONNX: has more than {MOST_NODES} nodes")
        domain = ""
        for number, wire, inner, _ in fields(self.raw, span):
            if number == 4 and wire == BYTES:
                self.found.operators.add(self._text(inner))
            elif number == 7 and wire == BYTES:
                domain = self._text(inner)
        self._used.add(domain)

    def _read_labels(self, span: Span) -> None:
        name = self._name(span, 1)
        if name not in _LABELS:
            return
        labels: list[str | int] = []
        for number, wire, inner, _ in fields(self.raw, span):
            if number == 9 and wire == BYTES:
                labels.append(self._text(inner))
            elif number == 8 and wire == VARINT:
                labels.append(inner[0] - 2**64 if inner[0] >= 2**63 else inner[0])
        if labels:
            self.found.labels = tuple(labels)

    def _check_tensor(self, number: int, wire: int, inner: Span) -> None:
        is_external = (number == 13 and wire == BYTES) or (
            number == 14 and wire == VARINT and inner[0] != 0
        )
        if is_external:
            raise ConfigurationError(
                "ONNX: keeps weights in other files (external data); save it as one file"
            )

    def _name(self, span: Span, field_number: int) -> str:
        for number, wire, inner, _ in fields(self.raw, span):
            if number == field_number and wire == BYTES:
                return self._text(inner)
        return ""

    def _text(self, span: Span) -> str:
        return self.raw[span[0] : min(span[1], span[0] + 256)].decode("utf-8", "replace")


#: Attributes in which classifiers keep their labels.
_LABELS = frozenset({"classlabels_strings", "classlabels_int64s", "classlabels_ints"})
#: Fields of a message that hold messages to walk.
_INSIDE: dict[str, dict[int, str]] = {
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse",
        23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
