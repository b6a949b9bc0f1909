"""Launching the kernels that reduce windows (pooling): along one axis, or along two at once.

Arrays lie densely, their axes in any order; None is given for anything else.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

from preimage.engines.base import Array
from preimage.engines.decisions import Shortcuts
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.elementwise.copies import in_order
from preimage.engines.jit.elementwise.kept import function_of, launch_spec
from preimage.engines.jit.elementwise.layout import ELEMENTS, costs, dense_order, lanes_of, placed_empty
from preimage.engines.jit.elementwise.pool_plane_kernel import PoolPlaneArguments, PoolPlaneSpec
from preimage.engines.jit.elementwise.pool_rows_kernel import PoolRowsArguments, PoolRowsSpec
from preimage.engines.jit.elementwise.space_kernel import PoolArguments, PoolSpec, Window
from preimage.engines.jit.runtime.native_function import Function
from preimage.engines.kept_tables import kept_tables
from preimage.engines.recording import constant, recorder
from preimage.settings import thread_count

__all__ = ["pool_axis", "pool_plane", "unpool_axis"]

#: Taps that are written out; larger windows cost less along one axis after the other.
MOST_TAPS = 16
#: Strides of neighbouring outputs whose taps are picked out of vectors.
MOST_STRIDE = 4


#: Of windows along an axis: outputs, kernel, stride, lo, dilation.
WindowNumbers = tuple[int, int, int, int, int]


@kept_tables
def _window_table(size: int, outputs: int, kernel: int, stride: int, lo: int, dilation: int) -> Array:
    """(first position inside, taps inside) of every window along an axis."""
    start = np.arange(outputs, dtype=np.int64) * stride - lo
    first = np.maximum(-(start // dilation), 0)
    count = np.maximum(np.minimum((size - 1 - start) // dilation, kernel - 1) - first + 1, 0)
    return Window(first=np.where(count > 0, start + first * dilation, 0), taps=count).table()


@kept_tables
def _cover_table(size: int, outputs: int, kernel: int, stride: int, lo: int) -> Array:
    """(last window, windows) that cover every position along an axis."""
    place = np.arange(size, dtype=np.int64) + lo
    last = np.minimum(place // stride, outputs - 1)
    first = np.maximum(-((kernel - 1 - place) // stride), 0)
    count = np.maximum(last - first + 1, 0)
    return Window(first=np.where(count > 0, last, 0), taps=count).table()


def _dense(x: Array) -> tuple[Array, tuple[int, ...]] | None:
    """The array, for a recorder a copy where it does not fill its memory, and the order of its axes."""
    order = dense_order(x.shape, x.strides, x.itemsize)
    if order is None and recorder() is not None and (copied := in_order(x)) is not None:
        x, order = copied, tuple(range(x.ndim))
    return None if order is None else (x, order)


def _result(x: Array, order: tuple[int, ...], sizes: dict[int, int]) -> Array:
    memory = tuple([sizes[k] if k in sizes else x.shape[k] for k in order])
    return placed_empty(memory, tuple([int(k) for k in np.argsort(order)]), x.dtype)


def _inside(size: int, window: WindowNumbers) -> tuple[int, int]:
    """The first window that lies inside altogether, and the end of those."""
    outputs, kernel, stride, lo, dilation = window
    first = min(max(-(-lo // stride), 0), outputs)
    return first, max(min((size - 1 - (kernel - 1) * dilation + lo) // stride + 1, outputs), first)


class _Again(NamedTuple):
    """What another call like one before it runs on one thread: its kernel, and how its result lies."""

    function: Function
    memory: tuple[int, ...]
    back: tuple[int, ...]


_again: Shortcuts[Any, _Again] = Shortcuts(1024)


def pool_plane(
    x: Array, axis: int, windows: tuple[WindowNumbers, WindowNumbers], mode: str, over: Array | None = None
) -> Array | None:  # fmt: skip
    """The maximum, sum or (mode "mean") sum divided by `over`, one number each, over windows along an axis and the next."""
    if over is not None or recorder() is not None:
        return _pool_plane(x, axis, windows, mode, over, None)
    key = x.shape, x.strides, x.dtype, axis, windows, mode, thread_count(), id(kernels.current_target())
    found = _again.get(key)
    if found is not None:
        made = placed_empty(found.memory, found.back, x.dtype)
        if not found.function(None, x, made):
            return made
    return _pool_plane(x, axis, windows, mode, None, key)


def _pool_plane(
    x: Array, axis: int, windows: tuple[WindowNumbers, WindowNumbers], mode: str, over: Array | None, key: Any
) -> Array | None:  # fmt: skip
    """key: under which the call is kept for others like it, if one thread makes it."""
    (rows, high, _, _, row_step), (columns, wide, stride, lo, step) = windows
    lying = _dense(x)
    if lying is None or high * wide > MOST_TAPS:
        return None
    x, order = lying
    at = order.index(axis)
    if order[at + 1 : at + 2] != (axis + 1,):
        return None
    height, width = x.shape[axis], x.shape[axis + 1]
    inner, outers = prod([x.shape[k] for k in order[at + 2 :]]), prod([x.shape[k] for k in order[:at]])
    if inner == 1 and stride > MOST_STRIDE:
        return None
    made = _result(x, order, {axis: rows, axis + 1: columns})
    first, last = _inside(width, windows[1])
    total, share = outers * rows, max(1, costs().task_elements // (inner * columns * high * wide))
    spec = PoolPlaneSpec(
        ELEMENTS[x.dtype], lanes_of(x.dtype), mode, (high, wide), stride, inner == 1
    )  # fmt: skip
    arguments = PoolPlaneArguments(
        x=x, result=made, over=x if over is None else constant(over), row_windows=constant(_window_table(height, *windows[0])),
        column_windows=constant(_window_table(width, *windows[1])), height=height, width=width, inner=inner, rows=rows, columns=columns,
        row_step=row_step, column_step=step, first=first, last=last, begin=-lo, total=total, share=share,
    )  # fmt: skip
    tasks = -(-total // share)
    launch_spec(spec, arguments, tasks)
    if key is not None and (tasks == 1 or thread_count() == 1):
        function = function_of(spec, arguments, tasks, (x, made), total * columns * inner * high * wide)
        if function is not None:
            memory = tuple([made.shape[k] for k in order])
            _again.keep(key, _Again(function, memory, tuple([int(k) for k in np.argsort(order)])))
    return made


def pool_axis(x: Array, axis: int, window: WindowNumbers, mode: str) -> Array | None:
    """The maximum or sum over windows along an axis; window: outputs, kernel, stride, lo, dilation."""
    outputs, kernel, stride, lo, dilation = window
    size = x.shape[axis]
    whole = (*_inside(size, window), -lo) if stride == 1 else (0, 0, 0)
    return _gathered(x, axis, outputs, _window_table(size, *window), dilation, kernel, mode, whole)


def unpool_axis(y: Array, axis: int, size: int, window: WindowNumbers) -> Array | None:
    """The adjoint of the sum over windows along a spatial axis of `size`: every position adds up the windows that cover it, the
    last first, as the taps come in order. Dilated windows are refused."""
    outputs, kernel, stride, lo, dilation = window
    if dilation != 1:
        return None
    return _gathered(y, axis, size, _cover_table(size, outputs, kernel, stride, lo), -1, -(-kernel // stride), "sum")


def _gathered(
    x: Array, axis: int, outputs: int, table: Array, step: int, terms: int, mode: str, whole: tuple[int, int, int] | None = None
) -> Array | None:
    """whole: of windows that advance by one the first and the end of those that lie inside, and where number 0 would begin."""
    lying = _dense(x)
    if lying is None:
        return None
    x, order = lying
    at = order.index(axis)
    inner = prod(x.shape[k] for k in order[at + 1 :])
    short = inner < costs().least_width
    if short and whole is None and recorder() is None:
        return None  # NumPy is as fast
    made = _result(x, order, {axis: outputs})
    rows = outputs * prod([x.shape[k] for k in order[:at]])
    if short and whole is not None:
        share = max(1, costs().task_elements // (inner * terms * outputs))
        by_rows = PoolRowsArguments(
            x=x, result=made, windows=constant(table), size=x.shape[axis], outputs=outputs, inner=inner, step=step, taps=terms,
            first=whole[0], last=whole[1], begin=whole[2], outers=rows // outputs, share=share,
        )  # fmt: skip
        launch_spec(PoolRowsSpec(ELEMENTS[x.dtype], lanes_of(x.dtype), mode), by_rows, -(-rows // outputs // share))
        return made
    share = max(1, costs().task_elements // (inner * terms))
    arguments = PoolArguments(
        x=x, result=made, windows=constant(table), size=x.shape[axis], outputs=outputs, inner=inner,
        step=step, rows=rows, share=share,
    )  # fmt: skip
    launch_spec(PoolSpec(ELEMENTS[x.dtype], lanes_of(x.dtype), mode), arguments, -(-rows // share))
    return made
