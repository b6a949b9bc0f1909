"""Messages from and to the protobuf wire format (`.caffemodel`, `.binaryproto`, `.solverstate`).

Bounds: nesting depth, number of fields and elements are limited (Limits), lengths are checked before use; a repeated number of any length is
read in one step into a NumPy array, packed or not. Fields that the schema does not know are kept as bytes. A singular field that
comes twice: the last one wins, messages are merged, as the format says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from preimage.errors import FileFormatError
from preimage.io import protobuf
from preimage.io.caffe.wire.message import ARRAY_MESSAGES, Message
from preimage.io.caffe.wire.schema import FORK_NUMBERS, Field, contested, layer_numbers, message_fields, message_numbers

__all__ = ["decode", "encode"]

_MAX_DEPTH = 32
_MAX_FIELDS = 4_000_000
_ARRAYS = {"float": "<f4", "double": "<f8"}
_KINDS = {
    "float": protobuf.FIXED32,
    "double": protobuf.FIXED64,
    "string": protobuf.BYTES,
    "bytes": protobuf.BYTES,
    "message": protobuf.BYTES,
}


@dataclass(slots=True)
class _Budget:
    """What may still be read: a file of 100 MB could hold 50 million empty messages."""

    fields: int = _MAX_FIELDS

    def take(self, count: int, offset: int) -> None:
        self.fields -= count
        if self.fields < 0:
            raise FileFormatError(f"more than {_MAX_FIELDS} fields (at byte {offset}); no network needs so many")


def decode(type_name: str, data: bytes | bytearray | memoryview) -> Message:
    """The message that the bytes hold. Raises FileFormatError naming the byte."""
    view = memoryview(data)
    return _decode(type_name, view, 0, len(view), 0, _Budget())


def _decode(type_name: str, data: memoryview, start: int, end: int, depth: int, budget: _Budget) -> Message:
    if depth > _MAX_DEPTH:
        raise FileFormatError(f"messages nested deeper than {_MAX_DEPTH} at byte {start}")
    table = message_numbers(type_name) if type_name != "LayerParameter" else layer_numbers(_layer_type(data, start, end))
    message = Message(type_name)
    values: dict[str, Any] = message._values
    unknown: list[bytes] = []
    resume = start  # fields before this offset were already read as part of a run
    for number, kind, value, stop, offset in protobuf.fields(data, start, end):
        if offset < resume:
            continue
        budget.take(1, offset)
        field = table.get(number)
        if field is None:
            unknown.append(bytes(data[offset:stop]))
        elif field.kind == "message":
            item = _message(field, kind, number, data, (value, stop, offset), depth, budget, contested(type_name, number))
            if item is None:
                unknown.append(bytes(data[offset:stop]))
            elif field.repeated:
                values.setdefault(field.name, []).append(item)
            elif field.name in values:
                _merge(values[field.name], item)
            else:
                values[field.name] = item
        elif field.repeated and kind == protobuf.BYTES and field.kind not in ("string", "bytes"):
            part = _packed(field, data, value, stop, offset, budget)
            if field.kind in _ARRAYS:
                _extend(values, field, part)
            else:
                values.setdefault(field.name, []).extend(part)
        elif field.repeated and field.kind in _ARRAYS:
            _expect(field, kind, _KINDS[field.kind], offset)
            run, resume = _run(field, data, offset, value, stop, end)
            budget.take(len(run) // 64, offset)
            _extend(values, field, run)
        elif field.repeated:
            values.setdefault(field.name, []).append(_scalar(field, kind, data, value, stop, offset))
        else:
            values[field.name] = _scalar(field, kind, data, value, stop, offset)
    for name, value in values.items():
        if isinstance(value, _Parts):  # parameters become Python's floats, as text gives them; only data stay arrays
            values[name] = value.joined() if type_name in ARRAY_MESSAGES else value.joined().tolist()
    message.unknown = b"".join(unknown)
    return message


def _message(
    field: Field, kind: int, number: int, data: memoryview, place: tuple[int, int, int], depth: int, budget: _Budget, free: bool
) -> Message | None:
    """The message in a field; None where forks may use the number otherwise (`free`) and what is there does not fit."""
    start, stop, offset = place
    own = _SEGNET if field.type == "BNParameter" and number == _SEGNET_NUMBER else field.type
    try:
        _expect(field, kind, protobuf.BYTES, offset)
        return _renamed(_decode(own, data, start, stop, depth + 1, budget), field.type)
    except FileFormatError:
        if not free:
            raise
        return None


_SEGNET, _SEGNET_NUMBER = "SegNetBNParameter", 45  # its BN layers have fields and a number of their own


def _renamed(message: Message, type_name: str) -> Message:
    """The message as one of another type that has all its fields."""
    if message.type_name == type_name:
        return message
    out = Message(type_name)
    out.unknown = message.unknown
    out._values.update(message._values)
    return out


def _segnet(message: Message) -> Message:
    out = Message(_SEGNET, **{f.name: value for f, value in message.items() if f.name in message_fields(_SEGNET)})
    out.unknown = message.unknown
    return out


def _layer_type(data: memoryview, start: int, end: int) -> str:
    """The type of a layer: which of its fields' numbers mean what."""
    found = ""
    for number, kind, value, stop, _ in protobuf.fields(data, start, end):
        if number == 2 and kind == protobuf.BYTES:
            found = str(data[value:stop], "utf-8", "surrogateescape")
    return found


