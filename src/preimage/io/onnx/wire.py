"""ONNX files without the package onnx: the messages of onnx.proto that a model to be run needs, with the names and the defaults of protobuf's.

    model = parse_model(data)          # a ModelProto: model.graph.node[0].op_type, tensor.HasField("raw_data"), ...

Importing onnx takes longer than everything else that reading a small model does, and protobuf holds every weight a second time. Here a
tensor's bytes are views into the file. Fields that are not listed are skipped, as protobuf skips those that it does not know; of a field
that comes twice the last counts, messages are merged, lists grow.

Raises: FileFormatError for what is no message.
Source: onnx.proto of IR version 13; protobuf.dev, "Encoding".
"""

from __future__ import annotations

import struct
from typing import Any, ClassVar

import numpy as np

from preimage.errors import FileFormatError
from preimage.io.protobuf import BYTES, FIXED32, FIXED64, VARINT, read_varint, signed

__all__ = ["Message", "ModelProto", "parse_model"]

#: Messages inside messages, as protobuf allows.
MOST_DEPTH = 100

INT, FLOAT, DOUBLE, TEXT, DATA = "int", "float", "double", "text", "data"
_Row = tuple[str, Any, bool]  # name, kind (or class of message), whether it is a list


class Message:
    """What all have: fields as attributes, those that are absent with their defaults."""

    FIELDS: ClassVar[dict[int, _Row]] = {}

    def HasField(self, name: str) -> bool:  # noqa: N802 - protobuf's name
        """Whether the file has the field."""
        return name in self.__dict__


def _message(name: str, rows: dict[int, tuple[str, Any]]) -> type[Message]:
    """A class of messages: a kind in a list is a field that repeats."""
    fields = {
        number: (field, kind[0] if isinstance(kind, list) else kind, isinstance(kind, list))
        for number, (field, kind) in rows.items()
    }
    defaults: dict[str, Any] = {}
    for field, kind, repeats in fields.values():
        empty = {INT: 0, FLOAT: 0.0, DOUBLE: 0.0, TEXT: "", DATA: b""}
        defaults[field] = () if repeats else empty[kind] if isinstance(kind, str) else kind()
    return type(name, (Message,), {"FIELDS": fields, **defaults})


_Entry = _message("StringStringEntryProto", {1: ("key", TEXT), 2: ("value", TEXT)})
_Opset = _message("OperatorSetIdProto", {1: ("domain", TEXT), 2: ("version", INT)})
_Dimension = _message("Dimension", {1: ("dim_value", INT), 2: ("dim_param", TEXT)})
_Shape = _message("TensorShapeProto", {1: ("dim", [_Dimension])})
_TensorType = _message("Tensor", {1: ("elem_type", INT), 2: ("shape", _Shape)})
_Type = _message("TypeProto", {1: ("tensor_type", _TensorType)})
_ValueInfo = _message("ValueInfoProto", {1: ("name", TEXT), 2: ("type", _Type)})
_Unread = _message("Unread", {})  # a message of which it only counts that it is there
_Tensor = _message(
    "TensorProto",
    {
        1: ("dims", [INT]), 2: ("data_type", INT), 3: ("segment", _Unread), 4: ("float_data", [FLOAT]), 5: ("int32_data", [INT]),
        6: ("string_data", [DATA]),
        7: ("int64_data", [INT]), 8: ("name", TEXT), 9: ("raw_data", DATA), 10: ("double_data", [DOUBLE]), 11: ("uint64_data", [INT]),
        13: ("external_data", [_Entry]), 14: ("data_location", INT),
    },
)  # fmt: skip
_Attribute = _message(
    "AttributeProto",
    {
        1: ("name", TEXT), 2: ("f", FLOAT), 3: ("i", INT), 4: ("s", DATA), 5: ("t", _Tensor), 7: ("floats", [FLOAT]), 8: ("ints", [INT]),
        9: ("strings", [DATA]), 20: ("type", INT), 21: ("ref_attr_name", TEXT),
    },
)  # fmt: skip
_Node = _message(
    "NodeProto",
    {
        1: ("input", [TEXT]), 2: ("output", [TEXT]), 3: ("name", TEXT), 4: ("op_type", TEXT), 5: ("attribute", [_Attribute]),
        7: ("domain", TEXT), 8: ("overload", TEXT),
    },
)  # fmt: skip
_Graph = _message(
    "GraphProto",
    {
        1: ("node", [_Node]), 2: ("name", TEXT), 5: ("initializer", [_Tensor]), 11: ("input", [_ValueInfo]), 12: ("output", [_ValueInfo]),
        15: ("sparse_initializer", [_Unread]),
    },
)  # fmt: skip
_Attribute.FIELDS |= {6: ("g", _Graph, False), 11: ("graphs", _Graph, True)}  # messages that hold each other
_Attribute.g, _Attribute.graphs = _Graph(), ()  # type: ignore[attr-defined]
ModelProto = _message(
    "ModelProto",
    {
        1: ("ir_version", INT), 7: ("graph", _Graph), 8: ("opset_import", [_Opset]), 14: ("metadata_props", [_Entry]),
        25: ("functions", [_Unread]),
    },
)  # fmt: skip


