"""Tensors as a file of torch describes them: which storage, where in it, which shape and strides; and the arrays that they become.

`known` and `construct` are all that such a file can name. Nothing is read before the whole description is there and its sizes were compared with the
memory allowed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.host import printable
from preimage.io import limits
from preimage.io.narrow import bfloat16
from preimage.io.torch.opcodes import Name
from preimage.records import record

__all__ = ["STORAGES", "WITHOUT_STORAGE", "Storage", "View", "arrays_of", "construct", "known", "storage_of"]

#: torch's names of typed storages, by NumPy's names of their elements.
STORAGES = {
    "float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage", "int64": "LongStorage",
    "int32": "IntStorage", "int16": "ShortStorage", "int8": "CharStorage", "uint8": "ByteStorage", "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage", "complex128": "ComplexDoubleStorage",
}  # fmt: skip
#: Types that have none: their bytes lie in an untyped storage, and the tensor names the type.
WITHOUT_STORAGE = ("uint16", "uint32", "uint64")
_ELEMENTS = {storage: element for element, storage in STORAGES.items()} | {"UntypedStorage": "uint8"}
_DTYPES = frozenset((*STORAGES, *WITHOUT_STORAGE))
_FUNCTIONS = {
    Name("torch._utils", "_rebuild_tensor"): (4, 4),
    Name("torch._utils", "_rebuild_tensor_v2"): (6, 7),
    Name("torch._utils", "_rebuild_tensor_v3"): (7, 8),
    Name("torch._utils", "_rebuild_parameter"): (3, 3),
    Name("torch", "Size"): (1, 1),
    Name("torch", "device"): (1, 2),
    Name("collections", "OrderedDict"): (0, 1),
}
_MODULES = ("torch", "torch.cuda", "torch.storage")
#: As deep as values may lie in one another, and the axes that NumPy 1.26 allows.
_DEEPEST, _MOST_AXES = 100, 32


@record
class Storage:
    """A row of elements in the file, under a key."""

    key: str
    dtype: str
    count: int

    @property
    def size_bytes(self) -> int:
        """What the file holds of it."""
        return self.count * _width(self.dtype)


@record
class View:
    """A tensor: elements of a storage from `offset` on, strides in elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)


def _element(name: str) -> np.dtype[Any]:
    """NumPy's type of a name. Raises: FileFormatError for bfloat16 without its package."""
    return np.dtype(bfloat16() if name == "bfloat16" else name)


def _width(name: str) -> int:
    return 2 if name == "bfloat16" else np.dtype(name).itemsize


# -- what a file may name ------------------------------------------------------------------------------------------------


def known(name: Name) -> bool:
    """Whether it is a function, storage or type of this page."""
    return (
        name in _FUNCTIONS
        or (name.module in _MODULES and name.name in _ELEMENTS)
        or (name.module == "torch" and name.name in _DTYPES)
    )


def storage_of(found: Any) -> Storage:
    """The storage of a persistent id: ("storage", type, key, device, count), in old files with a view of it."""
    if not isinstance(found, tuple) or not found or not isinstance(found[0], str):
        raise FileFormatError("its pickle is damaged: what lies outside it has no name")
    if found[0] != "storage":
        raise FileFormatError(
            f"it holds a {printable(found[0], most=40)}, not tensors alone: in torch, torch.save(model.state_dict(), path)"
        )
    match found[1:]:
        case (Name(name=kind), str(key), str(), int(count), *view) if kind in _ELEMENTS and count >= 0 and view in ([], [None]):
            return Storage(key, _ELEMENTS[kind], count)
        case (_, _, _, _, view) if view is not None:
            raise FileFormatError("it holds views of storages, as torch saved them before 0.4; save it again with a newer torch")
    raise FileFormatError("its pickle is damaged: a storage is described as none is")


def construct(name: Name, arguments: tuple[Any, ...]) -> Any:
    """What a call of a name makes of its arguments. Raises: FileFormatError for arguments that do not fit."""
    least, most = _FUNCTIONS.get(name, (0, -1))
    if not least <= len(arguments) <= most:
        raise FileFormatError(f"its pickle is damaged: {name} is called with {len(arguments)} arguments")
    if name.name == "OrderedDict":
        return _ordered(arguments)
    if name.name == "_rebuild_parameter":
        return _is(arguments[0], View, name)
    if name.name == "device":
        return ":".join(str(a) for a in arguments if type(a) in (str, int))
    if name.name == "Size":
        return _sizes(arguments[0], name)
    if any(isinstance(a, dict) and a for a in arguments[6:]):  # conjugated or negated lazily
        raise FileFormatError(
            "it holds a tensor that is conjugated or negated when it is read; save it with .resolve_conj().resolve_neg()"
        )
    return _view(name, arguments)


