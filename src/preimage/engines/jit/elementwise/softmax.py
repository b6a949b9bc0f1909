"""Softmax and its gradient along one axis (softmax_kernel.py)."""

from __future__ import annotations

from math import prod

import numpy as np

from preimage.engines.base import Array
from preimage.engines.jit.elementwise.kept import kept_kernel
from preimage.engines.jit.elementwise.layout import ELEMENTS, costs, dense_order, lanes_of, placed_empty
from preimage.engines.jit.elementwise.softmax_kernel import SoftmaxArguments, SoftmaxSpec
from preimage.engines.jit.runtime.link import launch_arrays
from preimage.engines.order import BLOCK
from preimage.settings import thread_count

__all__ = ["softmax"]


def softmax(x: Array, axis: int, g: Array | None = None) -> Array:
    """exp(x) / sum exp(x) along the axis; with g, the gradient x (g - sum g x) where x is a softmax. x must not be empty.

    What does not lie densely, or not both alike, is copied.
    """
    order = dense_order(x.shape, x.strides, x.itemsize)
    if order is None or (g is not None and dense_order(g.shape, g.strides, g.itemsize) != order):
        x, g, order = np.ascontiguousarray(x), None if g is None else np.ascontiguousarray(g), tuple(range(x.ndim))
    at = order.index(axis)
    memory = tuple(x.shape[k] for k in order)
    outer, length, inner = prod(memory[:at]), memory[at], prod(memory[at + 1 :])
    made = placed_empty(memory, tuple(int(k) for k in np.argsort(order)), x.dtype)
    columns, lanes = inner > 1, lanes_of(x.dtype)
    share = max(1, costs().softmax_task_elements // length)
    if columns:
        share = min(-(-share // lanes) * lanes, -(-inner // lanes) * lanes)
    shares = -(-inner // share) if columns else 1
    blocks = -(-length // BLOCK)
    arguments = SoftmaxArguments(
        x=x, g=x if g is None else g, result=made, length=length, inner=inner, total=outer,
        share=share, shares=shares, blocks=blocks, levels=blocks.bit_length(),
    )  # fmt: skip
    tasks = outer * shares if columns else -(-outer // share)
    spec = SoftmaxSpec(ELEMENTS[x.dtype], lanes, columns, g is not None)
    launch_arrays(kept_kernel(spec), arguments.listed(), tasks, thread_count() if tasks > 1 else 1)
    return made
