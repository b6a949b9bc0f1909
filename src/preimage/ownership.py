"""Whether anybody else can see the memory of an array, so that new values may be written where the old ones lie.

An array is nobody else's where the only references to it are those that its keeper counts, and where what it is a view of belongs to it alone, down
to memory that NumPy took for it, or to a `Block` (whose views do not overlap). Views, other arrays on the same memory, buffers, DLPack's
capsules, records of a backward pass: each of them holds a reference, and so is seen. Memory that came from outside (a mapped file, another
library's tensor) is never written to. Where references cannot be counted, everything is taken for somebody else's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["Block", "is_only_kept", "is_sole", "plus"]

Array = np.ndarray[Any, Any]
#: Sums of smaller arrays are made anew: to look costs more than memory that the cache holds.
LEAST_BYTES = 1 << 16
_count: Callable[[object], int] | None = getattr(sys, "getrefcount", None)
if not getattr(sys, "_is_gil_enabled", lambda: True)():  # other threads count for themselves
    _count = None


class Block:
    """Memory that arrays are views of, none of which overlaps another."""


def _probe() -> int:
    """What counts an element of a list to which nothing else refers: 2, unless an interpreter passes arguments otherwise."""
    held = [np.empty(1)]
    return 0 if _count is None else _count(held[0])


_ALONE = _probe()


def is_only_kept(objects: list[Any], k: int, references: int) -> bool:
    """Whether nothing refers to objects[k] but this list and so many others."""
    return _count is not None and _count(objects[k]) <= _ALONE + references


def is_sole(arrays: list[Any], k: int, references: int) -> bool:
    """Whether the memory of arrays[k], of NumPy's own class, can be written to without anybody noticing, once it has gone from this list.

    references: to it beside the list's, all of them the caller's.
    """
    if _count is None or _count(arrays[k]) > _ALONE + references or not arrays[k].flags.writeable:
        return False
    if arrays[k].flags.owndata:
        return True
    links = [arrays[k].base]
    while type(links[0]) is np.ndarray and _count(links[0]) <= _ALONE + 1:  # that of the array whose base it is
        if links[0].flags.owndata:
            return True
        links[0] = links[0].base
    return isinstance(links[0], Block)


def plus(held: list[Array], references: int, other: Array) -> Array:
    """held[0] + other, in the memory of held[0] where that is nobody else's (`is_sole`).

    Example:
        >>> import numpy as np
        >>> from preimage.ownership import plus
        >>> a, b = np.zeros(100_000), np.ones(100_000)
        >>> plus([a], 0, b) is a  # which has a name
        False
        >>> made = [np.zeros(100_000)]
        >>> place = made[0].ctypes.data
        >>> plus(made, 0, b).ctypes.data == place
        True
    """
    if (
        type(held[0]) is type(other) is np.ndarray
        and held[0].nbytes >= LEAST_BYTES
        and (held[0].shape, held[0].strides, held[0].dtype) == (other.shape, other.strides, other.dtype)
        and is_sole(held, 0, references)
    ):
        return np.add(held[0], other, out=held[0])
    total: Array = held[0] + other
    return total
