"""How arrays lie in memory, for kernels that read them densely, and what their launches share."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from preimage.engines.base import Array, aligned_empty
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.compiler.costs import ElementwiseCosts

__all__ = ["ELEMENTS", "Shape", "costs", "dense_order", "lanes_of", "placed_empty"]

ELEMENTS = {np.dtype(np.float32): "f32", np.dtype(np.float64): "f64"}

Shape = tuple[int, ...]


def costs() -> ElementwiseCosts:
    """Those of the current target."""
    return kernels.current_target().costs.elementwise


def lanes_of(dtype: np.dtype[Any]) -> int:
    """Elements of a vector register."""
    return kernels.current_target().vector_bytes // dtype.itemsize


@lru_cache(maxsize=4096)
def dense_order(shape: Shape, strides: Shape, item: int) -> tuple[int, ...] | None:
    """The axes from the outermost in memory to the innermost, if the array fills its memory without gaps; axes of one element
    keep their places among the others as far as that goes."""
    if all(a >= 0 for a, n in zip(strides, shape, strict=True) if n != 1):
        axes = sorted((k for k in range(len(shape)) if shape[k] != 1), key=lambda k: -strides[k])
        step = item
        for k in reversed(axes):
            if strides[k] != step:
                return None
            step *= shape[k]
        order = list(axes)
        for k in range(len(shape)):
            if shape[k] == 1:
                order.insert(order.index(k - 1) + 1 if k else 0, k)
        return tuple(order)
    return None


def placed_empty(memory: Shape, back: tuple[int, ...] | None, dtype: np.dtype[Any]) -> Array:
    """A new array whose axes lie in memory as `memory` says; `back` puts them into their logical order."""
    made = aligned_empty(memory, dtype)
    return made if back is None else made.transpose(back)
