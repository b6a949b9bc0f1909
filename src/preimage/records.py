"""`record`: a frozen dataclass with slots whose methods are written when its first object is made, not when its module is imported.

    @record
    class Tile:
        rows: int
        columns: int = 8

Definition: exactly `@dataclass(frozen=True, slots=True)`, and a dataclass to everybody who asks (`fields`, `replace`, `is_dataclass`, match).
Writing `__init__`, `__repr__`, `__eq__` and so on as text and compiling it takes about as long as the rest of an import. An engine has a hundred
such classes, and a call makes objects of a few.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NoReturn, TypeVar, dataclass_transform

__all__ = ["record"]

T = TypeVar("T")
#: What the dataclass machinery writes, except what is the same for every record.
_WRITTEN = ("__init__", "__repr__", "__eq__", "__hash__")
_ASKED = ("__dataclass_fields__", "__dataclass_params__", "__match_args__")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def record(cls: type[T]) -> type[T]:
    """The class as a frozen dataclass with slots."""
    given = {name: value for name, value in cls.__dict__.items() if name not in ("__dict__", "__weakref__")}
    if given.get("__hash__", ...) is None:  # Python's mark of a class with an __eq__ of its own
        del given["__hash__"]
    own = [name for name, kind in given.get("__annotations__", {}).items() if "ClassVar" not in str(kind)]
    inherited = {name for base in cls.__mro__[1:] for name in getattr(base, "__slots__", ())}
    namespace = {name: value for name, value in given.items() if name not in own}
    pending = _Pending(given)
    namespace |= {
        "__slots__": tuple([name for name in own if name not in inherited]),
        "__setattr__": _set, "__delattr__": _delete, "__getstate__": _state, "__setstate__": _restored,
    }  # fmt: skip
    namespace |= {name: _method(pending, name) for name in _WRITTEN if name not in given}
    namespace |= {name: _Asked(pending, name) for name in _ASKED}
    kind: Any = type(cls)
    made: type[T] = kind(cls.__name__, cls.__bases__, namespace)
    pending.made = made
    return made


class _Pending:
    """A record whose methods are not written yet."""

    made: type

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given

    def write(self, first: str) -> type:
        """The record with its methods; with `__init__` alone where that comes first. Two threads may both write them: they write the same."""
        rest = first != "__init__"
        named = {**self.given, "__doc__": "."}  # or dataclass would work out a signature to say
        plain: Any = type(self.made)(self.made.__name__, self.made.__bases__, named)
        written = dataclasses.dataclass(frozen=True, repr=rest, eq=rest)(plain)
        for name in _WRITTEN if rest else _WRITTEN[:1]:
            if name not in self.given and name in self.made.__dict__:
                setattr(self.made, name, written.__dict__[name])
        for name in _ASKED if rest else _ASKED[::2]:  # the parameters say what was written
            setattr(self.made, name, written.__dict__[name])
        return self.made


def _method(pending: _Pending, name: str) -> Any:
    def method(self: Any, *args: Any, **values: Any) -> Any:
        return getattr(pending.write(name), name)(self, *args, **values)

    method.__name__ = name
    return method


class _Asked:
    """What is asked of a dataclass's class, before it is there."""

    def __init__(self, pending: _Pending, name: str) -> None:
        self._pending, self._name = pending, name

    def __get__(self, obj: Any, owner: type) -> Any:
        return self._pending.write(self._name).__dict__[self._name]


def _set(self: Any, name: str, value: Any) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _delete(self: Any, name: str) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _state(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _restored(self: Any, state: list[Any]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)
