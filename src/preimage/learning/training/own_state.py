"""All that the caller's own functions could read: attributes, globals, closures and defaults, to be looked at again.

Numbers and texts count by value, lists, dicts and plain objects by what they hold, the rest by identity. The walk begins at the net's modules of the
caller's own classes, and goes into the functions that are known to run (`own_code.py`): what they name. What it cannot look into (arrays,
generators of random numbers, files, classes written in C) is refused.
"""

from __future__ import annotations

import builtins
import collections
import enum
import functools
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from preimage.autograd import Primitive, Tensor
from preimage.nn import Module

__all__ = ["LIBRARY", "State", "is_own", "is_standard"]

#: A walk that meets more than so many values is no guard that pays.
MOST_VALUES = 3000
LIBRARY = __name__.partition(".")[0]
_PLAIN = frozenset((bool, int, float, complex, str, bytes, type(None), type(...), slice, range))
_SAFE_NAMES = (
    "list tuple dict set frozenset enumerate zip map filter reversed type object super property staticmethod classmethod"
)
_SAFE_TYPES = _PLAIN | {getattr(builtins, name) for name in _SAFE_NAMES.split()} | {types.SimpleNamespace, functools.partial}
#: What a named tuple's class has for each of its fields.
_FIELD = type(collections.namedtuple("_Pair", "a").a)  # type: ignore[attr-defined]
#: Py_TPFLAGS_HEAPTYPE: of classes that are no part of a program's code.
_MADE_BY_PYTHON = 1 << 9
_STANDARD = Path(sysconfig.get_paths()["stdlib"])
_NUMPY = Path(np.__file__).parent


def is_own(module: Module) -> bool:
    """Whether a module is of a class that is not the library's."""
    return not type(module).__module__.startswith(f"{LIBRARY}.nn.")


@lru_cache(maxsize=4096)
def is_standard(file: str) -> bool:
    """Whether a file is one of Python's own library, or of a package that this one is built on."""
    if file.startswith("<frozen"):
        return True
    path = Path(file)
    if path.is_relative_to(_NUMPY):
        return True
    parts = set(path.parts)
    if {"site-packages", "dist-packages"} & parts:
        return bool({"llvmlite", "ml_dtypes"} & parts)
    return path.is_relative_to(_STANDARD)


class State:
    """All that own code could read when it was made, to be looked at again. why: what cannot be looked at."""

    def __init__(self, net: Module, ran: Iterable[types.CodeType]) -> None:
        self._net, self._ran = net, frozenset(ran)
        self._names = frozenset(name for code in self._ran for name in code.co_names)
        walk = self._walk()
        self._values, self.why = walk.values, walk.why
        if self.why is None and (missing := self._ran - walk.found):
            self.why = f"{next(iter(missing)).co_qualname} is a function that is not found from the net"

    def is_unchanged(self) -> bool:
        """Whether all of it is as it was."""
        values = self._walk().values
        return len(values) == len(self._values) and all(map(_alike, values, self._values))

    def _walk(self) -> _Walk:
        walk = _Walk(self._ran, self._names)
        for module in self._net.modules():
            if is_own(module):
                walk.see(module)
        return walk


def _alike(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and type(a) in _PLAIN and a == b and (a != 0 or repr(a) == repr(b)))


