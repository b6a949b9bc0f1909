"""Softmax and its kin, extremes and standardisation along axes (line_kernel.py)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from preimage.engines.base import Array, aligned_empty
from preimage.engines.jit.elementwise.copies import in_order
from preimage.engines.jit.elementwise.kept import kept_kernel
from preimage.engines.jit.elementwise.layout import ELEMENTS, costs, dense_order, lanes_of, placed_empty
from preimage.engines.jit.elementwise.line_kernel import REDUCED, LineArguments, LineSpec
from preimage.engines.jit.runtime.link import launch_arrays
from preimage.engines.order import BLOCK, PARTIALS
from preimage.engines.recording import constant
from preimage.settings import thread_count

__all__ = ["lines", "softmax"]

#: Rows from which it pays to lay short ones side by side.
MANY_ROWS = 64


def softmax(x: Array, axis: int, g: Array | None = None) -> Array:
    """exp(x) / sum exp(x) along the axis; with g, the gradient x (g - sum g x) where x is a softmax. x must not be empty."""
    return lines(x, (axis,), "softmax" if g is None else "softmax_gradient", g)[0]


def lines(
    x: Array, axis: tuple[int, ...], mode: str, g: Array | None = None, each: Array | None = None, eps: float = 0.0,
    affine: tuple[Array, Array] | None = None,
) -> tuple[Array, ...]:  # fmt: skip
    """A mode of `line_kernel` along the axes, which rise; x, not empty, and g: float32 or float64, of one shape.

    The result, without the axes where it is one number a line; for "standardize" a second array of these (sum c^2 / n + eps). each: s, for
    the gradient of "standardize"; affine: scale and shift along the line, dense. What does not lie densely in an order in which the axes stay
    together is copied.
    """
    if axis[-1] - axis[0] >= len(axis):  # not neighbours: put last
        kept = [k for k in range(x.ndim) if k not in axis]
        turn = [*kept, *axis]
        moved = None if g is None else g.transpose(turn)
        found = lines(x.transpose(turn), tuple(range(len(kept), x.ndim)), mode, moved, each, eps, affine)
        return found if mode in REDUCED else (found[0].transpose(np.argsort(turn)), *found[1:])
    order = dense_order(x.shape, x.strides, x.itemsize)
    at = 0 if order is None else order.index(axis[0])
    if (
        order is None
        or order[at : at + len(axis)] != axis
        or (g is not None and dense_order(g.shape, g.strides, g.itemsize) != order)
    ):
        order, at, x, g = tuple(range(x.ndim)), axis[0], _in_order(x), None if g is None else _in_order(g)
    memory = tuple([x.shape[k] for k in order])
    outer, length, inner = prod(memory[:at]), prod(memory[at : at + len(axis)]), prod(memory[at + len(axis) :])
    kept = [k for k in order if k not in axis]
    if inner == 1 and length < PARTIALS and outer >= MANY_ROWS:
        return _side_by_side(x, axis, kept, mode, g, each, eps, affine)
    one_each = aligned_empty((outer * inner,), x.dtype)
    few = one_each.reshape([x.shape[k] for k in kept]).transpose([int(k) for k in np.argsort(kept)])
    made = few if mode in REDUCED else placed_empty(memory, tuple(int(k) for k in np.argsort(order)), x.dtype)
    if each is not None:
        one_each = np.ascontiguousarray(each.transpose([sorted(kept).index(k) for k in kept]))
    numbers = np.array([length, eps], x.dtype)
    columns, lanes = inner > 1, lanes_of(x.dtype)
    share = max(1, costs().softmax_task_elements // length)
    if columns:
        share = min(-(-share // lanes) * lanes, -(-inner // lanes) * lanes)
    shares = -(-inner // share) if columns else 1
    blocks = -(-length // BLOCK)
    scale, shift = affine or (None, None)
    arguments = LineArguments(
        x=x, g=0 if g is None else g, result=one_each if mode in REDUCED else made, each=one_each,
        scale=0 if scale is None else scale, shift=0 if shift is None else shift, numbers=constant(numbers), length=length,
        inner=inner, total=outer, share=share, shares=shares, blocks=blocks,
        levels=blocks.bit_length(),
    )  # fmt: skip
    tasks = outer * shares if columns else -(-outer // share)
    rows = {} if columns else {"one_block": blocks == 1, "even": length % PARTIALS == 0}
    spec = LineSpec(ELEMENTS[x.dtype], lanes, columns, mode, affine is not None, **rows)
    launch_arrays(kept_kernel(spec), arguments.listed(), tasks, thread_count() if tasks > 1 else 1)
    return (made, few) if mode == "standardize" else (made,)


def _side_by_side(
    x: Array, axis: tuple[int, ...], kept: Sequence[int], mode: str, g: Array | None, each: Array | None, eps: float,
    affine: tuple[Array, Array] | None,
) -> tuple[Array, ...]:  # fmt: skip
    """The same for many rows that are shorter than a vector's sums: laid out so that lanes are rows. kept: the other axes, as they lie."""
    turn = (*axis, *kept)
    turned = [None if a is None else _in_order(a.transpose(turn)) for a in (x, g)]
    back = [sorted(kept).index(k) for k in kept]
    other = None if each is None else each.transpose(back)
    assert turned[0] is not None
    found = lines(turned[0], tuple(range(len(axis))), mode, turned[1], other, eps, affine)
    fewer = [r.transpose(np.argsort(back)) for r in found if r.ndim < x.ndim]
    return tuple(fewer) if mode in REDUCED else (found[0].transpose(np.argsort(turn)), *fewer)


def _in_order(x: Array) -> Array:
    """In row-major order, copied by a kernel where it is not."""
    copied = None if x.flags.c_contiguous else in_order(x)
    return np.ascontiguousarray(x) if copied is None else copied
