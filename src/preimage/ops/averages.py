"""Sums and means over windows of the spatial axes, and their adjoints.

    sum_pool(x)[o] = sum over the window of o, zeros in the padding;  its adjoint spreads y[o] over the window
    avg_pool(x)[o] = that sum over the number of elements;            its adjoint spreads y[o] over the number

Both are linear and separable: along one axis after the other. 16-bit floats are summed exactly, divided, and rounded once.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from preimage.autograd import Primitive, primitive
from preimage.autograd.traced import whole
from preimage.engines import around, moving
from preimage.engines.recording import constant
from preimage.errors import OptionError
from preimage.ops.layout import laid_out
from preimage.ops.operands import Array, flag_of, narrow, number_of, operand
from preimage.ops.sums import exactly
from preimage.ops.windows import MOST_KEPT, Axis, Bins, Windows, along, spatial_of, windows_of
from preimage.typing import Operand, Padding, PerAxis, Value

__all__ = ["averages_over", "avg_pool", "by_planes", "sum_pool"]


def _zeros(like: Array, k: int, size: int) -> Array:
    """Zeros to sum in, in the memory order of `like`, its k-th spatial axis of another size."""
    shape = (*like.shape[: k + 2], size, *like.shape[k + 3 :])
    return np.zeros_like(like, shape=shape)


def by_planes(value: Array, k: int, windows: Windows, mode: str, over: Array | None = None) -> Array | None:
    """The last two spatial axes, or the only one, pooled at once by a kernel, where the k-th is the first of them. over: what sums are divided by
    (mode "mean"), one number or one for each window.
    """
    if k != max(len(windows) - 2, 0) or value.dtype.itemsize < 4:
        return None
    last = windows[k:]
    if over is not None:
        if any(n != 1 for n in over.shape[:-2]):
            return None
        over = np.ascontiguousarray(
            np.broadcast_to(over.reshape(over.shape[-2:]), (1,) * (2 - len(last)) + tuple([w.outputs for w in last])), value.dtype
        )
    if len(last) == 2:
        return around.pool_plane(value, k + 2, (last[0].numbers, last[1].numbers), mode, over)
    made = around.pool_plane(value[:, :, None], 2, ((1, 1, 1, 0, 1), last[0].numbers), mode, over)
    return None if made is None else made[:, :, 0]


def _summed(x: Array, windows: Windows, over: Array | None = None) -> Array:
    """Sums over the windows, in the dtype that sums are kept in; divided by `over` where it is given."""
    value = exactly(x)
    for k, w in enumerate(windows):
        if w.is_idle:
            continue
        made = by_planes(value, k, windows, "sum" if over is None else "mean", over)
        if made is not None:
            return made
        made = around.pool_axis(value, k + 2, w.numbers, "sum")
        value = _by_taps(value, k, w, to_outputs=True) if made is None else made
    if over is not None:
        return _divided(value, over)
    return value.copy() if value is x else value


def _spread(y: Array, windows: Windows) -> Array:
    """The adjoint of the sums: every value added to all elements of its window."""
    value = y
    for k, w in reversed(list(enumerate(windows))):
        made = around.unpool_axis(value, k + 2, w.size, w.numbers)
        value = _by_taps(value, k, w, to_outputs=False) if made is None else made
    return value.copy() if value is y else value


def _by_taps(value: Array, k: int, w: Axis, to_outputs: bool) -> Array:
    """Sums along a spatial axis, tap by tap: of inputs to outputs, or back."""
    out = _zeros(value, k, w.outputs if to_outputs else w.size)
    with np.errstate(all="ignore"):
        for outputs, inputs in w.reaches:
            to, source = (outputs, inputs) if to_outputs else (inputs, outputs)
            out[along(k, to)] += value[along(k, source)]
    return out


def _sum_pool(x: Array, *, windows: Windows) -> Array:
    return narrow(_summed(x, windows), x)


def _sum_unpool(y: Array, *, windows: Windows) -> Array:
    return narrow(_spread(exactly(y), windows), y)


_sum_pool_op = primitive(
    "sum_pool", _sum_pool, [lambda g, ans, x, windows: _sum_unpool_op(g, windows=windows)], saves=(), linear=(0,)
)
_sum_unpool_op: Primitive = primitive(
    "sum_unpool", _sum_unpool, [lambda g, ans, y, windows: _sum_pool_op(g, windows=windows)], saves=(), linear=(0,)
)


@laid_out
@whole
def sum_pool(
    x: Operand,
    kernel_size: PerAxis,
    *,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
) -> Value:
    """The sum over every window of the spatial axes, zeros in the padding. Linear; its gradient is its adjoint."""
    x = operand(x, "x")
    windows = windows_of("sum_pool", spatial_of(x, "sum_pool"), kernel_size, stride, padding, dilation, ceil_mode)
    return _sum_pool_op(x, windows=windows)


def _counts(windows: Windows, padded: bool) -> Array:
    """The number of elements of every window; a single number where all have as many."""
    counts: Any = np.ones((1,) * len(windows))
    for k, w in enumerate(windows):
        own = w.covered(padded)
        own = own[:1] if own.size and (own == own[0]).all() else own
        counts = counts * np.reshape(own, [-1 if j == k else 1 for j in range(len(windows))])
    return np.asarray(counts)


def _divisors(windows: Windows, divisor: float | None, padded: bool, dtype: Any) -> Array:
    return (np.asarray(divisor) if divisor is not None else _counts(windows, padded)).astype(dtype)


def _divided(sums: Array, over: Array) -> Array:
    if around.records():
        made = around.chain((sums, constant(over)), (("div", (0, 1)),))
        if made is not None:
            return made[0]
    return np.asarray(sums / over)


def _avg_pool(x: Array, *, windows: Windows, divisor: float | None, padded: bool) -> Array:
    value = exactly(x)
    over = _divisors(windows, divisor, padded, value.dtype)
    with np.errstate(all="ignore"):
        made = _summed(value, windows, over)
        if (
            x.dtype.itemsize > 2 and not around.expect_finite(made) and not np.isfinite(made).all()
        ):  # a sum may overflow on the way to a mean that does not
            part = value.dtype.type(2.0 ** -math.ceil(math.log2(max(math.prod(w.kernel for w in windows), 2))))
            made = np.where(np.isfinite(made), made, _summed(value * part, windows, over) / part)
    return narrow(made, x)


def _avg_unpool(y: Array, *, windows: Windows, divisor: float | None, padded: bool) -> Array:
    value = exactly(y)
    with np.errstate(all="ignore"):
        return narrow(_spread(_divided(value, _divisors(windows, divisor, padded, value.dtype)), windows), y)


_avg_pool_op: Primitive = primitive(
    "avg_pool", _avg_pool, [lambda g, ans, x, **how: _avg_unpool_op(g, **how)], saves=(), linear=(0,)
)
_avg_unpool_op: Primitive = primitive(
    "avg_unpool", _avg_unpool, [lambda g, ans, y, **how: _avg_pool_op(g, **how)], saves=(), linear=(0,)
)


@laid_out
@whole
def avg_pool(
    x: Operand,
    kernel_size: PerAxis,
    *,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: float | None = None,
) -> Value:
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
    windows = windows_of("avg_pool", spatial_of(x, "avg_pool"), kernel_size, stride, padding, dilation, ceil_mode)
    divisor = None if divisor_override is None else number_of(divisor_override, "avg_pool: divisor_override")
    if divisor == 0:
        raise OptionError("avg_pool: divisor_override must not be 0")
    return _avg_pool_op(x, windows=windows, divisor=divisor, padded=flag_of(count_include_pad, "avg_pool: count_include_pad"))


# -- adaptive windows --------------------------------------------------------------------------------------------------


def _binned(x: Array, bins: tuple[Bins, ...]) -> Array:
    """Sums over adaptive windows, one axis after another: windows of one length together, each a sum in the contract's order."""
    if all(b.size == 1 for b in bins) and not around.records():
        # back from global means: every place has the one element; a sum of -0 is +0
        return _filled(np.broadcast_to(np.add(x, x.dtype.type(0)), (*x.shape[:2], *[b.outputs for b in bins])))
    value = x
    for k, b in enumerate(bins):
        if b.outputs == b.size:
            continue
        starts, stops = b.edges()
        lengths = stops - starts
        if b.outputs == 1 and lengths[0] > 0:
            value = around.sum_over(_windows(value, k + 2, starts, int(lengths[0])), (k + 3,))
            continue
        if b.size == 1 and lengths.all():  # every window holds the one element; a sum of -0 is +0
            added = around.pointwise("add", value, numbers=(0.0,))
            value = np.add(value, value.dtype.type(0)) if added is None else added
            value = np.broadcast_to(value, (*value.shape[: k + 2], b.outputs, *value.shape[k + 3 :]))
            continue
        groups = [(n, np.flatnonzero(lengths == n)) for n in np.unique(lengths[lengths > 0]).tolist()]
        parts = [around.sum_over(_windows(value, k + 2, starts[here], n), (k + 3,)) for n, here in groups]
        if around.records() and lengths.all():
            joined = parts[0] if len(parts) == 1 else around.concat(parts, k + 2)
            order = np.argsort(np.concatenate([here for _, here in groups]))
            sorted_ = None if joined is None else moving.take(joined, constant(order), k + 2)
            if sorted_ is not None:
                value = sorted_
                continue
        out = _zeros(value, k, b.outputs)
        for part, (_, here) in zip(parts, groups, strict=True):
            out[along(k, here)] = part
        value = out
    if value is x:
        return value.copy()
    return value if value.flags.writeable else _filled(value)


