"""Tables that are worked out once and kept, by their bytes: many sizes, or one large one, do not add up to memory that counts."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from preimage.locks import LOCK
from preimage.resources import register_keeper

__all__ = ["TABLE_BYTES", "kept_tables"]

#: What each function's tables may take together.
TABLE_BYTES = 16 << 20
#: What an entry takes beside its arrays, about.
ENTRY_BYTES = 256
P = ParamSpec("P")
R = TypeVar("R")


def _size(value: Any) -> int:
    """The bytes of arrays and of what else has `nbytes`, also inside tuples and lists."""
    if hasattr(value, "nbytes"):
        return int(value.nbytes) + ENTRY_BYTES
    return ENTRY_BYTES + (sum(map(_size, value)) if isinstance(value, tuple | list) else 0)


class _Kept:
    """Values by key, the oldest first. Looking one up takes no lock; calls of other threads, of a signal handler or a finaliser may come
    between any two steps, so keys and values are walked as they were at one moment: in a list, which is made in one step. (A tuple of
    them, or a list of items, allocates while it walks; there the collector may run a finaliser that adds an entry.)
    """

    def __init__(self, most: int, size: Callable[[Any], int]) -> None:
        self.most, self.size = most, size
        self.values: dict[Any, tuple[Any, int]] = {}
        self._at_most = 0  # bytes held, or more
        register_keeper(self)

    def add(self, key: Any, value: Any) -> None:
        size = self.size(value)
        if size > self.most:
            return
        with LOCK:
            self.values[key] = value, size
            self._at_most += size
            if self._at_most > self.most:
                self._shrink()

    def _shrink(self) -> None:
        """Let the oldest go until there is room again: an eighth at once, so that the entries are seldom added up."""
        held = self._held()
        if held > self.most:
            for old in list(self.values):
                if held <= self.most - self.most // 8:
                    break
                _, size = self.values.pop(old, (None, 0))
                held -= size
        self._at_most = held

    def _held(self) -> int:
        return sum([n for _, n in list(self.values.values())])

    def clear(self) -> int:
        with LOCK:
            held, self._at_most = self._held(), 0
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
