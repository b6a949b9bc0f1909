"""Launching the kernels that move and gather over space (space_kernel.py): concatenation, the gradient of max-pooling.

Arrays lie densely, in C order or with channels innermost; None is given for anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from preimage.engines.base import Array, empty_like_order
from preimage.engines.jit.elementwise.chain import run_chain
from preimage.engines.jit.elementwise.channel_sums import innermost
from preimage.engines.jit.elementwise.copies import in_order
from preimage.engines.jit.elementwise.kept import launch_spec
from preimage.engines.jit.elementwise.layout import ELEMENTS, costs, dense_order, lanes_of, placed_empty
from preimage.engines.jit.elementwise.space_kernel import (
    MaxGradArguments,
    MaxGradSpec,
    RowsArguments,
    RowsSpec,
)
from preimage.engines.kept_tables import kept_tables
from preimage.engines.recording import constant, recorder

__all__ = ["concat", "max_pool_grad"]


def concat(parts: Sequence[Array], axis: int) -> Array | None:
    """The parts side by side, in the memory order of the first."""
    first = parts[0]
    order = dense_order(first.shape, first.strides, first.itemsize)
    if order is None:
        return _by_chains(parts, axis, tuple(range(first.ndim))) if recorder() else None
    for part in parts:
        own = dense_order(part.shape, part.strides, part.itemsize)
        if own != order and (own is None or [k for k in own if part.shape[k] != 1] != [k for k in order if part.shape[k] != 1]):
            return _by_chains(parts, axis, order) if recorder() else None
    at = order.index(axis)
    if at and at == len(order) - 1 and all(part.shape[axis] == 1 for part in parts):
        order = (axis, *order[:-1])  # else every element would be a row of its own
        at = 0
    behind = prod(first.shape[k] for k in order[at + 1 :])
    rows = prod(first.shape[k] for k in order[:at])
    length = sum(p.shape[axis] for p in parts)
    memory = tuple(length if k == axis else first.shape[k] for k in order)
    made = placed_empty(memory, tuple(int(k) for k in np.argsort(order)), first.dtype)
    spec = RowsSpec(ELEMENTS[first.dtype], lanes_of(first.dtype))
    flat = made.transpose(order).reshape(-1)
    start, most = 0, costs().task_elements
    for part in parts:
        width = part.shape[axis] * behind
        share, piece = max(1, most // max(width, 1)), min(width, most)
        pieces = max(1, -(-width // max(piece, 1)))
        place = flat[start * behind :]
        if width:
            arguments = RowsArguments(
                source=part, result=place, rows=rows, width=width, source_step=width, result_step=length * behind,
                share=share, piece=piece, pieces=pieces,
            )  # fmt: skip
            launch_spec(spec, arguments, -(-rows // share) * pieces)
        start += part.shape[axis]
    return made


def _by_chains(parts: Sequence[Array], axis: int, order: tuple[int, ...]) -> Array | None:
    """The same for parts that lie in any way, each copied to its place."""
    first = parts[0]
    length = sum(p.shape[axis] for p in parts)
    memory = tuple(length if k == axis else first.shape[k] for k in order)
    made = placed_empty(memory, tuple(int(k) for k in np.argsort(order)), first.dtype)
    start = 0
    for part in parts:
        place = made[(slice(None),) * axis + (slice(start, start + part.shape[axis]),)]
        if part.size and run_chain((part,), (), out=(place,)) is None:
            return None
        start += part.shape[axis]
    return made


# -- the gradient of the maximum over windows --------------------------------------------------------------------------


Windows = tuple[tuple[int, int, int, int, int, int], ...]


#: Entries of a table of taps: with more of them the gradient is NumPy's, whose memory does not grow with the window.
MOST_TAPS = 1 << 20


@kept_tables
def _tap_table(windows: Windows) -> Array:
    """The flat positions of every window's taps, in row-major order; -1 outside. windows: size, outputs, kernel, stride, lo, dilation."""
    flat = np.zeros((1, 1), np.int64)
    for size, outputs, kernel, stride, lo, dilation in windows:
        place = np.arange(outputs, dtype=np.int64)[:, None] * stride - lo + np.arange(kernel) * dilation
        place[(place < 0) | (place >= size)] = -1
        a, b = flat[:, None, :, None], place[None, :, None, :]
        flat = np.where((a < 0) | (b < 0), -1, a * size + b).reshape(len(flat) * outputs, -1)
    return np.ascontiguousarray(flat)


def max_pool_grad(g: Array, x: Array, pooled: Array, windows: Windows) -> Array | None:
    """g of every window added to the first element of x that is the window's maximum, in order of the outputs."""
    last = innermost(x)
    if last is None or prod(outputs * kernel for _, outputs, kernel, _, _, _ in windows) > MOST_TAPS:
        return None
    g, pooled = (a if innermost(a) is last else _placed(a, last) for a in (g, pooled))
    space, outputs = prod(x.shape[2:]), prod(g.shape[2:])
    table = _tap_table(windows)
    made = empty_like_order(x.shape, x)
    inner = x.shape[1] if last else 1
    outer = x.size // (space * inner)
    lanes = lanes_of(x.dtype) if inner >= costs().least_width else 1
    share = -(-min(inner, max(lanes, costs().task_elements // outputs)) // lanes) * lanes
    shares = -(-inner // share)
    arguments = MaxGradArguments(
        x=x, pooled=pooled, g=g, result=made, positions=constant(table), size=space,
        outputs=outputs, taps=table.shape[1], inner=inner, share=share, shares=shares,
    )  # fmt: skip
    launch_spec(MaxGradSpec(ELEMENTS[x.dtype], lanes, _divide(windows)), arguments, outer * shares)
    return made


def _divide(windows: Windows) -> bool:
    """Whether every position lies in just one window, and all taps of all windows inside."""
    return all(
        lo == 0 and dilation == 1 and kernel == stride and outputs * kernel == size
        for size, outputs, kernel, stride, lo, dilation in windows
    )


def _placed(a: Array, last: bool) -> Array:
    """A copy in C order, or with channels innermost."""
    made = in_order(np.moveaxis(a, 1, -1) if last else a)
    assert made is not None
    return np.moveaxis(made, -1, 1) if last else made
