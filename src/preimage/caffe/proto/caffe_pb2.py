"""`caffe_pb2.BlobProto()`, `NetParameter()`, `Datum()`, ...: empty messages that scripts fill and parse as protobuf's."""

from __future__ import annotations

from typing import Any

from preimage.io.caffe.message import Message
from preimage.io.caffe.schema_rows import MESSAGES
from preimage.io.caffe.text import format_text, parse_text

__all__ = ["TEST", "TRAIN", "BlobProto", "BlobProtoVector", "Datum", "LayerParameter", "NetParameter", "text_format"]

TRAIN, TEST = 0, 1


def _maker(name: str) -> Any:
    def make(**values: object) -> Message:
        return Message(name, **values)

    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"A new {name}."
    return make


BlobProto, BlobProtoVector, Datum, LayerParameter, NetParameter = map(
    _maker, ("BlobProto", "BlobProtoVector", "Datum", "LayerParameter", "NetParameter")
)


class text_format:  # noqa: N801 - protobuf's module of this name
    """`google.protobuf.text_format`'s Merge, Parse and MessageToString for these messages."""

    @staticmethod
    def Merge(text: str, message: Message) -> Message:  # noqa: N802 - protobuf's word
        """Fill the message from text."""
        message.CopyFrom(parse_text(message.type_name, text))
        return message

    Parse = Merge

    @staticmethod
    def MessageToString(message: Message) -> str:  # noqa: N802 - protobuf's word
        """The message as text."""
        return format_text(message)


def __getattr__(name: str) -> Any:
    if name in MESSAGES:
        return _maker(name)
    raise AttributeError(f"caffe_pb2 has no {name!r}")
