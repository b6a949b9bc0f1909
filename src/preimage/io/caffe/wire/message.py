"""A protobuf message as a Python value: typed by the schema, absent fields read as their defaults."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, SupportsIndex

import numpy as np

from preimage.errors import FileFormatError
from preimage.io.caffe.wire.descriptors import Descriptor, FieldDescriptor, descriptor
from preimage.io.caffe.wire.extra import Extra
from preimage.io.caffe.wire.schema import ENUMS, Field, message_fields
from preimage.io.protobuf import float32

__all__ = ["ARRAY_MESSAGES", "FieldNameError", "FieldTypeError", "Message", "Repeated", "checked"]

#: Messages whose repeated numbers are data, and stay NumPy arrays.
ARRAY_MESSAGES = ("BlobProto", "Datum")

_RANGES = {"int32": (-(1 << 31), (1 << 31) - 1), "int64": (-(1 << 63), (1 << 63) - 1), "uint32": (0, (1 << 32) - 1)}


class FieldNameError(FileFormatError, AttributeError):
    """A field that a message does not have."""


class FieldTypeError(FileFormatError, TypeError):
    """A value that a field cannot hold."""


class Message:
    """One message: fields are attributes; `has` tells a field that was set from one that reads as its default.

    Numbers are range-checked as they are set and floats rounded to float32, so that text and binary forms agree. Repeated fields read as
    lists; the data of a blob or datum that were read from a file stay NumPy arrays. Enums are their numbers; `word` names one.
    Fields that the schema does not know (forks) are kept for writing: `unknown` holds their bytes, `extra` those of a text by name.
    A message field that is not set reads as an empty message, which becomes the field's value when something in it is set.
    """

    __slots__ = ("__weakref__", "_owner", "_type", "_values", "extra", "unknown")

    unknown: bytes
    extra: tuple[Extra, ...]

    def __init__(self, type: str, /, **values: object) -> None:
        object.__setattr__(self, "_type", type)
        object.__setattr__(self, "_values", {})
        object.__setattr__(self, "_owner", None)
        object.__setattr__(self, "unknown", b"")
        object.__setattr__(self, "extra", ())
        for name, value in values.items():
            setattr(self, name, value)

    @property
    def type_name(self) -> str:
        """The message's name in the schema (`type` may be a field)."""
        return self._type  # type: ignore[no-any-return]

    def field(self, name: str) -> Field:
        """The schema's row of a field."""
        try:
            return message_fields(self._type)[name]
        except KeyError:
            raise FieldNameError(f"{self._type} has no field {name!r}") from None

    def has(self, name: str) -> bool:
        """Whether a field was set (a repeated one: whether it has elements)."""
        value = self._values.get(name)
        return value is not None and not (self.field(name).repeated and len(value) == 0)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        field = self.field(name)
        value = self._values.get(name)
        if value is None:
            if field.repeated:
                value = self._values[name] = Repeated((), self, field)
                return value
            return _unset(self, field) if field.kind == "message" else field.default
        if type(value) is list:  # as the readers of files make them
            value = self._values[name] = Repeated(value, self, field)
        return value

    def _changed(self) -> None:
        """Become the value of the field that this message was read from, if it was not set."""
        if self._owner is not None:
            owner, name = self._owner
            object.__setattr__(self, "_owner", None)
            if name not in owner._values:
                owner._values[name] = self
                owner._changed()

    def __setattr__(self, name: str, value: object) -> None:
        if name in ("unknown", "extra"):
            object.__setattr__(self, name, value)
            return
        field = self.field(name)
        if value is None:
            self._values.pop(name, None)
        elif not field.repeated:
            self._values[name] = checked(field, value)
            self._changed()
        elif isinstance(value, np.ndarray) and self._type in ARRAY_MESSAGES:
            self._values[name] = value
            self._changed()
        else:
            self._values[name] = Repeated((checked(field, item) for item in value), self, field)  # type: ignore[attr-defined]
            self._changed()

    def add(self, name: str, value: object = None, **values: object) -> Any:
        """Append to a repeated field: a number, a word, or a new message of `values`; gives back what was appended."""
        field = self.field(name)
        item = Message(field.type, **values) if field.kind == "message" and value is None else checked(field, value)
        if isinstance(self._values.get(name), np.ndarray):
            self._values[name] = list(self._values[name])
        getattr(self, name).append(item)
        return item

    def sub(self, name: str) -> Message:
        """The message of a singular field, made if it is not there."""
        found: Message = getattr(self, name)
        found._changed()
        return found

    def word(self, name: str) -> str:
        """The word of an enum field's value."""
        field, number = self.field(name), getattr(self, name)
        return next((word for word, value in ENUMS[field.type].items() if value == number), str(number))

    def items(self) -> Iterator[tuple[Field, Any]]:
        """The fields that are set, by number."""
        present = ((self.field(name), value) for name, value in self._values.items() if self.has(name))
        yield from sorted(present, key=lambda pair: pair[0].number)

    def copy(self) -> Message:
        """A deep copy, except of NumPy arrays, which are shared."""
        out = Message(self._type)
        out.unknown, out.extra = self.unknown, self.extra
        for name, value in self._values.items():
            if isinstance(value, Message):
                value = value.copy()
            elif isinstance(value, list):
                items = (item.copy() if isinstance(item, Message) else item for item in value)
                value = Repeated(items, out, self.field(name))
            out._values[name] = value
        return out

    # -- protobuf's words, for scripts that know them ------------------------------------------------------------------

    def HasField(self, name: str) -> bool:  # noqa: N802
        """Whether a field was set."""
        return self.has(name)

    def ClearField(self, name: str) -> None:  # noqa: N802
        """Make a field unset."""
        self.field(name)
        self._values.pop(name, None)

    def Clear(self) -> None:  # noqa: N802
        """Make all fields unset."""
        self._values.clear()
        self.unknown, self.extra = b"", ()

    @property
    def DESCRIPTOR(self) -> Descriptor:  # noqa: N802
        """The message's fields, in protobuf's words."""
        return descriptor(self._type)

    def ListFields(self) -> list[tuple[FieldDescriptor, Any]]:  # noqa: N802
        """The fields that are set, by number, each with its value; a field's `name`, `number`, `type` ... are as in protobuf."""
        known = self.DESCRIPTOR.fields_by_name
        return [(known[field.name], getattr(self, field.name)) for field, _ in self.items()]

    def SetInParent(self) -> None:  # noqa: N802
        """Become the value of the field that this message was read from, though nothing in it is set."""
        self._changed()

    def WhichOneof(self, name: str) -> str | None:  # noqa: N802
        """Raises: FileFormatError, since Caffe's messages have no oneof."""
        raise FileFormatError(f"{self._type} has no oneof {name!r}")

    def IsInitialized(self) -> bool:  # noqa: N802
        """True: no field of Caffe's messages that scripts fill is required."""
        return True

    def ByteSize(self) -> int:  # noqa: N802
        """How many bytes it takes in a file."""
        return len(self.SerializeToString())

    def MergeFrom(self, other: Message) -> None:  # noqa: N802
        """Take what the other has set: numbers and words replace, messages merge, repeated fields are appended."""
        if other.type_name != self._type:
            raise FileFormatError(f"a {self._type} cannot take the fields of a {other.type_name}")
        if other is self:
            other = other.copy()
        for field, value in other.copy().items():
            present = self._values.get(field.name)
            if field.repeated and present is not None and len(present):
                both = [*present, *value] if not isinstance(value, np.ndarray) else np.concatenate([np.asarray(present), value])
                setattr(self, field.name, both)
            elif field.kind == "message" and not field.repeated:
                self.sub(field.name).MergeFrom(value)
            else:
                setattr(self, field.name, value)
        self.unknown += other.unknown
        self.extra += other.extra
        self._changed()

    def MergeFromString(self, data: bytes) -> int:  # noqa: N802
        """Take what the bytes have set, as MergeFrom."""
        fresh = Message(self._type)
        read = fresh.ParseFromString(data)
        self.MergeFrom(fresh)
        return read

    def CopyFrom(self, other: Message) -> None:  # noqa: N802
        """Replace the contents by a copy of the other's."""
        if other.type_name != self._type:
            raise FileFormatError(f"a {self._type} cannot become a copy of a {other.type_name}")
        fresh = other.copy()
        object.__setattr__(self, "_values", fresh._values)
        for value in fresh._values.values():
            if isinstance(value, Repeated):
                value.owner = self
        self.unknown, self.extra = fresh.unknown, fresh.extra
        self._changed()

    def ParseFromString(self, data: bytes) -> int:  # noqa: N802
        """Replace the contents by those of the bytes."""
        from preimage.io.caffe.wire.binary import decode

        self.CopyFrom(decode(self._type, data))
        return len(data)

    def SerializeToString(self) -> bytes:  # noqa: N802
        """The bytes."""
        from preimage.io.caffe.wire.binary import encode

        return encode(self)

    SerializePartialToString = SerializeToString

    def __deepcopy__(self, memo: object) -> Message:
        """A deep copy, arrays included."""
        out = self.copy()
        for message in out._within():
            for name, value in message._values.items():
                if isinstance(value, np.ndarray):
                    message._values[name] = value.copy()
        return out

    def _within(self) -> Iterator[Message]:
        yield self
        for value in self._values.values():
            for item in value if isinstance(value, list) else (value,):
                if isinstance(item, Message):
                    yield from item._within()

    def __reduce__(self) -> tuple[Any, ...]:
        from preimage.io.caffe.wire.binary import decode

        return decode, (self._type, self.SerializeToString())

    def __str__(self) -> str:
        from preimage.io.caffe.wire.text import format_text

        return format_text(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        mine, theirs = list(self.items()), list(other.items())
        return (self._type, self.unknown, self.extra, [f.name for f, _ in mine]) == (
            other._type,
            other.unknown,
            other.extra,
            [f.name for f, _ in theirs],
        ) and all(_same(a, b) for (_, a), (_, b) in zip(mine, theirs, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self._type} with {', '.join(self._values) or 'nothing set'}>"


class Repeated(list[Any]):
    """The values of a repeated field: a list that checks what is put into it; `add` makes a new message at its end."""

    __slots__ = ("field", "owner")

    def __init__(self, values: Iterable[Any], owner: Message, field: Field) -> None:
        super().__init__(values)
        self.owner, self.field = owner, field

    def add(self, **values: object) -> Message:
        """A new message at the end, filled from `values`."""
        if self.field.kind != "message":
            raise FileFormatError(f"{self.field.name} holds {self.field.kind} values: append them")
        self.append(Message(self.field.type, **values))
        return self[-1]  # type: ignore[no-any-return]

    def append(self, value: object) -> None:
        super().append(checked(self.field, value))
        self.owner._changed()

    def extend(self, values: Iterable[object]) -> None:
        super().extend([checked(self.field, value) for value in values])
        self.owner._changed()

    def insert(self, index: SupportsIndex, value: object) -> None:
        super().insert(index, checked(self.field, value))
        self.owner._changed()

    def MergeFrom(self, values: Iterable[object]) -> None:  # noqa: N802
        """Copies of the values at the end."""
        self.extend([value.copy() if isinstance(value, Message) else value for value in values])

    def __setitem__(self, index: Any, value: Any) -> None:
        checks = [checked(self.field, v) for v in value] if isinstance(index, slice) else checked(self.field, value)
        super().__setitem__(index, checks)

    def __iadd__(self, values: Iterable[object]) -> Repeated:  # type: ignore[misc]
        self.extend(values)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


def _unset(owner: Message, field: Field) -> Message:
    """What a message field reads as while it is not set."""
    found = Message(field.type)
    object.__setattr__(found, "_owner", (owner, field.name))
    return found


def _same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        left, right = np.asarray(a), np.asarray(b)
        return left.shape == right.shape and bool(np.array_equal(left, right, equal_nan=True))
    return a == b or (a != a and b != b)


def checked(field: Field, value: object) -> object:
    """The value as the field's type holds it, or FileFormatError."""
    kind = field.kind
    if kind == "message":
        if isinstance(value, Message) and value.type_name == field.type:
            return value
    elif kind in _RANGES or kind == "enum":
        if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
            low, high = _RANGES["int32" if kind == "enum" else kind]
            if not low <= value <= high:
                raise FileFormatError(f"{field.name}: {value} is outside {low} .. {high} ({kind})")
            return int(value)
        if kind == "enum" and isinstance(value, str) and value in ENUMS[field.type]:
            return ENUMS[field.type][value]
    elif kind in ("float", "double"):
        if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
            return float32(float(value)) if kind == "float" else float(value)
    elif kind == "bool":
        if isinstance(value, (bool, np.bool_)):
            return bool(value)
    elif kind == "bytes" and isinstance(value, bytes):
        return value
    elif kind == "string" and isinstance(value, str):
        try:
            value.encode("utf-8", "surrogateescape")
            return value
        except UnicodeEncodeError:
            pass
    raise FieldTypeError(f"{field.name}: {value!r} is no {field.type if kind in ('message', 'enum') else kind}")
