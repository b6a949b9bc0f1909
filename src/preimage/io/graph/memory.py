"""The memory of the runs of a program, and arrays seen in it."""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage.engines.addresses import address_of
from preimage.engines.run_memory import Runs

__all__ = ["Runs", "dense", "raw_bytes"]


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
