"""The memory of the runs of a program, and arrays seen in it."""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage.engines.addresses import address_of
from preimage.engines.buffers import LINE_BYTES, retrying
from preimage.resources import register_keeper

__all__ = ["Runs", "dense", "raw_bytes"]


class _RunMemory:
    """What one run writes to."""

    __slots__ = ("address", "raw")

    def __init__(self, size: int) -> None:
        whole = retrying(lambda: np.empty(size + LINE_BYTES, np.uint8))
        start = -address_of(whole) % LINE_BYTES
        self.raw = whole[start : start + size]
        self.address = address_of(self.raw)


class Runs:
    """Memories that no run uses just now. A run takes one out, so nobody else meets it; one that fails gives nothing back."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.free: list[_RunMemory] = []
        register_keeper(self)

    @property
    def bytes(self) -> int:
        """What is held between runs."""
        return self.size * len(self.free)

    def take(self) -> _RunMemory:
        """Memory of a run of its own."""
        try:
            return self.free.pop()  # one step: no two runs get the same
        except IndexError:
            return _RunMemory(self.size)

    def clear(self) -> int:
        """Let go of them; returns how many bytes."""
        free, self.free = self.free, []
        return self.size * len(free)


class _Bytes:
    __slots__ = ("__array_interface__", "_held")

    def __init__(self, array: Any, size: int) -> None:
        self._held = array
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address_of(array), False), "version": 3}


def raw_bytes(array: Any) -> Any:
    """The bytes from the first element of an array without negative strides to its last."""
    extent = sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)) + array.itemsize if array.size else 0
    return np.asarray(_Bytes(array, extent))


def dense(array: Any) -> Any:
    """The array, or a copy in C order where its elements do not fill their memory, or lie in it backwards."""
    if array.flags.c_contiguous:
        return array
    order = sorted(range(array.ndim), key=lambda k: -array.strides[k])
    return array if array.transpose(order).flags.c_contiguous else np.ascontiguousarray(array)