def _filled(repeated: Array) -> Array:
    """An array whose elements stand for several places, with one for each: channels innermost, as contractions give their results."""
    turned = np.moveaxis(repeated, 1, -1)
    made = around.in_order(turned)
    return np.ascontiguousarray(repeated) if made is None else np.moveaxis(made, -1, 1)


def _windows(x: Array, axis: int, starts: Array, length: int) -> Array:
    """The windows of one length along an axis, which becomes two: where they begin, and their elements."""
    if len(starts) == 1:
        first = int(starts[0])
        part = x[(slice(None),) * axis + (slice(first, first + length),)]
        return np.expand_dims(part, axis)
    places = starts[:, None] + np.arange(length)
    made = moving.take(x, constant(places), axis)
    return np.take(x, places, axis=axis) if made is None else made


def _elements(bins: tuple[Bins, ...], dtype: Any) -> Array:
    """The number of elements of every window."""
    return _counted(bins, dtype) if math.prod(b.outputs for b in bins) > MOST_KEPT else _kept_count(bins, dtype)


@lru_cache(maxsize=256)
def _kept_count(bins: tuple[Bins, ...], dtype: Any) -> Array:
    made = _counted(bins, dtype)
    made.flags.writeable = False
    return made


def _counted(bins: tuple[Bins, ...], dtype: Any) -> Array:
    counts: Any = np.ones((1,) * len(bins))
    for k, b in enumerate(bins):
        starts, stops = b.edges()
        counts = counts * np.reshape(stops - starts, [-1 if j == k else 1 for j in range(len(bins))])
    return np.asarray(counts, dtype)


