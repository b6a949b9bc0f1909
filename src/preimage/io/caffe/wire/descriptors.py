"""What messages say about themselves, in protobuf's words: `message.DESCRIPTOR.fields_by_name["name"].number`.

google.protobuf.text_format reads and prints a message by its descriptors, so it works on ours too. Numbers of types: protobuf's descriptor.proto.
"""

from __future__ import annotations

from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any

from preimage.io.caffe.wire.schema import ENUMS, Field, message_fields

__all__ = ["Descriptor", "EnumDescriptor", "FieldDescriptor", "descriptor", "enum_descriptor"]

# FieldDescriptor.TYPE_* and CPPTYPE_*
_TYPES = {
    "double": (1, 5), "float": (2, 6), "int64": (3, 2), "int32": (5, 1), "bool": (8, 7), "string": (9, 9), "message": (11, 10),
    "bytes": (12, 9), "uint32": (13, 3), "enum": (14, 8),
}  # fmt: skip
_FILE = SimpleNamespace(name="caffe.proto", package="caffe", syntax="proto2")
_OPTIONS = SimpleNamespace(map_entry=False, message_set_wire_format=False, packed=False, deprecated=False)


class _Named:
    """A thing of the schema with a name."""

    file = _FILE
    has_options = False
    containing_type: Any = None

    def __init__(self, name: str, full_name: str) -> None:
        self.name, self.full_name = name, full_name

    def GetOptions(self) -> Any:  # noqa: N802 - protobuf's word
        """No options are set."""
        return _OPTIONS

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.full_name}>"


class EnumValue(_Named):
    """A word of an enum."""

    def __init__(self, enum: str, name: str, number: int, index: int) -> None:
        super().__init__(name, f"caffe.{enum}.{name}")
        self.number, self.index = number, index


class EnumDescriptor(_Named):
    """An enum: its words and numbers."""

    is_closed = True

    def __init__(self, name: str) -> None:
        super().__init__(name, f"caffe.{name}")
        self.values = [EnumValue(name, word, number, k) for k, (word, number) in enumerate(ENUMS[name].items())]
        self.values_by_name = {value.name: value for value in self.values}
        self.values_by_number = {value.number: value for value in reversed(self.values)}


class FieldDescriptor(_Named):
    """A field of a message."""

    is_extension = is_required = False
    extension_scope = containing_oneof = None

    def __init__(self, owner: Descriptor, field: Field, index: int) -> None:
        super().__init__(field.name, f"{owner.full_name}.{field.name}")
        self.number, self.index, self.containing_type = field.number, index, owner
        self.type, self.cpp_type = _TYPES[field.kind]
        self.is_repeated, self.label = field.repeated, 3 if field.repeated else 1
        self.has_presence, self.has_default_value = not field.repeated, field.default is not None
        self.default_value: Any = [] if field.repeated else field.default
        self._field = field

    @cached_property
    def message_type(self) -> Descriptor | None:
        """What a field of messages holds."""
        return descriptor(self._field.type) if self._field.kind == "message" else None

    @cached_property
    def enum_type(self) -> EnumDescriptor | None:
        """What a field of enums holds."""
        return enum_descriptor(self._field.type) if self._field.kind == "enum" else None


class Descriptor(_Named):
    """A message: its fields."""

    is_extendable = False

    def __init__(self, name: str) -> None:
        super().__init__(name, f"caffe.{name}")
        self.fields = [FieldDescriptor(self, field, k) for k, field in enumerate(message_fields(name).values())]
        self.fields_by_name = {field.name: field for field in self.fields}
        self.fields_by_number = {field.number: field for field in self.fields}
        kinds = {field.type: None for field in message_fields(name).values() if field.kind == "enum"}
        self.enum_types = [enum_descriptor(kind) for kind in kinds]
        self.enum_types_by_name = {kind.name: kind for kind in self.enum_types}
        self.oneofs: list[Any] = []
        self.oneofs_by_name: dict[str, Any] = {}


@cache
def descriptor(name: str) -> Descriptor:
    """The descriptor of a message of the schema."""
    return Descriptor(name)


@cache
def enum_descriptor(name: str) -> EnumDescriptor:
    """The descriptor of an enum of the schema."""
    return EnumDescriptor(name)
