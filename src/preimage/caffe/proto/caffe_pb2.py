"""`caffe_pb2.BlobProto()`, `NetParameter()`, `Datum()`, ...: empty messages that scripts fill and parse as protobuf's.

Every message and enum of Caffe's schema is here: `caffe_pb2.PoolingParameter.MAX`, `caffe_pb2.Phase.Value("TEST")`. Where protobuf is
installed, google.protobuf.text_format works on these messages; `text_format` here does without.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from preimage.io.caffe.wire.binary import decode
from preimage.io.caffe.wire.descriptors import Descriptor, EnumDescriptor, descriptor, enum_descriptor
from preimage.io.caffe.wire.message import Message
from preimage.io.caffe.wire.schema_rows import ENUMS, MESSAGES
from preimage.io.caffe.wire.text import format_text, parse_text, text_of_bytes

__all__ = ["TEST", "TRAIN", "BlobProto", "BlobProtoVector", "Datum", "LayerParameter", "NetParameter", "text_format"]

TRAIN, TEST = 0, 1


#: Enums whose names in the schema here are not Caffe's.
_NAMES = {"LayerType": "V1Type", "Norm": "HingeNorm"}


class _Enum:
    """An enum: its words are attributes; Value, Name, keys, values and items as in protobuf."""

    def __init__(self, name: str) -> None:
        self.DESCRIPTOR: EnumDescriptor = enum_descriptor(name)
        self._words = ENUMS[name]

    def Value(self, name: str) -> int:  # noqa: N802 - protobuf's word
        """The number of a word. Raises: ValueError."""
        if name not in self._words:
            raise ValueError(f"{self.DESCRIPTOR.name} has no word {name!r}; it has {', '.join(self._words)}")
        return self._words[name]

    def Name(self, number: int) -> str:  # noqa: N802 - protobuf's word
        """The word of a number. Raises: ValueError."""
        found = self.DESCRIPTOR.values_by_number.get(number)
        if found is None:
            raise ValueError(f"{self.DESCRIPTOR.name} has no number {number}")
        return found.name

    def keys(self) -> Iterable[str]:
        """The words."""
        return list(self._words)

    def values(self) -> Iterable[int]:
        """The numbers."""
        return list(self._words.values())

    def items(self) -> Iterable[tuple[str, int]]:
        """Words and numbers."""
        return list(self._words.items())

    def __getattr__(self, name: str) -> int:
        if name.startswith("_") or name not in self._words:
            raise AttributeError(f"{self.DESCRIPTOR.name} has no word {name!r}")
        return self._words[name]


class _Kind:
    """A kind of message: call it to make one; its enums, and their words, are attributes."""

    def __init__(self, name: str) -> None:
        self.__name__ = self.__qualname__ = name
        self.__doc__ = f"A new {name}."

    def __call__(self, **values: object) -> Message:
        return Message(self.__name__, **values)

    def FromString(self, data: bytes) -> Message:  # noqa: N802 - protobuf's word
        """The message that the bytes hold."""
        return decode(self.__name__, data)

    @property
    def DESCRIPTOR(self) -> Descriptor:  # noqa: N802 - protobuf's word
        """The message's fields."""
        return descriptor(self.__name__)

    def __instancecheck__(self, value: object) -> bool:
        return isinstance(value, Message) and value.type_name == self.__name__

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            kinds = self.DESCRIPTOR.enum_types_by_name
            if _NAMES.get(name, name) in kinds:
                return _Enum(_NAMES.get(name, name))
            for kind in kinds.values():
                if name in kind.values_by_name:
                    return kind.values_by_name[name].number
        raise AttributeError(f"{self.__name__} has no {name!r}")


_KINDS = {name: _Kind(name) for name in MESSAGES}
BlobProto, BlobProtoVector, Datum, LayerParameter, NetParameter = (
    _KINDS[name] for name in ("BlobProto", "BlobProtoVector", "Datum", "LayerParameter", "NetParameter")
)


class text_format:  # noqa: N801 - protobuf's module of this name
    """`google.protobuf.text_format`'s Merge, Parse and MessageToString for these messages."""

    @staticmethod
    def Merge(text: str | bytes, message: Message, allow_unknown_field: bool = False) -> Message:  # noqa: N802 - protobuf's word
        """Add to the message what the text says, as MergeFrom. Fields that are not known: errors, or kept in the message."""
        read = text_of_bytes(text) if isinstance(text, bytes) else text
        message.MergeFrom(parse_text(message.type_name, read, strict=not allow_unknown_field))
        return message

    Parse = Merge

    @staticmethod
    def MessageToString(message: Message) -> str:  # noqa: N802 - protobuf's word
        """The message as text."""
        return format_text(message)


def __getattr__(name: str) -> Any:
    if name in _KINDS:
        return _KINDS[name]
    if name in ENUMS:
        return _Enum(name)
    raise AttributeError(f"caffe_pb2 has no {name!r}")
