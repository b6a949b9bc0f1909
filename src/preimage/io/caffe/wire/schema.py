"""Caffe's messages as data: for every field its name, number, type and default.

Notation, one message a row: `name:number type`, with `*` after the type of a repeated field and `=default` at the end. Types: i int32, l int64,
u uint32, f float, d double, b bool, s string, y bytes, else the name of an enum (ENUMS) or of a message (MESSAGES).
The numbers are those of BVLC/caffe (`src/caffe/proto/caffe.proto`), with the fields of the SSD fork (200 to 207 in a layer) and the raw data
of NVIDIA's (10 to 13 in a blob), in which half-precision weights are stored. Where a fork uses the same number otherwise, BVLC's meaning
holds, except for the parameters of a layer type that is the fork's own (FORKS); what does not fit the meaning is kept as unknown bytes.
Source: BVLC/caffe, weiliu89/caffe (branch ssd), NVIDIA/caffe, the `caffe.proto` of each; checked by tests against files written by protobuf.
"""

from __future__ import annotations

from functools import cache

from preimage.io.caffe.wire.schema_rows import ENUMS, FORKS, MESSAGES
from preimage.io.protobuf import float32
from preimage.records import record

__all__ = ["ENUMS", "FORK_NUMBERS", "Field", "contested", "enum_number", "layer_numbers", "message_fields", "message_numbers"]

_SCALARS = {
    "i": "int32",
    "l": "int64",
    "u": "uint32",
    "f": "float",
    "d": "double",
    "b": "bool",
    "s": "string",
    "y": "bytes",
}


@record
class Field:
    """One field of a message: its kind is a scalar word, "enum" or "message" (then `type` names which)."""

    name: str
    number: int
    kind: str
    type: str
    repeated: bool
    default: object


def _default(kind: str, type_name: str, text: str | None) -> object:
    if kind == "message":
        return None
    if text is None:
        if kind == "enum":
            return next(iter(ENUMS[type_name].values()))
        return {"bool": False, "string": "", "bytes": b"", "float": 0.0, "double": 0.0}.get(kind, 0)
    if kind == "enum":
        return ENUMS[type_name][text]
    if kind == "bool":
        return text == "true"
    if kind in ("float", "double"):  # a float that is not set reads as one that is set to its default
        return float32(float(text)) if kind == "float" else float(text)
    return text if kind == "string" else int(text)


def _field(row: str) -> Field:
    name, rest = row.split(":", 1)
    number, rest = rest.split(" ", 1)
    type_name, _, default = rest.partition("=")
    repeated = type_name.endswith("*")
    type_name = type_name.rstrip("*")
    kind = _SCALARS.get(type_name) or ("enum" if type_name in ENUMS else "message")
    if kind == "message" and type_name not in MESSAGES:
        raise KeyError(f"schema row {row!r} names an unknown type")
    return Field(name, int(number), kind, type_name, repeated, _default(kind, type_name, default or None))


@cache
def message_fields(message: str) -> dict[str, Field]:
    """The fields of a message by name."""
    rows = (row.strip() for row in MESSAGES[message].replace("\n", " ").split(","))
    return {field.name: field for field in map(_field, filter(None, rows))}


@cache
def message_numbers(message: str) -> dict[int, Field]:
    """The fields of a message by number; without those whose numbers count in layers of one type alone."""
    own = FORK_NUMBERS if message == "LayerParameter" else ()
    return {field.number: field for field in message_fields(message).values() if field.name not in own}


#: The numbers under which the parameters of forks' layers are written.
FORK_NUMBERS = {name: numbers[0] for name, _, numbers in FORKS.values()}


@cache
def layer_numbers(layer_type: str) -> dict[int, Field]:
    """The fields of a layer of a type by number."""
    numbers = message_numbers("LayerParameter")
    if layer_type not in FORKS:
        return numbers
    name, _, own = FORKS[layer_type]
    return numbers | dict.fromkeys(own, message_fields("LayerParameter")[name])


def contested(message: str, number: int) -> bool:
    """Whether forks of Caffe use the number of a message's field for something else: what does not fit it is no damage."""
    return number >= {"LayerParameter": 136, "TransformationParameter": 8}.get(message, 1 << 30)


def enum_number(type_name: str, word: str) -> int | None:
    """The number of an enum's word, None if it has no such word."""
    return ENUMS[type_name].get(word)
