"""Pooling over windows of the spatial axes, in any number of them: maximum, average, and back.

    max_pool(x)[o]  = max over the window of o;   switches[o] = where it was (flat position in the plane, -1: no element)
    max_unpool(y, switches)[p] = y[o] where switches[o] = p, else 0
    sum_pool(x)[o]  = sum over the window of o, zeros in the padding;  its adjoint sum_unpool spreads y[o] over the window

For fixed switches, taking and putting are an adjoint pair, so the gradients of pooling of every order are those two. All are
separable: the maximum and the sum over a window are those along one axis after the other. Every operation here also takes
layout="channels_last".
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from preimage.autograd import Primitive, array_of, primitive
from preimage.engines import around
from preimage.engines.base import accumulator_dtype
from preimage.errors import DTypeError, OptionError, ShapeError
from preimage.ops.layout import laid_out
from preimage.ops.operands import Array, count_of, entries, narrow, operand, regular, sizes_of
from preimage.ops.pointwise import multiply
from preimage.ops.reduce import max as max_over
from preimage.ops.reduce import mean as mean_over
from preimage.ops.shape import concat, getitem
from preimage.ops.windows import Windows, taps, windows_of

__all__ = [
    "adaptive_avg_pool", "adaptive_max_pool", "avg_pool", "global_avg_pool", "global_max_pool", "max_pool", "max_unpool",
    "sum_pool",
]  # fmt: skip


def _spatial(x: Any, name: str) -> tuple[int, ...]:
    if x.ndim < 2:
        raise ShapeError(f"{name}: wanted (N, C, *spatial), got shape {x.shape}")
    return tuple(x.shape[2:])


def _along(k: int, part: slice) -> tuple[slice, ...]:
    return (slice(None), slice(None), *([slice(None)] * k), part)


# -- maximum -----------------------------------------------------------------------------------------------------------


def _max_pool(x: Array, *, windows: Windows) -> Array:
    """Axis by axis, the outermost first: its taps read whole rows."""
    value = x
    for k, w in enumerate(windows):
        made = around.pool_axis(value, k + 2, (w.outputs, w.kernel, w.stride, w.lo, w.dilation), "max")
        if made is not None:
            value = made
            continue
        shape = (*value.shape[: k + 2], w.outputs, *value.shape[k + 3 :])
        out = np.empty_like(value, shape=shape)
        reach = [r for r in (w.reach(t) for t in range(w.kernel)) if r is not None]
        whole = slice(0, w.outputs)
        # a tap that serves every window starts the maximum; without one the start is -infinity
        first = next((j for j, r in enumerate(reach) if r[0] == whole), None)
        if first is None:
            out[...] = -np.inf
        else:
            out[...] = value[_along(k, reach.pop(first)[1])]
        for serves, reads in reach:
            target = out[_along(k, serves)]
            np.maximum(target, value[_along(k, reads)], out=target)
        value = out
    return value.copy() if value is x else value


def _switches(x: Array, pooled: Array, windows: Windows) -> Array:
    """Where each maximum came from: the first place in row-major order (of NaNs, the first NaN); -1 for no element."""
    found = np.full(pooled.shape, -1, np.int64)
    size = x.shape[2:]
    for serves, reads in taps(windows, backwards=True):
        here: Any = (..., *serves)
        there: Any = (..., *reads)
        value = x[there]
        position: Any = np.zeros((1,) * len(size), np.int64)
        for k, part in enumerate(reads):
            stops = np.arange(part.start, part.stop, part.step).reshape([-1 if j == k else 1 for j in range(len(size))])
            position = position * size[k] + stops
        # a NaN maximum equals nothing: then the NaNs of the window are the candidates
        np.copyto(found[here], position, where=(value == pooled[here]) | np.isnan(value))
    return found


def _planes(switches: Array, plane: int) -> Array:
    """Switches as positions in the whole array, planes one after the other; -1 stays."""
    count = math.prod(switches.shape[:2])
    flat = switches.reshape(count, math.prod(switches.shape[2:]))  # -1 cannot be told of nothing
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
    out = np.zeros((*y.shape[:2], *size), accumulator_dtype(y.dtype))
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
    return _put_switches(g, switches=_switches(x, pooled, windows), size=x.shape[2:])


_max_pool_back_op = primitive(
    "max_pool_back",
    _max_pool_back,
    [lambda g, ans, y, x, pooled, windows: _take_op(g, switches=_switches(x, pooled, windows))],
    saves=(),
)


def _max_pool_rule(g: Any, ans: Any, x: Any, *, windows: Windows) -> Any:
    return _max_pool_back_op(g, x=array_of(x), pooled=array_of(ans), windows=windows)


_max_pool_op = primitive("max_pool", _max_pool, [_max_pool_rule], saves=("ans", 0))


@laid_out
def max_pool(
    x: Any,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_switches: bool = False,
) -> Any:
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
    windows = windows_of("max_pool", _spatial(x, "max_pool"), kernel_size, stride, padding, dilation, ceil_mode)
    if not return_switches:
        return _max_pool_op(x, windows=windows)
    switches = _switches(array_of(x), _max_pool(array_of(x), windows=windows), windows)
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
def max_unpool(y: Any, switches: Any, output_size: Any, *, overlap: str = "last") -> Any:
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
    if len(_spatial(y, "max_unpool")) != len(size) or any(n < 0 for n in size):
        raise ShapeError(f"max_unpool: output_size {size} does not fit y of shape {y.shape}: one size per spatial axis")
    if where.shape != y.shape:
        raise ShapeError(f"max_unpool: switches have shape {where.shape}, wanted y's, {y.shape}")
    plane = math.prod(size)
    if where.size and (where.max() >= plane or where.min() < -1):
        raise ShapeError(f"max_unpool: switches reach from {where.min()} to {where.max()}; output_size {size} has {plane} places")
    if not isinstance(overlap, str) or overlap not in ("last", "add"):
        raise OptionError(f"max_unpool: overlap must be 'last' or 'add', got {overlap!r}")
    where = where.astype(np.int64)
    return _put_op(y, switches=_winners(where, plane) if overlap == "last" else where, size=size)


# -- average -----------------------------------------------------------------------------------------------------------


def _zeros(like: Array, k: int, size: int) -> Array:
    """Zeros to sum in, in the memory order of `like`, its k-th spatial axis of another size."""
    shape = (*like.shape[: k + 2], size, *like.shape[k + 3 :])
    return np.zeros_like(like, shape=shape, dtype=accumulator_dtype(like.dtype))


def _sum_pool(x: Array, *, windows: Windows) -> Array:
    value = x
    for k, w in enumerate(windows):
        made = around.pool_axis(value, k + 2, (w.outputs, w.kernel, w.stride, w.lo, w.dilation), "sum")
        if made is not None:
            value = made
            continue
        out = np.zeros_like(
            value, shape=(*value.shape[: k + 2], w.outputs, *value.shape[k + 3 :]), dtype=accumulator_dtype(x.dtype)
        )
        for t in range(w.kernel):
            reach = w.reach(t)
            if reach is not None:
                out[_along(k, reach[0])] += value[_along(k, reach[1])]
        value = out
    return value.copy() if value is x else narrow(value, x)


def _sum_unpool(y: Array, *, windows: Windows) -> Array:
    value = y
    for k, w in reversed(list(enumerate(windows))):
        made = around.unpool_axis(value, k + 2, w.size, (w.outputs, w.kernel, w.stride, w.lo, w.dilation))
        if made is not None:
            value = made
            continue
        out = _zeros(value, k, w.size)
        for t in range(w.kernel):
            reach = w.reach(t)
            if reach is not None:
                out[_along(k, reach[1])] += value[_along(k, reach[0])]
        value = out
    return value.copy() if value is y else narrow(value, y)


_sum_pool_op = primitive(
    "sum_pool", _sum_pool, [lambda g, ans, x, windows: _sum_unpool_op(g, windows=windows)], saves=(), linear=(0,)
)
_sum_unpool_op: Primitive = primitive(
    "sum_unpool", _sum_unpool, [lambda g, ans, y, windows: _sum_pool_op(g, windows=windows)], saves=(), linear=(0,)
)


@laid_out
def sum_pool(
    x: Any, kernel_size: Any, *, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Any:
    """The sum over every window of the spatial axes, zeros in the padding. Linear; its gradient is its adjoint."""
    x = operand(x, "x")
    windows = windows_of("sum_pool", _spatial(x, "sum_pool"), kernel_size, stride, padding, dilation, ceil_mode)
    return _sum_pool_op(x, windows=windows)


@lru_cache(maxsize=32)
def _divisors(windows: Windows, padded: bool, dtype: Any) -> Array:
    """One over the number of elements of every window; a single number where all have as many."""
    counts: Any = np.ones((1,) * len(windows))
    for k, w in enumerate(windows):
        counts = counts * np.reshape(w.covered(padded), [-1 if j == k else 1 for j in range(len(windows))])
    if counts.size and (counts == counts.flat[0]).all():
        counts = counts.flat[0]
    with np.errstate(all="ignore"):
        made = np.asarray(1.0 / counts).astype(dtype)
    made.flags.writeable = False  # kept for the next call, and the graph need not watch it
    return made


@laid_out
def avg_pool(
    x: Any,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: float | None = None,
) -> Any:
    """The mean over every window of the spatial axes.

    Shapes: as max_pool.
    Definition: the sum over the window, zeros in the padding, over its number of elements inside the input and the padding
        (count_include_pad, as Caffe and PyTorch), inside the input alone, or `divisor_override`.
    Gradient: the adjoint; the result is linear in x.
    Raises: GeometryError where no window fits; OptionError for a divisor of 0.

    Example:
        >>> import numpy as np
        >>> from preimage import ops
        >>> ops.avg_pool(np.array([[[1.0, 4.0, 2.0, 3.0]]]), 2)
        array([[[2.5, 2.5]]])
        >>> ops.avg_pool(np.array([[[6.0, 6.0]]]), 3, stride=1, padding=1)
        array([[[4., 4.]]])
    """
    x = operand(x, "x")
    windows = windows_of("avg_pool", _spatial(x, "avg_pool"), kernel_size, stride, padding, dilation, ceil_mode)
    if divisor_override is not None:
        if not divisor_override:
            raise OptionError("avg_pool: divisor_override must not be 0")
        return multiply(_sum_pool_op(x, windows=windows), 1.0 / divisor_override)
    return multiply(_sum_pool_op(x, windows=windows), _divisors(windows, count_include_pad, x.dtype))


# -- global and adaptive -----------------------------------------------------------------------------------------------


@laid_out
def global_avg_pool(x: Any) -> Any:
    """The mean over all spatial axes, kept as 1."""
    x = operand(x, "x")
    return mean_over(x, tuple(range(2, 2 + len(_spatial(x, "global_avg_pool")))), keepdims=True)


@laid_out
def global_max_pool(x: Any) -> Any:
    """The maximum over all spatial axes, kept as 1. Gradient: shared evenly where several are equal."""
    x = operand(x, "x")
    return max_over(x, tuple(range(2, 2 + len(_spatial(x, "global_max_pool")))), keepdims=True)


def _adaptive(x: Any, output_size: Any, name: str, reduce: Any) -> Any:
    x = operand(x, "x")
    spatial = _spatial(x, name)
    listed = entries(output_size)
    wanted = (output_size,) * len(spatial) if listed is None else tuple(listed)
    if len(wanted) != len(spatial):
        raise ShapeError(f"{name}: output_size {output_size!r} does not fit the {len(spatial)} spatial axes of shape {x.shape}")
    for k, (n, m) in enumerate(zip(spatial, wanted, strict=True)):
        outputs = n if m is None else count_of(m, f"{name}: a size", 0)
        if outputs < 1 or n < 1:
            raise ShapeError(f"{name}: cannot make {outputs} windows over spatial axis {k} of size {n}")
        if outputs == n:
            continue
        # window o reaches from floor(o n / outputs) to ceil((o + 1) n / outputs)
        edges = [(o * n // outputs, -(-(o + 1) * n // outputs)) for o in range(outputs)]
        x = concat([reduce(getitem(x, _along(k, slice(a, b))), k + 2, keepdims=True) for a, b in edges], axis=k + 2)
    return x


@laid_out
def adaptive_avg_pool(x: Any, output_size: Any) -> Any:
    """The mean over windows chosen so that the output has `output_size` (None for an axis: as it is)."""
    return _adaptive(x, output_size, "adaptive_avg_pool", mean_over)


@laid_out
def adaptive_max_pool(x: Any, output_size: Any) -> Any:
    """The maximum over windows chosen so that the output has `output_size` (None for an axis: as it is)."""
    return _adaptive(x, output_size, "adaptive_max_pool", max_over)