class _Walk:
    """The values that are reached, in the order of a walk that is the same every time."""

    def __init__(self, ran: frozenset[types.CodeType], names: frozenset[str]) -> None:
        self.values: list[Any] = []
        self.found: set[types.CodeType] = set()
        self.why: str | None = None
        self._ran, self._names = ran, names
        self._seen: set[int] = set()

    def see(self, value: Any) -> None:
        """A value, and what it holds."""
        self.values.append(value)
        if type(value) in _PLAIN or id(value) in self._seen or self.why is not None:
            return
        self._seen.add(id(value))
        if len(self.values) > MOST_VALUES:
            self.why = f"its code could read more than {MOST_VALUES} values"
        else:
            self._look_into(value)

    def _all(self, values: Iterable[Any]) -> None:
        for value in values:
            self.see(value)

    def _look_into(self, value: Any) -> None:
        if isinstance(value, type):
            self._type(value)
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.ModuleType):
            self._module(value)
        elif isinstance(value, dict):
            self._all(part for pair in value.items() for part in pair)
            self._object(value, dict)
        elif isinstance(value, list | tuple):
            self._all(value)
            self._object(value, list, tuple)
        elif isinstance(value, property):
            self._all((value.fget, value.fset))
        elif isinstance(value, staticmethod | classmethod | types.MethodType):
            self._all((value.__func__, getattr(value, "__self__", None)))
        elif isinstance(value, functools.partial):
            self._all((value.func, value.args, value.keywords))
        elif isinstance(value, types.CellType):
            self._cell(value)
        elif not _is_itself(value):
            self._object(value)

    def _module(self, module: types.ModuleType) -> None:
        """The attributes that some function names; of the library's own only that they are the same."""
        named = [held for name, held in sorted(vars(module).items()) if name in self._names]
        if module.__name__.partition(".")[0] == LIBRARY:
            self.values += named
            named = [held for held in named if isinstance(held, types.ModuleType)]
        self._all(named)

    def _object(self, value: Any, *plain: type) -> None:
        """What an instance holds in its attributes; plain: classes whose instances hold none."""
        kind = type(value)
        if kind in plain:
            return
        self.see(kind)
        if _is_foreign(kind) and kind is not types.SimpleNamespace and not plain:
            self.why = f"its code could read a value of {kind.__module__}.{kind.__qualname__}"
            return
        for slot in (slot for each in kind.__mro__ for slot in _slots(each)):
            self.see(getattr(value, slot, None))
        held = getattr(value, "__dict__", {})
        self._all(held[name] for name in held if name not in ("_buffers", "_parameters") or not isinstance(value, Module))

    def _type(self, kind: type) -> None:
        if kind in _SAFE_TYPES or issubclass(kind, BaseException | np.generic) or kind.__module__.partition(".")[0] == LIBRARY:
            return
        if _is_foreign(kind):
            self.why = self.why or f"its code could read the class {kind.__module__}.{kind.__qualname__}"
            return
        self._all(kind.__mro__[1:])
        for name, held in list(vars(kind).items()):
            if not name.startswith("__") or isinstance(held, types.FunctionType | staticmethod | classmethod | property):
                self.see(held)

    def _function(self, function: types.FunctionType) -> None:
        code = function.__code__
        self.values.append(code)
        if code not in self._ran:
            return
        self._all((function.__defaults__, function.__kwdefaults__, *(function.__closure__ or ())))
        space = function.__globals__
        for each in _nested(code):
            self.found.add(each)
            for name in each.co_names:
                if name in space:
                    self.see(space[name])
                else:
                    self.values.append(getattr(builtins, name, None))

    def _cell(self, cell: types.CellType) -> None:
        try:
            held = cell.cell_contents
        except ValueError:  # not filled yet
            held = None
        self.see(held)


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    """A function's code, and that of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _is_foreign(kind: type) -> bool:
    """Whether a class is written in C, or Python's or NumPy's own: what its instances hold is not known."""
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    if kind.__module__.partition(".")[0] == LIBRARY:
        return True
    return not kind.__flags__ & _MADE_BY_PYTHON or (file is not None and (not file.endswith(".py") or is_standard(file)))


def _is_itself(value: Any) -> bool:
    """Whether a value is known by its identity: nothing that it holds is read, or a pass looks at it anyhow."""
    if isinstance(value, Tensor | Primitive | types.CodeType | np.dtype | np.ufunc | enum.Enum | _FIELD):
        return True
    if isinstance(value, Module):
        return not is_own(value)
    if isinstance(value, types.BuiltinFunctionType):
        return getattr(value, "__self__", None) is None or isinstance(value.__self__, types.ModuleType)
    return isinstance(
        value,
        types.WrapperDescriptorType | types.MethodDescriptorType | types.GetSetDescriptorType | types.MemberDescriptorType
        | types.ClassMethodDescriptorType | types.MethodWrapperType,
    )  # fmt: skip
