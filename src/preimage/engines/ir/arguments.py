"""The argument vector of a kernel, and the tables that it reads, each declared once.

    class Line(Record):                              # a row of a table: 64-bit integers
        source: Column
        result: Column

    class CopyArguments(Arguments):                  # the vector: 64-bit words, in this order
        input: Elements = elements("source")         # address of elements; `source` is the field of the spec that has their type
        lines: Records[Line]                         # address of a table
        total: Integer                               # a size, a stride, a count

The planner fills one in by name, and fills tables by column; the kernel reads the same names:

    CopyArguments(input="x", lines=Line(source=offsets, result=places), total=len(offsets))

    args = CopyArguments.read(f, spec)
    with f.loop(0, args.total) as k:
        line = args.lines[k.index]
        value = args.input.at_bytes(line.source).load()

A name that is not declared, or a value that is missing, is an error where the vector is made (and for a type checker). Reading a
field writes the load where it is read; `read(..., at_entry=True)` loads all words at the start of the kernel instead.
"""

from __future__ import annotations

import inspect
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import (
    Any,
    ClassVar,
    Generic,
    Self,
    TypeAlias,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

import numpy as np
import numpy.typing as npt

from preimage.engines.ir.builder import Int, Kernel, Ptr

__all__ = [
    "Arguments",
    "Code",
    "Column",
    "Elements",
    "Field",
    "Integer",
    "Record",
    "Records",
    "Rows",
    "Words",
    "column",
    "elements",
    "integer",
]

Array: TypeAlias = npt.NDArray[Any]
R = TypeVar("R", bound="Record")
S = TypeVar("S", bound="Record")


class Field:
    """One word of an argument vector, or one column of a table: its name, its place, and the value that it has unless one is given."""

    __slots__ = ("default", "name", "slot")

    def __init__(self, default: int | None = None) -> None:
        self.name, self.slot, self.default = "", -1, default

    def _frozen(self) -> AttributeError:
        return AttributeError(f"{self.name!r} is given when the vector is made, and does not change")


class Integer(Field):
    """A number: a size, a stride in bytes, a count."""

    @overload
    def __get__(self, obj: None, owner: type) -> Self: ...
    @overload
    def __get__(self, obj: Arguments, owner: type) -> Int: ...
    def __get__(self, obj: Arguments | None, owner: type) -> Any:
        return self if obj is None else obj.word(self)

    def __set__(self, obj: Arguments, value: int) -> None:
        raise self._frozen()


class Code(Field):
    """The address of another kernel."""

    @overload
    def __get__(self, obj: None, owner: type) -> Self: ...
    @overload
    def __get__(self, obj: Arguments, owner: type) -> Int: ...
    def __get__(self, obj: Arguments | None, owner: type) -> Any:
        return self if obj is None else obj.word(self)

    def __set__(self, obj: Arguments, value: Any) -> None:
        raise self._frozen()


class Elements(Field):
    """The address of elements, whose type the spec's field `element` names."""

    __slots__ = ("element",)

    def __init__(self, element: str, default: int | None = None) -> None:
        super().__init__(default)
        self.element = element

    @overload
    def __get__(self, obj: None, owner: type) -> Self: ...
    @overload
    def __get__(self, obj: Arguments, owner: type) -> Ptr: ...
    def __get__(self, obj: Arguments | None, owner: type) -> Any:
        return self if obj is None else obj.pointer(self, getattr(obj._spec, self.element))

    def __set__(self, obj: Arguments, value: str | int | Array) -> None:
        raise self._frozen()


class Words(Field):
    """The address of 64-bit integers."""

    @overload
    def __get__(self, obj: None, owner: type) -> Self: ...
    @overload
    def __get__(self, obj: Arguments, owner: type) -> Ptr: ...
    def __get__(self, obj: Arguments | None, owner: type) -> Any:
        return self if obj is None else obj.pointer(self, "i64")

    def __set__(self, obj: Arguments, value: str | int | Array) -> None:
        raise self._frozen()


class Records(Field, Generic[R]):
    """The address of a table, whose rows are records."""

    __slots__ = ("record",)
    record: type[R]

    @overload
    def __get__(self, obj: None, owner: type) -> Self: ...
    @overload
    def __get__(self, obj: Arguments, owner: type) -> Rows[R]: ...
    def __get__(self, obj: Arguments | None, owner: type) -> Any:
        return self if obj is None else Rows(self.record, obj.pointer(self, "i64"))

    def __set__(self, obj: Arguments, value: Array | R | int) -> None:
        raise self._frozen()


class Column(Field):
    """A column of a table. In the planner a number or an array; in the kernel the integer of one row."""

    @overload
    def __get__(self, obj: None, owner: type) -> Self: ...
    @overload
    def __get__(self, obj: Record, owner: type) -> Int: ...
    def __get__(self, obj: Record | None, owner: type) -> Any:
        return self if obj is None else obj._at.at(self.slot).load_int()

    def __set__(self, obj: Record, value: int | Array | Iterable[int]) -> None:
        raise self._frozen()


def elements(element: str, *, default: int | None = None) -> Any:
    """An `Elements` field; element: the field of the spec that has the type. With a default the address need not be given."""
    return Elements(element, default)


def integer(*, default: int) -> Any:
    """An `Integer` field that need not be given."""
    return Integer(default)


def column(*, default: int) -> Any:
    """A `Column` that need not be given."""
    return Column(default)


def _declared(cls: type, kinds: tuple[type, ...]) -> dict[str, Any]:
    """The fields of a class by name, those of its bases first; those that it declares itself are made and put in their places."""
    fields: dict[str, Any] = dict(getattr(cls, "fields", {}))
    for name, said in inspect.get_annotations(cls).items():
        kind, record = _kind(cls, name, said)
        if hasattr(cls, name) and not isinstance(getattr(cls, name), Field):
            raise TypeError(f"{cls.__name__}.{name} would hide what every {cls.__mro__[1].__name__} has")
        if kind not in kinds:
            raise TypeError(f"{cls.__name__}.{name} is no field; there are {', '.join(k.__name__ for k in kinds)}")
        field = cls.__dict__.get(name) or kind()
        if type(field) is not kind:
            raise TypeError(f"{cls.__name__}.{name} is declared as {kind.__name__} and given as {type(field).__name__}")
        if isinstance(field, Records):
            field.record = record
        field.name, field.slot = name, fields[name].slot if name in fields else len(fields)
        fields[name] = field
        setattr(cls, name, field)
    return fields


def _kind(cls: type, name: str, said: Any) -> tuple[Any, Any]:
    """The kind of field that an annotation names, and its record. (typing's own way takes most of the time of importing a kernel.)"""
    kind, _, rest = said.partition("[") if isinstance(said, str) else ("", "", "")
    scope = vars(sys.modules[cls.__module__])
    if kind in scope and (not rest or rest[:-1] in scope):
        return scope[kind], scope.get(rest[:-1])
    hint = get_type_hints(cls)[name]
    return get_origin(hint) or hint, next(iter(get_args(hint)), None)


def _holds(table: Array, record: type[Record]) -> bool:
    """Whether a table is of a record, or of one that was derived from it."""
    if table.dtype == record.dtype:
        return True
    names = table.dtype.names or ()
    return names[: len(record.fields)] == tuple(record.fields) and all(table.dtype[name] == np.int64 for name in names)


def _defaults(fields: Mapping[str, Field]) -> tuple[dict[str, Any], frozenset[str]]:
    """What a vector or a table has before any value is given, in the order of its fields; and what must be given."""
    blank = {name: field.default for name, field in fields.items()}
    return blank, frozenset(name for name, default in blank.items() if default is None)


def _given(cls: type[Arguments | Record], fields: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """The values with the defaults of those that are not given; an error names what is missing, and what is not declared."""
    found = cls._blank | values
    if len(found) == len(cls._blank) and cls._needed <= values.keys():
        return found
    unknown = [name for name in values if name not in fields]
    if unknown:
        raise TypeError(f"{cls.__name__} has no {', '.join(unknown)}; it has {', '.join(fields)}")
    missing = [name for name in fields if name in cls._needed and name not in values]
    raise TypeError(f"{cls.__name__} needs {', '.join(missing)}")


@dataclass_transform(kw_only_default=True, field_specifiers=(column,))
class Record:
    """A row of a table; its columns are 64-bit integers. Made with arrays (or numbers for all rows), it is a table, column by column."""

    fields: ClassVar[dict[str, Column]] = {}
    dtype: ClassVar[np.dtype[Any]]
    _blank: ClassVar[dict[str, Any]]
    _needed: ClassVar[frozenset[str]]

    def __init_subclass__(cls) -> None:
        cls.fields = _declared(cls, (Column,))
        cls._blank, cls._needed = _defaults(cls.fields)
        cls.dtype = np.dtype([(name, np.int64) for name in cls.fields])

    def __init__(self, **values: Any) -> None:
        self._values = _given(type(self), self.fields, values)

    def table(self) -> Array:
        """The columns as a structured array. They are broadcast; a table of several axes is stored row by row."""
        columns = list(self._values.values())
        several = [
            column if isinstance(column, np.ndarray) else np.asarray(column) for column in columns if type(column) is not int
        ]
        words = np.empty((*np.broadcast(*several).shape, len(columns)), np.int64)
        for k, column in enumerate(columns):
            words[..., k] = column
        return words.view(self.dtype).ravel()

    @classmethod
    def joined(cls, tables: Sequence[Array]) -> Array:
        """Tables one after another. (np.concatenate would work out a new type of rows for every two of them.)"""
        return tables[0] if len(tables) == 1 else np.concatenate([table.view(np.int64) for table in tables]).view(cls.dtype)

    @classmethod
    def zeros(cls, rows: int) -> Array:
        """A table of so many rows, to be filled by column: `table["name"] = ...`"""
        return np.zeros(rows, cls.dtype)

    @classmethod
    def of_rows(cls, rows: Array) -> Array:
        """A table of rows of plain integers, in the order of the columns."""
        return np.ascontiguousarray(rows, np.int64).reshape(-1, len(cls.fields)).view(cls.dtype).ravel()

    @classmethod
    def read(cls, address: Ptr) -> Self:
        """In a kernel: the record at an address."""
        record = object.__new__(cls)
        record._at = address
        return record

    _at: Ptr


class Rows(Generic[R]):
    """A table in a kernel: `rows[k]` is its k-th record, `rows.at(k)` the table that begins there."""

    __slots__ = ("_at", "_record")

    def __init__(self, record: type[R], address: Ptr) -> None:
        self._record, self._at = record, address

    def __getitem__(self, index: Int | int) -> R:
        return self._record.read(self._at.at(index * len(self._record.fields)))

    def at(self, index: Int | int) -> Rows[R]:
        return Rows(self._record, self[index]._at)

    def of(self, record: type[S]) -> Rows[S]:
        """The same memory as a table of other records."""
        return Rows(record, self._at)

    def followed_by(self, rows: Int, record: type[S]) -> Rows[S]:
        """The table behind so many rows of this one."""
        return Rows(record, self[rows]._at)


@dataclass_transform(kw_only_default=True, field_specifiers=(elements, integer))
class Arguments:
    """The argument vector of a kernel. Made with values by the planner, by `read` in the kernel."""

    fields: ClassVar[dict[str, Field]] = {}
    _pack: ClassVar[Callable[..., bytes]]
    _blank: ClassVar[dict[str, Any]]
    _needed: ClassVar[frozenset[str]]

    def __init_subclass__(cls) -> None:
        cls.fields = _declared(cls, (Integer, Code, Elements, Words, Records))
        cls._blank, cls._needed = _defaults(cls.fields)
        cls._pack = struct.Struct(f"{len(cls.fields)}q").pack

    def __init__(self, **values: Any) -> None:
        self._values = values if list(values) == list(self.fields) else _given(type(self), self.fields, values)

    def packed(self) -> bytes:
        """The vector as a kernel takes it, where every value is a number."""
        return self._pack(*self._values.values())

    def listed(self) -> list[Any]:
        """The vector with its arrays in place of their addresses."""
        return list(self._values.values())

    def given(self) -> Iterator[tuple[Field, Any]]:
        """Fields and values. A table is a structured array, whose columns are those of its record."""
        for field, value in zip(self.fields.values(), self._values.values(), strict=True):
            if type(value) is not int:  # most are
                if isinstance(value, Record):
                    value = value.table()
                if isinstance(field, Records) and isinstance(value, np.ndarray) and not _holds(value, field.record):
                    name, record = field.name, field.record.__name__
                    raise TypeError(f"{type(self).__name__}.{name} is a table of {record}, not of {value.dtype}")
            yield field, value

    # ---- in the kernel

    @classmethod
    def read(cls, f: Kernel, spec: object, at_entry: bool = False) -> Self:
        """The vector in the kernel of a spec. at_entry: all words are loaded here, in order; else each where it is read."""
        made = object.__new__(cls)
        made._kernel, made._spec = f, spec
        made._loaded = {field.slot: f.int_arg(field.slot) for field in cls.fields.values()} if at_entry else None
        return made

    _kernel: Kernel
    _spec: object
    _loaded: dict[int, Int] | None

    @property
    def here(self) -> Self:
        """The same vector, whose words are loaded where they are read."""
        return self.read(self._kernel, self._spec)

    def word(self, field: Field) -> Int:
        """A word as an integer, be it a number or an address."""
        return self._kernel.int_arg(field.slot) if self._loaded is None else self._loaded[field.slot]

    def pointer(self, field: Field, element: str) -> Ptr:
        """A word as the address of elements."""
        return self._kernel.ptr_arg(field.slot, element)