class _Parts(list[Any]):
    """Pieces of one repeated number field, joined once at the end: extending an array piece by piece is quadratic."""

    def joined(self) -> Any:
        return self[0] if len(self) == 1 else np.concatenate(self)


def _extend(values: dict[str, Any], field: Field, part: Any) -> None:
    values.setdefault(field.name, _Parts()).append(part)


def _expect(field: Field, kind: int, wanted: int, offset: int) -> None:
    if kind != wanted:
        raise FileFormatError(f"{field.name} at byte {offset} has wire type {kind}, a {field.kind} needs {wanted}")


def _packed(field: Field, data: memoryview, start: int, end: int, offset: int, budget: _Budget) -> Any:
    if field.kind in _ARRAYS:
        dtype = np.dtype(_ARRAYS[field.kind])
        if (end - start) % dtype.itemsize:
            raise FileFormatError(
                f"{field.name} at byte {offset}: {end - start} bytes are no whole number of {dtype.itemsize}-byte {field.kind}s"
            )
        return np.frombuffer(data[start:end], dtype=dtype).copy()
    numbers = []
    for value in protobuf.varints(data, start, end):
        budget.take(1, offset)
        numbers.append(_number(field, value))
    return numbers


def _run(field: Field, data: memoryview, offset: int, start: int, stop: int, end: int) -> tuple[Any, int]:
    """An unpacked float field and all of the same that follow it directly: the array, and where the next field starts."""
    head, step = start - offset, stop - offset
    count = (end - offset) // step
    rows = np.frombuffer(data[offset : offset + count * step], np.uint8).reshape(count, step)
    same = (rows[:, :head] == rows[0, :head]).all(axis=1)
    length = count if same.all() else int(same.argmin())
    array = np.ascontiguousarray(rows[:length, head:]).view(_ARRAYS[field.kind]).reshape(-1)
    return array, offset + length * step


def _scalar(field: Field, kind: int, data: memoryview, value: int, stop: int, offset: int) -> object:
    _expect(field, kind, _KINDS.get(field.kind, protobuf.VARINT), offset)
    if field.kind == "bytes":
        return bytes(data[value:stop])
    if field.kind == "string":
        return str(data[value:stop], "utf-8", "surrogateescape")
    if field.kind in _ARRAYS:
        return float(np.frombuffer(data[value:stop], _ARRAYS[field.kind])[0])
    return _number(field, value)


def _number(field: Field, value: int) -> int | bool:
    if field.kind == "bool":
        return value != 0
    if field.kind == "uint32":
        return value & 0xFFFFFFFF
    return protobuf.signed(value, 64 if field.kind == "int64" else 32)


def _merge(into: Message, other: Message) -> None:
    for field, value in other.items():
        present = into._values.get(field.name)
        if present is None or not (field.repeated or field.kind == "message"):
            into._values[field.name] = value
        elif field.repeated:
            into._values[field.name] = list(present) + list(value)
        else:
            _merge(present, value)
    into.unknown += other.unknown


def encode(message: Message) -> bytes:
    """The message's bytes: fields by number, repeated numbers packed where the schema of Caffe packs them (blobs, shapes).

    Fields that a text named and the schema does not know have no number: they are left out.
    """
    parts: list[bytes] = []
    own = FORK_NUMBERS if message.type_name == "LayerParameter" else {}
    for field, value in message.items():
        if field.name == "bn_param" and {f.name for f, _ in value.items()} & message_fields(_SEGNET).keys():
            payload = encode(_segnet(value))
            parts += [protobuf.key(_SEGNET_NUMBER, protobuf.BYTES), protobuf.varint(len(payload)), payload]
        elif field.repeated and field.kind in _ARRAYS and message.type_name == "BlobProto":
            payload = np.ascontiguousarray(value, dtype=_ARRAYS[field.kind]).tobytes()
            parts += [protobuf.key(field.number, protobuf.BYTES), protobuf.varint(len(payload)), payload]
        elif field.repeated and message.type_name == "BlobShape":
            payload = b"".join(protobuf.varint(item) for item in value)
            parts += [protobuf.key(field.number, protobuf.BYTES), protobuf.varint(len(payload)), payload]
        else:
            for item in value if field.repeated else (value,):
                parts.append(_encoded(field, item, own.get(field.name, field.number)))
    parts.append(message.unknown)
    return b"".join(parts)


def _encoded(field: Field, value: Any, number: int) -> bytes:
    kind = _KINDS.get(field.kind, protobuf.VARINT)
    if kind == protobuf.VARINT:
        payload = protobuf.varint(int(value))
    elif kind == protobuf.BYTES:
        payload = (
            encode(value)
            if field.kind == "message"
            else value.encode("utf-8", "surrogateescape")
            if field.kind == "string"
            else value
        )
        payload = protobuf.varint(len(payload)) + payload
    else:
        payload = np.asarray(value, _ARRAYS[field.kind]).tobytes()
    return protobuf.key(number, kind) + payload