def parse_model(data: memoryview) -> Any:
    """The ModelProto of a file's bytes; of its functions only how many there are."""
    model = ModelProto()
    _fill(model, data, 0, len(data), 0)
    return model


def _fill(message: Message, data: memoryview, at: int, end: int, depth: int) -> None:
    """Read the bytes from `at` to `end` into a message."""
    if depth > MOST_DEPTH:
        raise FileFormatError(f"messages inside messages to a depth of more than {MOST_DEPTH}")
    rows, values = message.FIELDS, message.__dict__
    while at < end:
        offset = at
        tag = data[at]
        at += 1
        if tag > 127:
            tag, at = read_varint(data, offset, end)
        wire = tag & 7
        value = 0
        if wire in (BYTES, VARINT):
            if at < end and data[at] < 128:
                value = data[at]
                at += 1
            else:
                value, at = read_varint(data, at, end)
        size = value if wire == BYTES else 4 if wire == FIXED32 else 8 if wire == FIXED64 else 0
        if size > end - at or wire not in (VARINT, FIXED64, BYTES, FIXED32) or not tag >> 3:
            raise FileFormatError(f"field {tag >> 3} of wire type {wire} at byte {offset} does not fit its message")
        row = rows.get(tag >> 3)
        if row is not None:
            _put(values, row, wire, value, data, at, at + size, depth)
        at += size


def _put(values: dict[str, Any], row: _Row, wire: int, value: int, data: memoryview, at: int, end: int, depth: int) -> None:
    """One field of a message. One of another wire type than its kind has is skipped, as protobuf does."""
    name, kind, repeats = row
    found: Any
    if kind is TEXT or kind is DATA:
        if wire != BYTES:
            return
        found = str(data[at:end], "utf-8", "replace") if kind is TEXT else data[at:end]
    elif kind is INT:
        if wire == BYTES and repeats:
            _extend(values, name, _integers(data[at:end]))
        if wire != VARINT:
            return
        found = signed(value, 64)
    elif kind is FLOAT or kind is DOUBLE:
        letter, single = ("<f4", FIXED32) if kind is FLOAT else ("<f8", FIXED64)
        if wire == BYTES and repeats:
            if (end - at) % int(letter[2]):
                raise FileFormatError(f"the packed numbers at byte {at} are cut off")
            _extend(values, name, np.frombuffer(data[at:end], letter))
        if wire != single:
            return
        found = struct.unpack_from("<f" if kind is FLOAT else "<d", data, at)[0]
    else:
        if wire != BYTES:
            return
        found = values.get(name) if not repeats else None
        found = kind() if found is None else found
        _fill(found, data, at, end, depth + 1)
    if not repeats:
        values[name] = found
    elif isinstance(known := values.setdefault(name, []), list):
        known.append(found)
    else:
        values[name] = np.append(known, found)


def _extend(values: dict[str, Any], name: str, more: np.ndarray) -> None:
    known = values.get(name)
    values[name] = more if known is None else np.append(known, more)


def _integers(data: memoryview) -> np.ndarray:
    """The numbers of a packed field as int64 (of uint64: the same bits).

    Definition: a number is a run of bytes of which the last is below 128; byte k of it holds bits 7 k to 7 k + 6.
    """
    raw = np.frombuffer(data, np.uint8)
    last = np.flatnonzero(raw < 128)
    if not raw.size or not last.size or last[-1] != raw.size - 1:
        if raw.size:
            raise FileFormatError("packed numbers are cut off")
        return np.zeros(0, np.int64)
    lengths = np.diff(last, prepend=-1)
    if lengths.max() > 10:
        raise FileFormatError("a packed number is longer than 10 bytes")
    first = last - lengths + 1
    numbers = np.zeros(last.size, np.uint64)
    for k in range(int(lengths.max())):
        there = lengths > k
        numbers[there] |= (raw[first[there] + k] & np.uint8(127)).astype(np.uint64) << np.uint64(7 * k)
    return numbers.view(np.int64)