def _ordered(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """Empty, or of pairs, as Python 2 wrote it."""
    pairs = arguments[0] if arguments else []
    if not isinstance(pairs, list | tuple) or not all(
        isinstance(p, list | tuple) and len(p) == 2 and type(p[0]) in (str, int) for p in pairs
    ):
        raise FileFormatError("its pickle is damaged: an OrderedDict is made of what are no pairs")
    return dict(pairs)


def _is(value: Any, kind: type, name: Name) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise FileFormatError(f"its pickle is damaged: {name} is given a {type(value).__name__}")
    return value


def _sizes(values: Any, name: Name) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or len(values) > _MOST_AXES or any(type(v) is not int or v < 0 for v in values):
        raise FileFormatError(f"{name} is given sizes or strides that are not up to {_MOST_AXES} integers from 0 on")
    return tuple(values)


def _view(name: Name, arguments: tuple[Any, ...]) -> View:
    storage: Storage = _is(arguments[0], Storage, name)
    offset: int = _is(arguments[1], int, name)
    shape, strides = _sizes(arguments[2], name), _sizes(arguments[3], name)
    dtype, count = storage.dtype, storage.count
    if name.name == "_rebuild_tensor_v3":
        dtype = _is(arguments[6], Name, name).name
        if dtype not in _DTYPES:
            raise FileFormatError(f"its pickle is damaged: {printable(dtype, most=40)} is no type of elements")
        count = count * _width(storage.dtype) // _width(dtype)
    if prod([n for n in shape if n]) >= 2**62:
        raise FileFormatError(f"a tensor of shape {shape} is larger than any memory")
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=len(shape) == len(strides)))
    if len(shape) != len(strides) or offset < 0 or (0 not in shape and last >= count):
        raise FileFormatError(
            f"a tensor of shape {shape}, strides {strides}, from element {offset} on, does not lie in its storage of {count} elements"
        )
    return View(storage, dtype, offset, shape, strides)


# -- arrays --------------------------------------------------------------------------------------------------------------


def arrays_of(value: Any, read: Callable[[Storage], NDArray[np.uint8]], *, big_endian: bool, most: int) -> Any:
    """The value with an array in the place of every tensor; types and devices are words.

    read: the bytes of a storage. Each is read once, when its first tensor is made, and let go after its last. most: values that may be there, which
    holds up lists that name one another again and again.

    Raises: FileFormatError for other values, for what is too deep or too much, and where the arrays would take more than the memory allowed.
    """
    views: dict[int, View] = {}
    left = most

    def look(value: Any, depth: int) -> None:
        nonlocal left
        left -= 1
        if left < 0 or depth > _DEEPEST:
            raise FileFormatError(f"its values lie deeper than {_DEEPEST} levels, hold themselves, or are more than {most}")
        if isinstance(value, View):
            views[id(value)] = value
        elif type(value) in (dict, list, tuple):
            for v in value.values() if type(value) is dict else value:
                look(v, depth + 1)
        elif type(value) not in (str, int, float, bool, type(None)) and not (isinstance(value, Name) and value.name in _DTYPES):
            raise FileFormatError(
                f"it holds a {value if isinstance(value, Name) else type(value).__name__}, which is no tensor, number or word"
            )

    look(value, 0)
    limits.check_bytes(sum(v.size * _width(v.dtype) for v in views.values()), "its tensors")
    uses = Counter(v.storage.key for v in views.values())
    stored: dict[str, NDArray[np.uint8]] = {}
    made: dict[int, NDArray[Any]] = {}
    for place, view in views.items():
        key = view.storage.key
        if key not in stored:
            stored[key] = read(view.storage)
        whole = uses[key] == 1
        made[place] = _array(view, stored[key], big_endian=big_endian, whole=whole)
        uses[key] -= 1
        if not uses[key]:
            del stored[key]

    def get(value: Any) -> Any:
        if isinstance(value, View):
            return made[id(value)]
        if type(value) is dict:
            return {k: get(v) for k, v in value.items()}
        if type(value) in (list, tuple):
            return type(value)(get(v) for v in value)
        return str(value) if isinstance(value, Name) else value

    return get(value)


def _array(view: View, data: NDArray[np.uint8], *, big_endian: bool, whole: bool) -> NDArray[Any]:
    dtype = _element(view.dtype)
    elements: NDArray[Any] = data[: data.size // dtype.itemsize * dtype.itemsize].view(dtype)
    if dtype == np.bool_:
        elements = data != 0  # any other byte would be neither
    if big_endian:
        elements = elements.byteswap()
    if not view.size:
        return np.zeros(view.shape, dtype)
    if whole and view.size == elements.size and _in_order(view):
        return elements.reshape(view.shape)
    strides = tuple(
        s * dtype.itemsize if n > 1 else 0 for n, s in zip(view.shape, view.strides, strict=True)
    )  # of one: any number
    return np.array(np.lib.stride_tricks.as_strided(elements[view.offset :], view.shape, strides, writeable=False), order="C")


def _in_order(view: View) -> bool:
    """Whether its elements follow one another, in row-major order."""
    steps = [(n, s) for n, s in zip(view.shape, view.strides, strict=True) if n != 1]
    return not steps or (steps[-1][1] == 1 and all(s == after_n * after_s for (_, s), (after_n, after_s) in pairwise(steps)))
