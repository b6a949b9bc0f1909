"""`record`: a frozen dataclass whose methods are written when they are first called, not when its module is imported.

    @record
    class Tile:
        rows: int
        columns: int = 8

Definition: exactly `@dataclass(frozen=True, slots=True)`, and a dataclass to everybody who asks (`fields`, `replace`, `is_dataclass`, match);
`@record(slots=False)` is `@dataclass(frozen=True)`, for classes that keep what they have worked out (`cached_property`).

A dataclass compiles six texts as its module is imported, about as much work as the rest of an import. An engine has two hundred such classes,
and a call makes objects of a few. Here one text is compiled, `__init__`; comparing, hashing and showing take the fields through an `attrgetter`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from operator import attrgetter
from reprlib import recursive_repr
from typing import Any, NoReturn, TypeVar, dataclass_transform, overload

__all__ = ["record"]

T = TypeVar("T")
#: What is written, unless the class has it.
_WRITTEN = ("__init__", "__repr__", "__eq__", "__hash__")
_ASKED = ("__dataclass_fields__", "__dataclass_params__", "__match_args__")
Field = dataclasses.Field[Any]


@overload
def record(cls: type[T]) -> type[T]: ...
@overload
def record(*, slots: bool) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def record(cls: type[T] | None = None, *, slots: bool = True) -> Any:
    """The class as a frozen dataclass, with slots unless they are not wanted."""
    return _record(cls, slots) if cls is not None else lambda cls: _record(cls, slots)


def _record(cls: type[T], slots: bool) -> type[T]:
    given = {name: value for name, value in cls.__dict__.items() if name not in ("__dict__", "__weakref__")}
    if given.get("__hash__", ...) is None:  # Python's mark of a class with an __eq__ of its own
        del given["__hash__"]
    own = [name for name, kind in given.get("__annotations__", {}).items() if "ClassVar" not in str(kind)]
    namespace = {name: value for name, value in given.items() if name not in own} | {"__qualname__": cls.__qualname__}
    pending = _Pending(given, own)
    if slots:
        inherited = {name for base in cls.__mro__[1:] for name in getattr(base, "__slots__", ())}
        namespace["__slots__"] = tuple([name for name in own if name not in inherited])
    namespace |= {"__setattr__": _set, "__delattr__": _delete, "__getstate__": _state, "__setstate__": _restored}
    namespace |= {name: _method(pending, name) for name in _WRITTEN if name not in given}
    namespace |= {name: _Asked(pending, name) for name in _ASKED}
    kind: Any = type(cls)
    made: type[T] = kind(cls.__name__, cls.__bases__, namespace)
    pending.made = made
    return made


class _Pending:
    """A record whose methods are not written yet. Two threads may both write one: they write the same."""

    made: type

    def __init__(self, given: dict[str, Any], own: list[str]) -> None:
        self.given, self.own = given, own

    def write(self, name: str) -> Any:
        """Write one of its methods, or what is asked of a dataclass's class; gives it."""
        if name in _ASKED:
            named = {**self.given, "__doc__": "."}  # or dataclass would work out a signature to say
            plain: Any = type(self.made)(self.made.__name__, self.made.__bases__, named)
            written = dataclasses.dataclass(frozen=True)(plain)
            for asked in _ASKED:
                setattr(self.made, asked, written.__dict__[asked])
        else:
            method = _WRITERS[name](self.made, list(self.fields().values()))
            method.__name__, method.__qualname__ = name, f"{self.made.__qualname__}.{name}"
            setattr(self.made, name, method)
        return self.made.__dict__[name]

    def fields(self) -> dict[str, Field]:
        """The fields by name, those of the bases first."""
        found: dict[str, Field] = {}
        for base in reversed(self.made.__mro__[1:]):
            asked = base.__dict__.get("__dataclass_fields__")
            if asked is not None:
                found |= asked.pending.fields() if isinstance(asked, _Asked) else {f.name: f for f in dataclasses.fields(base)}
        kinds = self.given["__annotations__"] if self.own else {}
        for name in self.own:
            value = self.given.get(name, dataclasses.MISSING)
            field: Field = value if isinstance(value, dataclasses.Field) else dataclasses.field(default=value)
            field.name, field.type = name, kinds[name]
            found[name] = field
        return found


def _write_init(made: type, fields: list[Field]) -> Any:
    """`__init__`. A default stands for itself, what makes one is called in the method."""
    missing, scope = dataclasses.MISSING, {"__name__": made.__module__, "_set": object.__setattr__, "_make": _MAKE}
    taken = [f for f in fields if f.init]
    values = {f.name: f.name if f.init else f"_default_{f.name}" for f in fields if f.init or f.default is not missing}
    for f in fields:
        scope[f"_default_{f.name}"] = f.default if f.default_factory is missing else _MAKE
        if f.default_factory is not missing:
            scope[f"_factory_{f.name}"] = f.default_factory
            made_here = f"_factory_{f.name}()"
            values[f.name] = f"{made_here} if {f.name} is _make else {f.name}" if f.init else made_here
    optional = [f for f in taken if scope[f"_default_{f.name}"] is not missing]
    words = [f.name if f not in optional else f"{f.name}=_default_{f.name}" for f in taken]
    lines = [f"_set(self, {name!r}, {value})" for name, value in values.items()]
    lines += ["self.__post_init__()"] if hasattr(made, "__post_init__") else []
    exec(f"def __init__({', '.join(['self', *words])}):\n  " + "\n  ".join(lines or ["pass"]), scope)
    init: Any = scope["__init__"]
    init.__annotations__ = {f.name: f.type for f in taken} | {"return": None}
    return init


def _write_repr(made: type, fields: list[Field]) -> Any:
    shown = [f.name for f in fields if f.repr]
    text, values = ", ".join(f"{name}=%r" for name in shown), _values(shown)

    def method(self: Any) -> str:
        return f"{type(self).__qualname__}({text % values(self)})"

    return recursive_repr("...")(method)


def _write_eq(made: type, fields: list[Field]) -> Any:
    values = _values([f.name for f in fields if f.compare])

    def method(self: Any, other: object) -> Any:
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    return method


def _write_hash(made: type, fields: list[Field]) -> Any:
    values = _values([f.name for f in fields if (f.compare if f.hash is None else f.hash)])
    return lambda self: hash(values(self))


def _values(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    """What gives the values of these fields as a tuple."""
    if len(names) > 1:
        return attrgetter(*names)
    return (lambda self: (getattr(self, names[0]),)) if names else lambda self: ()


class _Make:
    """In the place of a default that is made for every object, as dataclasses show it."""

    def __repr__(self) -> str:
        return "<factory>"


_MAKE = _Make()
_WRITERS: dict[str, Callable[[type, list[Field]], Any]] = dict(
    zip(_WRITTEN, (_write_init, _write_repr, _write_eq, _write_hash), strict=True)
)


def _method(pending: _Pending, name: str) -> Any:
    def method(self: Any, *args: Any, **values: Any) -> Any:
        return pending.write(name)(self, *args, **values)

    method.__name__ = name
    return method


class _Asked:
    """What is asked of a dataclass's class, before it is there."""

    def __init__(self, pending: _Pending, name: str) -> None:
        self.pending, self._name = pending, name

    def __get__(self, obj: Any, owner: type) -> Any:
        return self.pending.write(self._name)


def _set(self: Any, name: str, value: Any) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _delete(self: Any, name: str) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _state(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _restored(self: Any, state: list[Any]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)
