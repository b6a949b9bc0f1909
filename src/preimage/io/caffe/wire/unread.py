"""Which fields of a file are not known here: all of them by name, and those that are likely slips of the pen as an error."""

from __future__ import annotations

from collections.abc import Iterator

from preimage.errors import FileFormatError
from preimage.io import protobuf
from preimage.io.caffe.wire.extra import close_name
from preimage.io.caffe.wire.message import Message
from preimage.io.caffe.wire.schema import ENUMS, message_fields

__all__ = ["refuse_slips", "unread_fields"]


def unread_fields(message: Message) -> list[str]:
    """The fields that are kept and not understood, such as "transform_param.new_field (line 7)" or "field 250 (12 bytes)"."""
    found = []
    for path, inner in _messages(message, ""):
        found += [f"{path}{extra.name}" + f" (line {extra.line})" * bool(extra.line) for extra in inner.extra]
        if inner.unknown:
            data = memoryview(inner.unknown)
            fields = protobuf.fields(data, 0, len(data))
            found += [f"{path}field {number} ({stop - offset} bytes)" for number, _, _, stop, offset in fields]
    return found


def refuse_slips(message: Message, where: str) -> None:
    """Raises: FileFormatError for a field that differs by one letter from one that the message has, and for a word that an enum has not.

    `where` names the message.
    """
    for path, inner in _messages(message, ""):
        known = message_fields(inner.type_name)
        for extra in inner.extra:
            line = f", line {extra.line}" if extra.line else ""
            if extra.name in known:
                words = ENUMS.get(known[extra.name].type)
                if words is None:  # a field of today's layers in one of an older form, which has none of that name
                    raise FileFormatError(f"{where}{line}: {path}{extra.name} is no field of a layer of this older form")
                near = close_name(str(extra.value), list(words)) or ", ".join(list(words)[:8])
                raise FileFormatError(f"{where}{line}: {path}{extra.name} knows no {extra.value}; wanted: {near}")
            if (meant := close_name(extra.name, list(known))) is not None:
                raise FileFormatError(
                    f"{where}{line}: {path.rstrip('.') or inner.type_name} has no field {extra.name!r}; did you mean {meant!r}?"
                )


def _messages(message: Message, path: str) -> Iterator[tuple[str, Message]]:
    """A message and those in its singular fields, with their paths: in a net each layer is looked at by itself."""
    yield path, message
    for field, value in message.items():
        if field.kind == "message":
            for item in value if field.repeated else (value,):
                if item.type_name not in ("LayerParameter", "V1LayerParameter", "BlobProto"):
                    yield from _messages(item, f"{path}{field.name}.")
