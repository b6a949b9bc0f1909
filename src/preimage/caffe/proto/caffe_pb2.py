"""Messages with the methods that scripts call on protobuf's: `caffe_pb2.BlobProto()`, `NetParameter()`, `Datum()`, ..."""

from __future__ import annotations

from typing import Any

from preimage.io.caffe.binary import decode, encode
from preimage.io.caffe.message import Message
from preimage.io.caffe.schema_rows import MESSAGES
from preimage.io.caffe.text import format_text, parse_text

__all__ = ["TEST", "TRAIN", "BlobProto", "BlobProtoVector", "Datum", "LayerParameter", "NetParameter", "text_format"]

TRAIN, TEST = 0, 1


class _Proto(Message):
    """A message with protobuf's reading, writing and testing methods."""

    __slots__ = ()

    def _take(self, other: Message) -> None:
        object.__setattr__(self, "_values", other._values)
        self.unknown = other.unknown

    def ParseFromString(self, data: bytes) -> int:  # noqa: N802 - protobuf's word
        """Replace the contents by those of the bytes."""
        self._take(decode(self.type_name, data))
        return len(data)

    MergeFromString = ParseFromString

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's word
        """The bytes."""
        return encode(self)

    def HasField(self, name: str) -> bool:  # noqa: N802 - protobuf's word
        """Whether a field was set."""
        return self.has(name)

    def CopyFrom(self, other: Message) -> None:  # noqa: N802 - protobuf's word
        """Replace the contents by a copy of the other's."""
        self._take(other.copy())

    def __str__(self) -> str:
        return format_text(self)


def _proto(name: str) -> Any:
    def __init__(self: _Proto, **values: object) -> None:  # noqa: N807 - becomes the class's
        Message.__init__(self, name, **values)

    return type(name, (_Proto,), {"__init__": __init__, "__slots__": (), "__doc__": f"Caffe's {name}."})


BlobProto, BlobProtoVector, Datum, LayerParameter, NetParameter = map(
    _proto, ("BlobProto", "BlobProtoVector", "Datum", "LayerParameter", "NetParameter")
)


class text_format:  # noqa: N801 - protobuf's module of this name
    """`google.protobuf.text_format`'s Merge, Parse and MessageToString for these messages."""

    @staticmethod
    def Merge(text: str, message: _Proto) -> _Proto:  # noqa: N802 - protobuf's word
        """Fill the message from text."""
        message._take(parse_text(message.type_name, text))
        return message

    Parse = Merge

    @staticmethod
    def MessageToString(message: Message) -> str:  # noqa: N802 - protobuf's word
        """The message as text."""
        return format_text(message)


def __getattr__(name: str) -> Any:
    if name in MESSAGES:
        return _proto(name)
    raise AttributeError(f"caffe_pb2 has no {name!r}")
