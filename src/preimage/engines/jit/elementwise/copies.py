"""Copies of arrays, into row-major order or that in which programs read them."""

from __future__ import annotations

import numpy as np

from preimage.engines.base import Array, aligned_empty
from preimage.engines.jit.elementwise.chain import run_chain
from preimage.engines.jit.elementwise.layout import dense_order
from preimage.engines.jit.request import is_readable

__all__ = ["densely", "in_order", "ordered", "readable"]


def in_order(x: Array) -> Array | None:
    """A copy of x in C order; None for elements that kernels do not move."""
    made = aligned_empty(x.shape, x.dtype)
    return None if run_chain((x,), (), out=(made,)) is None else made


def densely(x: Array) -> tuple[Array, tuple[int, ...]] | None:
    """x, or a copy in C order where it does not fill its memory, and its axes from the outermost in memory on.

    None for elements that kernels do not move.
    """
    order = dense_order(x.shape, x.strides, x.itemsize)
    if order is not None:
        return x, order
    copied = in_order(x)
    return None if copied is None else (copied, tuple(range(x.ndim)))


def readable(a: Array) -> Array:
    """An array that programs read: itself, or a copy; with the channels innermost where they are, in C order otherwise."""
    if is_readable(a):
        return a
    inner = a.ndim > 2 and a.strides[1] == a.itemsize
    return ordered(a, inner)


def ordered(a: Array, inner: bool) -> Array:
    """A copy with the channels innermost in memory, or in C order."""
    turned = np.moveaxis(a, 1, -1) if inner else a
    made = in_order(turned) if not any(stride % a.itemsize for stride in a.strides) else None
    made = np.array(turned, order="C") if made is None else made
    return np.moveaxis(made, -1, 1) if inner else made
