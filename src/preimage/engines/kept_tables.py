"""Tables that are worked out once and kept, by their bytes: many sizes, or one large one, do not add up to memory that counts."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

from preimage.resources import register_keeper

__all__ = ["TABLE_BYTES", "kept_tables"]

#: What each function's tables may take together.
TABLE_BYTES = 16 << 20
#: What an entry takes beside its arrays, about.
ENTRY_BYTES = 256
P = ParamSpec("P")
R = TypeVar("R")


def _size(value: Any) -> int:
    """The bytes of arrays, also inside tuples and lists."""
    if isinstance(value, np.ndarray):
        return value.nbytes + ENTRY_BYTES
    return ENTRY_BYTES + (sum(map(_size, value)) if isinstance(value, tuple | list) else 0)


class _Kept:
    """Values by key, the oldest first. Every step is one operation of a dict: calls may meet in the middle of each other."""

    def __init__(self, most: int, size: Callable[[Any], int]) -> None:
        self.most, self.size = most, size
        self.values: dict[Any, tuple[Any, int]] = {}
        register_keeper(self)

    def add(self, key: Any, value: Any) -> None:
        size = self.size(value)
        if size > self.most:
            return
        self.values[key] = value, size
        held = sum([n for _, n in tuple(self.values.values())])
        for old, (_, n) in tuple(self.values.items()):
            if held <= self.most:
                break
            self.values.pop(old, None)
            held -= n

    def clear(self) -> int:
        held = sum([n for _, n in tuple(self.values.values())])
        self.values.clear()
        return held


def kept_tables(make: Callable[P, R], most: int = TABLE_BYTES, size: Callable[[Any], int] = _size) -> Callable[P, R]:
    """`make` with its results kept for the same arguments, the latest ones, up to `most` bytes together; a larger one is not kept.

    size: the bytes of a result, where they are not those of its arrays.
    """
    kept = _Kept(most, size)

    @wraps(make)
    def call(*args: P.args, **options: P.kwargs) -> R:
        key = (args, tuple(options.items())) if options else args
        found = kept.values.get(key)
        if found is None:
            found = make(*args, **options), 0
            kept.add(key, found[0])
        result: R = found[0]
        return result

    call.kept = kept  # type: ignore[attr-defined]
    return call
