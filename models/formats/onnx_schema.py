"""Fields of the messages of an ONNX file, from onnx.proto of ONNX 1.23 (IR version 14).

`models.formats.onnx_check` refuses what is not here. A test compares this with the onnx package.
"""

from __future__ import annotations

from typing import NamedTuple

from models.formats.protobuf import BYTES, FIXED32, FIXED64, VARINT

#: Wire types of plain values; all other kinds are names of messages.
WIRES = {
    "int64": VARINT,
    "uint64": VARINT,
    "int32": VARINT,
    "enum": VARINT,
    "float": FIXED32,
    "double": FIXED64,
    "string": BYTES,
    "bytes": BYTES,
}


class Field(NamedTuple):
    """A field of a message.

    Attributes:
        kind: A key of `WIRES`, or of `MESSAGES`.
        is_repeated: True if it may be there more than once.
        choice: Name of the group of which a message has one field at most; "" for none.
    """

    kind: str
    is_repeated: bool = False
    choice: str = ""

    @property
    def wire(self) -> int:
        """Wire type of one value."""
        return WIRES.get(self.kind, BYTES)


def _one(kind: str) -> Field:
    return Field(kind)


def _many(kind: str) -> Field:
    return Field(kind, is_repeated=True)


def _choice(kind: str) -> Field:
    return Field(kind, choice="value")


def _choice_many(kind: str) -> Field:
    return Field(kind, is_repeated=True, choice="value")


MESSAGES: dict[str, dict[int, Field]] = {
    "ModelProto": {
        1: _one("int64"),  # ir_version
        2: _one("string"),
        3: _one("string"),
        4: _one("string"),  # domain
        5: _one("int64"),
        6: _one("string"),
        7: _one("GraphProto"),
        8: _many("OperatorSetIdProto"),
        14: _many("StringStringEntryProto"),
        20: _many("TrainingInfoProto"),
        25: _many("FunctionProto"),
        26: _many("DeviceConfigurationProto"),
    },
    "GraphProto": {
        1: _many("NodeProto"),
        2: _one("string"),
        5: _many("TensorProto"),
        10: _one("string"),
        11: _many("ValueInfoProto"),  # inputs
        12: _many("ValueInfoProto"),  # outputs
        13: _many("ValueInfoProto"),
        14: _many("TensorAnnotation"),
        15: _many("SparseTensorProto"),
        16: _many("StringStringEntryProto"),
    },
    "NodeProto": {
        1: _many("string"),
        2: _many("string"),
        3: _one("string"),
        4: _one("string"),  # op_type
        5: _many("AttributeProto"),
        6: _one("string"),
        7: _one("string"),  # domain
        8: _one("string"),
        9: _many("StringStringEntryProto"),
        10: _many("NodeDeviceConfigurationProto"),
    },
    # An attribute has one value or one list, though onnx.proto does not say so in its grammar.
    "AttributeProto": {
        1: _one("string"),  # name
        2: _choice("float"),
        3: _choice("int64"),
        4: _choice("bytes"),
        5: _choice("TensorProto"),
        6: _choice("GraphProto"),
        7: _choice_many("float"),
        8: _choice_many("int64"),
        9: _choice_many("bytes"),
        10: _choice_many("TensorProto"),
        11: _choice_many("GraphProto"),
        13: _one("string"),
        14: _choice("TypeProto"),
        15: _choice_many("TypeProto"),
        20: _one("enum"),
        21: _one("string"),
        22: _choice("SparseTensorProto"),
        23: _choice_many("SparseTensorProto"),
    },
    "TensorProto": {
        1: _many("int64"),
        2: _one("int32"),  # data_type
        3: _one("TensorProto.Segment"),
        4: _many("float"),
        5: _many("int32"),
        6: _many("bytes"),
        7: _many("int64"),
        8: _one("string"),  # name
        9: _one("bytes"),
        10: _many("double"),
        11: _many("uint64"),
        12: _one("string"),
        13: _many("StringStringEntryProto"),  # external_data
        14: _one("enum"),  # data_location
        16: _many("StringStringEntryProto"),
    },
    "TensorProto.Segment": {1: _one("int64"), 2: _one("int64")},
    "SparseTensorProto": {1: _one("TensorProto"), 2: _one("TensorProto"), 3: _many("int64")},
    "FunctionProto": {
        1: _one("string"),
        4: _many("string"),
        5: _many("string"),
        6: _many("string"),
        7: _many("NodeProto"),
        8: _one("string"),
        9: _many("OperatorSetIdProto"),
        10: _one("string"),  # domain
        11: _many("AttributeProto"),
        12: _many("ValueInfoProto"),
        13: _one("string"),
        14: _many("StringStringEntryProto"),
    },
    "OperatorSetIdProto": {1: _one("string"), 2: _one("int64")},
    "StringStringEntryProto": {1: _one("string"), 2: _one("string")},
    "TensorAnnotation": {1: _one("string"), 2: _many("StringStringEntryProto")},
    "ValueInfoProto": {
        1: _one("string"),  # name
        2: _one("TypeProto"),
        3: _one("string"),
        4: _many("StringStringEntryProto"),
    },
    "TypeProto": {
        1: _choice("TypeProto.Tensor"),
        4: _choice("TypeProto.Sequence"),
        5: _choice("TypeProto.Map"),
        6: _one("string"),
        7: _choice("TypeProto.Opaque"),
        8: _choice("TypeProto.SparseTensor"),
        9: _choice("TypeProto.Optional"),
    },
    "TypeProto.Tensor": {1: _one("int32"), 2: _one("TensorShapeProto")},
    "TypeProto.Sequence": {1: _one("TypeProto")},
    "TypeProto.Map": {1: _one("int32"), 2: _one("TypeProto")},
    "TypeProto.Optional": {1: _one("TypeProto")},
    "TypeProto.SparseTensor": {1: _one("int32"), 2: _one("TensorShapeProto")},
    "TypeProto.Opaque": {1: _one("string"), 2: _one("string")},
    "TensorShapeProto": {1: _many("TensorShapeProto.Dimension")},
    "TensorShapeProto.Dimension": {1: _choice("int64"), 2: _choice("string"), 3: _one("string")},
    "DeviceConfigurationProto": {1: _one("string"), 2: _one("int32"), 3: _many("string")},
    "NodeDeviceConfigurationProto": {
        1: _one("string"),
        2: _many("ShardingSpecProto"),
        3: _one("int32"),
    },
    "ShardingSpecProto": {
        1: _one("string"),
        2: _many("int64"),
        3: _many("IntIntListEntryProto"),
        4: _many("ShardedDimProto"),
    },
    "IntIntListEntryProto": {1: _one("int64"), 2: _many("int64")},
    "ShardedDimProto": {1: _one("int64"), 2: _many("SimpleShardedDimProto")},
    "SimpleShardedDimProto": {1: _choice("int64"), 2: _choice("string"), 3: _one("int64")},
}
