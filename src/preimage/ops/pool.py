"""Pooling over windows of the spatial axes, in any number of them: maximum, average, and back.

    max_pool(x)[o]  = max over the window of o;   switches[o] = where it was (flat position in the plane, -1: no element)
    max_unpool(y, switches)[p] = y[o] where switches[o] = p, else 0

For fixed switches, taking and putting are an adjoint pair, so the gradients of pooling of every order are those two. The maximum over a
window is separable: one along each axis after the other. Sums and means over windows are in ops/averages.py. Every operation here also
takes layout="channels_last".
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from preimage.autograd import Primitive, array_of, primitive
from preimage.autograd.traced import whole
from preimage.engines import around
from preimage.errors import DTypeError, OptionError, OutOfMemoryError, ShapeError
from preimage.ops.averages import averages_over, by_planes
from preimage.ops.layout import laid_out
from preimage.ops.operands import Array, check_room, count_of, entries, flag_of, narrow, operand, regular, sizes_of
from preimage.ops.reduce import max as max_over
from preimage.ops.reduce import mean as mean_over
from preimage.ops.sums import sum_dtype
from preimage.ops.windows import Bins, Windows, along, spatial_of, windows_of
from preimage.resources import available_memory
from preimage.typing import Integers, Operand, OutputSize, Padding, PerAxis, Shape, Value

__all__ = ["adaptive_avg_pool", "adaptive_max_pool", "global_avg_pool", "global_max_pool", "max_pool", "max_unpool"]


# -- maximum -----------------------------------------------------------------------------------------------------------


def _max_pool(x: Array, *, windows: Windows) -> Array:
    """Axis by axis, the outermost first: its taps read whole rows."""
    value = x
    for k, w in enumerate(windows):
        if w.is_idle:
            continue
        made = by_planes(value, k, windows, "max")
        if made is not None:
            return made
        made = around.pool_axis(value, k + 2, w.numbers, "max")
        if made is not None:
            value = made
            continue
        shape = (*value.shape[: k + 2], w.outputs, *value.shape[k + 3 :])
        out = np.empty_like(value, shape=shape)
        reach = list(w.reaches)
        whole = slice(0, w.outputs)
        # a tap that serves every window starts the maximum; without one the start is -infinity
        first = next((j for j, r in enumerate(reach) if r[0] == whole), None)
        if first is None:
            out[...] = -np.inf
        else:
            out[...] = value[along(k, reach.pop(first)[1])]
        for serves, reads in reach:
            target = out[along(k, serves)]
            np.maximum(target, value[along(k, reads)], out=target)
        value = out
    return value.copy() if value is x else value


def _switches(x: Array, windows: Windows) -> Array:
    """Where each maximum is: the first place in row-major order (of NaNs, the first NaN); -1 for no element.

    Axis by axis, the innermost first: the first row that holds the maximum, and in it the first column.
    """
    value = x
    found = np.arange(math.prod(x.shape[2:])).reshape((1, 1, *x.shape[2:]))
    for k, w in reversed(list(enumerate(windows))):
        shape = (*value.shape[: k + 2], w.outputs, *value.shape[k + 3 :])
        best, place = np.full(shape, -np.inf, x.dtype), np.full(shape, -1, np.int64)
        for serves, reads in w.reaches:
            here, there = along(k, serves), along(k, reads)
            new, old, seen, at = value[there], best[here], place[here], found[there]
            better = ((new > old) | (np.isnan(new) & ~np.isnan(old)) | (seen < 0)) & (at >= 0)
            best[here], place[here] = np.where(better, new, old), np.where(better, at, seen)
        value, found = best, place
    return np.broadcast_to(found, value.shape).copy()


def _switches_of_bins(x: Array, bins: tuple[Bins, ...]) -> Array:
    """`_switches` for adaptive windows: window by window, or where there are more of them than elements in one, tap by tap."""
    value, found = x, np.arange(math.prod(x.shape[2:])).reshape((1, 1, *x.shape[2:]))
    for k, b in reversed(list(enumerate(bins))):
        if b.outputs == b.size:
            continue
        starts, stops = b.edges()
        found = np.broadcast_to(found, value.shape)
        if b.outputs <= (stops - starts).max():
            parts = [along(k, slice(int(first), int(last))) for first, last in zip(starts, stops, strict=True)]
            at = [np.argmax(value[part], axis=k + 2, keepdims=True) for part in parts]  # of NaNs the first, else of maxima
            value, found = (
                np.concatenate([np.take_along_axis(a[part], i, k + 2) for part, i in zip(parts, at, strict=True)], k + 2)
                for a in (value, found)
            )
            continue
        best, place = np.take(value, starts, axis=k + 2), np.take(found, starts, axis=k + 2)
        for t in range(1, int((stops - starts).max())):
            here = np.flatnonzero(starts + t < stops)
            new, seen = np.take(value, starts[here] + t, axis=k + 2), np.take(found, starts[here] + t, axis=k + 2)
            old, to = np.take(best, here, axis=k + 2), along(k, here)
            better = (new > old) | (np.isnan(new) & ~np.isnan(old))
            best[to], place[to] = np.where(better, new, old), np.where(better, seen, place[to])
        value, found = best, place
    return np.broadcast_to(found, value.shape).copy()


def _planes(switches: Array, plane: int) -> Array:
    """Switches as positions in the whole array, planes one after the other; -1 stays."""
    count = math.prod(switches.shape[:2])
    flat = switches.reshape(count, math.prod(switches.shape[2:]))  # -1 cannot be inferred for an empty array
    offset = np.arange(count, dtype=np.int64)[:, None] * plane
    return np.where(flat < 0, np.int64(-1), flat + offset)


def _take_switches(x: Array, *, switches: Array) -> Array:
    index = _planes(switches, math.prod(x.shape[2:]))
    if not x.size:
        return np.zeros(switches.shape, x.dtype)
    values = x.reshape(-1)[index]
    values[index < 0] = 0
    return values.reshape(switches.shape)


def _put_switches(y: Array, *, switches: Array, size: tuple[int, ...]) -> Array:
    out = np.zeros((*y.shape[:2], *size), sum_dtype(y.dtype))
    index = _planes(switches, math.prod(size)).reshape(-1)
    values = y.reshape(-1).astype(out.dtype, copy=False)
    inside = index >= 0
    if not inside.all():
        index, values = index[inside], values[inside]
    np.add.at(out.reshape(-1), index, values)
    return narrow(out, y)


_take_op = primitive(
    "take_switches",
    _take_switches,
    [lambda g, ans, x, switches: _put_op(g, switches=switches, size=x.shape[2:])],
    saves=(),
    linear=(0,),
)

_put_op: Primitive = primitive(
    "put_switches",
    _put_switches,
    [lambda g, ans, y, switches, size: _take_op(g, switches=switches)],
    saves=(),
    linear=(0,),
)


def _max_pool_back(g: Array, *, x: Array, pooled: Array, windows: Windows) -> Array:
    sizes = tuple((w.size, w.outputs, w.kernel, w.stride, w.lo, w.dilation) for w in windows)
    made = around.max_pool_grad(g, x, pooled, sizes)
    if made is not None:
        return made
    return _put_switches(g, switches=_switches(x, windows), size=x.shape[2:])


_max_pool_back_op = primitive(
    "max_pool_back",
    _max_pool_back,
    [lambda g, ans, y, x, pooled, windows: _take_op(g, switches=_switches(x, windows))],
    saves=(),
)


def _max_pool_rule(g: Any, ans: Any, x: Any, *, windows: Windows) -> Any:
    return _max_pool_back_op(g, x=array_of(x), pooled=array_of(ans), windows=windows)


_max_pool_op = primitive("max_pool", _max_pool, [_max_pool_rule], saves=("ans", 0))


@laid_out
@whole
@np.errstate(all="ignore")
def max_pool(
    x: Operand,
    kernel_size: PerAxis,
    *,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    return_switches: bool = False,
) -> Value | tuple[Value, Array]:
    """The maximum over every window of the spatial axes; NaN if one is in it. The padding never wins.

    Shapes: x (N, C, *spatial) -> (N, C, *outputs), outputs = floor or (ceil_mode) ceil((size + lo + hi - extent) / stride) + 1;
        stride None means the kernel size. With return_switches also an int64 array of the result's shape: the flat position
        in the plane of every maximum (the first in row-major order), as PyTorch's indices and for max_unpool.
    Definition: y[n, c, oh..] = max over kh.. of x[n, c, oh*stride - lo + kh*dilation], over those inside x.
    Gradient: to the element that won.
    Cost: a comparison per axis, tap and output; nothing is padded or copied.
    Raises: GeometryError where no window fits, or padding reaches the window's extent.
    Source: the pooling layers of Caffe (which rounds up) and PyTorch (which rounds down).

    Example:
        >>> import numpy as np
        >>> from preimage import ops
        >>> ops.max_pool(np.array([[[1.0, 4.0, 2.0, 3.0]]]), 2, return_switches=True)
        (array([[[4., 3.]]]), array([[[1, 3]]]))
    """
    x = operand(x, "x")
    windows = windows_of("max_pool", spatial_of(x, "max_pool"), kernel_size, stride, padding, dilation, ceil_mode)
    if not flag_of(return_switches, "max_pool: return_switches"):
        return _max_pool_op(x, windows=windows)
    switches = _switches(array_of(x), windows)
    return _take_op(x, switches=switches), switches


def _winners(switches: Array, plane: int) -> Array:
    """Switches with all but one of those that name the same place set to -1: the last in row-major order stays."""
    index = _planes(switches, plane).reshape(-1)
    numbers = np.arange(index.size)
    owner = np.full(math.prod(switches.shape[:2]) * plane, -1, np.int64)
    np.maximum.at(owner, index[index >= 0], numbers[index >= 0])
    won = np.zeros(index.shape, bool)
    won[index >= 0] = owner[index[index >= 0]] == numbers[index >= 0]
    return np.where(won.reshape(switches.shape), switches, np.int64(-1))


@laid_out
@whole
def max_unpool(y: Operand, switches: Integers, output_size: Shape, *, overlap: Literal["last", "add"] = "last") -> Value:
    """Every value of y put where its maximum was, zeros elsewhere: the approximate inverse of max_pool (Zeiler and Fergus 2014).

    Shapes: y (N, C, *spatial) and switches of the same shape -> (N, C, *output_size).
    Definition: x[n, c, p] = y[n, c, o] where switches[n, c, o] = p. Where windows overlapped, several values may name one
        place: overlap="last" keeps the last in row-major order, as PyTorch does on one thread; "add" adds them up, which
        makes it the exact adjoint of max_pool at the x that gave the switches.
    Gradient: the cotangent at the places of those that were kept.
    Raises: ShapeError for switches of another shape or outside the output; DTypeError for switches that are no integers.

    Example:
        >>> import numpy as np
        >>> from preimage import ops
        >>> ops.max_unpool(np.array([[[4.0, 3.0]]]), np.array([[[1, 3]]]), 4)
        array([[[0., 4., 0., 3.]]])
    """
    y, size, where = operand(y, "y"), sizes_of(output_size, "max_unpool"), regular(array_of(switches))
    if where.dtype.kind not in "iu":
        raise DTypeError(f"max_unpool: switches must be integers, got {where.dtype}")
    if len(spatial_of(y, "max_unpool")) != len(size) or any(n < 0 for n in size):
        raise ShapeError(f"max_unpool: output_size {size} does not fit y of shape {y.shape}: one size per spatial axis")
    if where.shape != y.shape:
        raise ShapeError(f"max_unpool: switches have shape {where.shape}, wanted y's, {y.shape}")
    plane = math.prod(size)
    check_room("max_unpool", (*y.shape[:2], *size), y.dtype)
    if where.size and (where.max() >= plane or where.min() < -1):
        raise ShapeError(f"max_unpool: switches reach from {where.min()} to {where.max()}; output_size {size} has {plane} places")
    if not isinstance(overlap, str) or overlap not in ("last", "add"):
        raise OptionError(f"max_unpool: overlap must be 'last' or 'add', got {overlap!r}")
    where = where.astype(np.int64)
    return _put_op(y, switches=_winners(where, plane) if overlap == "last" else where, size=size)


# -- global and adaptive -----------------------------------------------------------------------------------------------


@laid_out
@whole
def global_avg_pool(x: Operand) -> Value:
    """The mean over all spatial axes, kept as 1."""
    x = operand(x, "x")
    return mean_over(x, tuple(range(2, 2 + len(spatial_of(x, "global_avg_pool")))), keepdims=True)


@laid_out
@whole
def global_max_pool(x: Operand) -> Value:
    """The maximum over all spatial axes, kept as 1. Gradient: shared evenly where several are equal."""
    x = operand(x, "x")
    return max_over(x, tuple(range(2, 2 + len(spatial_of(x, "global_max_pool")))), keepdims=True)


def _bins(x: Value, output_size: OutputSize, name: str) -> tuple[Bins, ...]:
    spatial, listed = spatial_of(x, name), entries(output_size)
    wanted = (output_size,) * len(spatial) if listed is None else tuple(listed)
    if len(wanted) != len(spatial):
        raise ShapeError(f"{name}: output_size {output_size!r} does not fit the {len(spatial)} spatial axes of shape {x.shape}")
    bins = tuple(Bins(n, n if m is None else count_of(m, f"{name}: a size", 0)) for n, m in zip(spatial, wanted, strict=True))
    for k, b in enumerate(bins):
        if b.outputs < 1 or b.size < 1:
            raise ShapeError(f"{name}: cannot make {b.outputs} windows over spatial axis {k} of size {b.size}")
        wanted_bytes = b.outputs * max(x.size // b.size * x.dtype.itemsize, 2 * np.dtype(np.intp).itemsize)
        if b.outputs > b.size and wanted_bytes > available_memory():
            raise OutOfMemoryError(
                f"{name}: {b.outputs} windows over spatial axis {k} take {wanted_bytes:.3g} bytes, more than there are"
            )
    sizes = tuple(b.outputs for b in bins)
    check_room(name, (*x.shape[:2], *sizes), x.dtype)
    check_room(name, sizes, np.dtype(np.float64))  # the number of elements of every window
    return bins


def _adaptive_max(x: Array, *, bins: tuple[Bins, ...]) -> Array:
    return _take_switches(x, switches=_switches_of_bins(x, bins))


def _adaptive_max_rule(g: Any, ans: Any, x: Any, *, bins: tuple[Bins, ...]) -> Any:
    return _put_op(g, switches=_switches_of_bins(array_of(x), bins), size=x.shape[2:])


_adaptive_max_op = primitive("adaptive_max_pool", _adaptive_max, [_adaptive_max_rule], saves=(0,))


@laid_out
@whole
def adaptive_avg_pool(x: Operand, output_size: OutputSize) -> Value:
    """The mean over windows chosen so that the output has `output_size` (None for an axis: as it is)."""
    x = operand(x, "x")
    return averages_over(x, bins=_bins(x, output_size, "adaptive_avg_pool"))


@laid_out
@whole
def adaptive_max_pool(x: Operand, output_size: OutputSize) -> Value:
    """The maximum over windows chosen so that the output has `output_size` (None for an axis: as it is).

    Gradient: to the element that won, as in max_pool.
    """
    x = operand(x, "x")
    return _adaptive_max_op(x, bins=_bins(x, output_size, "adaptive_max_pool"))