def _means(x: Array, *, bins: tuple[Bins, ...]) -> Array:
    value = exactly(x)
    over = _elements(bins, value.dtype)
    made = _over(_binned(value, bins), over)
    if x.dtype.itemsize > 2 and not (
        around.expect_finite(made) or np.isfinite(made).all()
    ):  # a sum may overflow on the way to a mean that does not
        part = value.dtype.type(2.0 ** -math.ceil(math.log2(max(float(over.max(initial=0)), 2))))
        made = np.where(np.isfinite(made), made, _binned(value * part, bins) / over / part)
    return narrow(made, x)


def _means_back(y: Array, *, bins: tuple[Bins, ...]) -> Array:
    value = exactly(y)
    return narrow(_binned(_over(value, _elements(bins, value.dtype)), tuple(b.back for b in bins)), y)


def _over(value: Array, counts: Array) -> Array:
    made = around.chain((value, constant(counts)), (("div", (0, 1)),))
    return value / counts if made is None else made[0]


averages_over: Primitive = primitive(
    "adaptive_avg_pool", _means, [lambda g, ans, x, bins: _means_back_op(g, bins=bins)], saves=(), linear=(0,)
)
_means_back_op: Primitive = primitive(
    "adaptive_avg_unpool", _means_back, [lambda g, ans, y, bins: averages_over(g, bins=bins)], saves=(), linear=(0,)
)
