"""Reductions over chosen axes, and the standardisation that is made of them. Softmax and its relatives: ops/exponentials.py.

`axis`: None (all), an int, or several. Sums of narrow floats are exact and rounded once (ops/sums.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from preimage.autograd import Primitive, Spec, Tensor, array_of, primitive
from preimage.autograd.traced import whole
from preimage.engines import around
from preimage.errors import OptionError, ShapeError
from preimage.ops.broadcast import astype, broadcast_to, widely
from preimage.ops.elementwise import fused
from preimage.ops.operands import Array, Axes, axes_of, axis_of, flag_of, narrow, number_of, operand, widened
from preimage.ops.pointwise import divide, multiply, select, sqrt, square, subtract
from preimage.ops.shape import concat, getitem, moveaxis, reshape
from preimage.ops.sums import exactly, mean_of, sum_dtype, total
from preimage.typing import Operand, Value

__all__ = [
    "argmax", "argmin", "kept_shape", "max", "mean", "min", "prod", "standardize", "std", "sum", "var",
]  # fmt: skip

AxisTuple = tuple[int, ...]


def kept_shape(shape: tuple[int, ...], axis: AxisTuple) -> tuple[int, ...]:
    """The shape after a reduction with its axes kept as 1."""
    return tuple(1 if k in axis else n for k, n in enumerate(shape))


def _count(shape: tuple[int, ...], axis: AxisTuple) -> int:
    return math.prod([shape[k] for k in axis])


def _spread(g: Value, x: Value | Spec, axis: AxisTuple) -> Value:
    """A reduced cotangent (axes kept or not) repeated to the shape of x."""
    return broadcast_to(reshape(g, kept_shape(x.shape, axis)), x.shape)


# -- sum, mean ---------------------------------------------------------------------------------------------------------


def _sum(x: Array, *, axis: AxisTuple, keepdims: bool) -> Array:
    return narrow(total(x, axis, keepdims), x)


def _mean(x: Array, *, axis: AxisTuple, keepdims: bool) -> Array:
    with np.errstate(all="ignore"):
        return narrow(mean_of(x, axis, keepdims), x)


_sum_op = primitive("sum", _sum, [lambda g, ans, x, axis, keepdims: _spread(g, x, axis)], saves=(), linear=(0,))

_mean_op = primitive(
    "mean",
    _mean,
    [lambda g, ans, x, axis, keepdims: _spread(divide(g, float(_count(x.shape, axis))), x, axis)],
    saves=(),
    linear=(0,),
)


def sum(x: Operand, axis: Axes = None, keepdims: bool = False) -> Value:
    """The sum over the axes; 0 over none. Gradient: the cotangent, repeated."""
    x = operand(x, "x")
    return _sum_op(x, axis=axes_of(axis, x.ndim, "sum"), keepdims=flag_of(keepdims, "keepdims"))


def mean(x: Operand, axis: Axes = None, keepdims: bool = False) -> Value:
    """The mean over the axes; NaN over no elements. A sum that overflows on the way does not matter."""
    x = operand(x, "x")
    return _mean_op(x, axis=axes_of(axis, x.ndim, "mean"), keepdims=flag_of(keepdims, "keepdims"))


def var(x: Operand, axis: Axes = None, keepdims: bool = False, correction: float = 0) -> Value:
    """The mean squared distance from the mean; `correction` is taken off the count (1: the unbiased estimate).

    The distances are from a mean that is corrected by the mean of the distances, so that a large mean costs no digits; squares that are
    added up cannot fall below 0.
    """
    x = operand(x, "x")
    axes, keepdims, correction = (
        axes_of(axis, x.ndim, "var"),
        flag_of(keepdims, "keepdims"),
        number_of(correction, "var: correction"),
    )
    count = _count(x.shape, axes)
    wide = _exact(x)
    centred = subtract(wide, mean(wide, axes, keepdims=True))
    squares = square(subtract(centred, mean(centred, axes, keepdims=True)))
    if not correction:
        return astype(mean(squares, axes, keepdims), x.dtype)
    return astype(divide(sum(squares, axes, keepdims), np.maximum(float(count - correction), 0.0)), x.dtype)


@whole
def std(x: Operand, axis: Axes = None, keepdims: bool = False, correction: float = 0) -> Value:
    """The square root of `var`. Gradient: (x - mean) / (std * count), and 0 where all values are equal."""
    x = operand(x, "x")
    squares = var(_exact(x), axis, keepdims, correction)
    flat = array_of(squares) == 0
    root = select(flat, 0.0, sqrt(select(flat, 1.0, squares))) if flat.any() else sqrt(squares)
    return astype(root, x.dtype)


def _exact(x: Value) -> Value:
    """x in the dtype that its sums are kept in."""
    return astype(x, sum_dtype(x.dtype))


@whole
def prod(x: Operand, axis: Axes = None, keepdims: bool = False) -> Value:
    """The product over the axes; 1 over none. Multiplied in halves, so its gradient is right at zeros too."""
    x = operand(x, "x")
    axes, keepdims = axes_of(axis, x.ndim, "prod"), flag_of(keepdims, "keepdims")
    shape = kept_shape(x.shape, axes) if keepdims else tuple(n for k, n in enumerate(x.shape) if k not in axes)
    last = moveaxis(x, axes, range(x.ndim - len(axes), x.ndim))
    flat = reshape(last, (*(n for k, n in enumerate(x.shape) if k not in axes), _count(x.shape, axes)))
    if not flat.shape[-1]:
        flat = concat([flat, np.ones((*flat.shape[:-1], 1), flat.dtype)], axis=-1)
    while flat.shape[-1] > 1:
        half = flat.shape[-1] // 2
        product = multiply(getitem(flat, (..., slice(half))), getitem(flat, (..., slice(half, 2 * half))))
        flat = product if flat.shape[-1] == 2 * half else concat([product, getitem(flat, (..., slice(2 * half, None)))], axis=-1)
    return reshape(flat, shape)


# -- extremes ----------------------------------------------------------------------------------------------------------


@fused
def _hits(x: Any, best: Any) -> Any:
    """1 where x is the extreme value, or NaN as it is, else 0."""
    equal = select((x >= best) & (x <= best), 1.0, 0.0)
    return select(best >= best, equal, select(x >= x, 0.0, 1.0))


_chosen = fused(lambda g, hits: select(array_of(hits) > 0.0, g, 0.0))


def _extremum_rule(g: Any, ans: Any, x: Any, *, axis: AxisTuple, keepdims: bool) -> Any:
    """Shared evenly among equal extremes, as torch.amax does; NaNs count as equal."""
    hits = _hits(array_of(x), array_of(ans).reshape(kept_shape(x.shape, axis)))
    return _chosen(divide(_spread(g, x, axis), total(hits, axis, True)), hits)


def _extremum(ufunc: np.ufunc, word: str) -> Any:
    def forward(x: Array, *, axis: AxisTuple, keepdims: bool) -> Array:
        made = around.lines(x, axis, word)
        if made is not None:
            return made.reshape(kept_shape(x.shape, axis)) if keepdims else made
        return narrow(ufunc.reduce(x, axis=axis, keepdims=keepdims), x)

    return forward


_max_op = primitive("max", _extremum(np.maximum, "max"), widely([_extremum_rule]), saves=("ans", 0))
_min_op = primitive("min", _extremum(np.minimum, "min"), widely([_extremum_rule]), saves=("ans", 0))


def _not_empty(x: Value, axis: AxisTuple, name: str) -> None:
    if not _count(x.shape, axis):
        raise ShapeError(f"{name}: there is no {name} over no elements: shape {x.shape}, axes {axis}")


def max(x: Operand, axis: Axes = None, keepdims: bool = False) -> Value:
    """The largest value over the axes; NaN if any is. Gradient: to the largest, shared evenly where several are equal.

    Raises: ShapeError over no elements.
    """
    x = operand(x, "x")
    axes = axes_of(axis, x.ndim, "max")
    _not_empty(x, axes, "max")
    return _max_op(x, axis=axes, keepdims=flag_of(keepdims, "keepdims"))


def min(x: Operand, axis: Axes = None, keepdims: bool = False) -> Value:
    """The smallest value over the axes; NaN if any is. Gradient: to the smallest, shared evenly where several are equal.

    Raises: ShapeError over no elements.
    """
    x = operand(x, "x")
    axes = axes_of(axis, x.ndim, "min")
    _not_empty(x, axes, "min")
    return _min_op(x, axis=axes, keepdims=flag_of(keepdims, "keepdims"))


def argmax(x: Operand, axis: int | None = None, keepdims: bool = False) -> Array:
    """Where the largest value is along one axis (None: among all, in row-major order): an array of integers, which no gradient goes
    through. The first of equal ones; NaN counts as the largest.

    Raises: ShapeError over no elements.
    """
    return _where_extreme(np.argmax, x, axis, keepdims)


def argmin(x: Operand, axis: int | None = None, keepdims: bool = False) -> Array:
    """Where the smallest value is: as `argmax`; NaN counts as the smallest."""
    return _where_extreme(np.argmin, x, axis, keepdims)


def _where_extreme(function: Callable[..., Array], x: Operand, axis: int | None, keepdims: bool) -> Array:
    x = operand(x, "x")
    name = function.__name__
    along = None if axis is None else axis_of(axis, x.ndim, name)
    _not_empty(x, tuple(range(x.ndim)) if along is None else (along,), name[3:])
    return np.asanyarray(function(widened(array_of(x)), axis=along, keepdims=flag_of(keepdims, "keepdims")))


# -- standardisation: what batch, group, layer and instance normalisation share ----------------------------------------


def _moments(wide: Array, axis: AxisTuple, eps: float) -> tuple[Array, Array, Array]:
    """x - mean, 1 / sqrt(var + eps), and the factor that both were taken of: 1, but where the squares overflow, or vanish beside no eps."""

    def mean_off(x: Array) -> Array:
        centred = x - around.sum_over(x, axis).reshape(shape) / count
        centred -= around.sum_over(centred, axis).reshape(shape) / count  # what rounding left of a large mean
        return np.asarray(centred)

    def below(centred: Array, there: Any) -> Any:
        return around.sum_over(np.square(centred), axis).reshape(shape) / count + there

    def exponent(x: Array) -> Any:
        """The least power of two above all |x| of a slice; 0 where they are not finite, or all 0."""
        top = np.maximum.reduce(np.abs(x), axis=axis, keepdims=True, initial=0)
        return np.where(np.isfinite(top), np.frexp(top)[1], 0)

    dtype, shape = wide.dtype, kept_shape(wide.shape, axis)
    info, count, small = np.finfo(dtype), dtype.type(_count(wide.shape, axis)), dtype.type(eps)
    with np.errstate(all="ignore"):
        centred = mean_off(wide)
        squares = below(centred, small)
        one = np.ones_like(squares)
        lost = _lost(squares)
        if not lost.any():
            return centred, 1 / np.sqrt(squares), one
        down = np.where(lost, -exponent(wide) - 1, 0)  # sums and distances of values below 1/2 do not overflow
        centred = mean_off(np.ldexp(wide, down))
        reach = exponent(centred) - down
        apart = np.logical_or.reduce(centred != 0, axis=axis, keepdims=True)
        up = np.where(lost & apart & ((reach > info.maxexp // 3) | (reach < info.minexp // 3)), -reach, 0)
        centred, factor = np.ldexp(centred, up - down), np.ldexp(one, up)
        return centred, 1 / np.sqrt(below(centred, small * factor * factor)), factor


def _lost(squares: Array) -> Array:
    """Where the mean of squares has overflowed, or has no digits left."""
    info = np.finfo(squares.dtype)
    return np.asarray(~np.isfinite(squares) | (squares < info.tiny / info.eps))


@np.errstate(all="ignore")
def standardized_lines(
    x: Array, axis: AxisTuple, eps: float, scale: Array | None = None, shift: Array | None = None
) -> tuple[Array, Array]:
    """x standardised (times scale plus shift, both dense and along the axes), and 1 / sqrt(var + eps), in the dtype of x.

    Generated where a kernel fits; those slices whose squares left the range are taken by `_moments`.
    """
    affine = None if scale is None or shift is None else (scale, shift)
    made = around.standardize(x, axis, eps, affine)
    # A recorder can guard that the squares are finite; with a usual eps they are not too small either.
    sure = made is not None and eps > 1e-12 and around.expect_finite(made[1])
    lost = np.ones((), bool) if made is None else _lost(made[1])
    if made is not None and (sure or not lost.any()):
        roots = around.chain((made[1],), (("rsqrt", (0,)),))
        return made[0], 1 / np.sqrt(made[1]) if roots is None else roots[0]
    y, inverse, factor = _moments(x, axis, eps)
    y *= inverse
    if affine is not None:
        sizes = [n if k in axis else 1 for k, n in enumerate(x.shape)]
        y = y * affine[0].reshape(sizes) + affine[1].reshape(sizes)
    inverse = inverse * factor
    return (y, inverse) if made is None else (np.where(lost, y, made[0]), np.where(lost, inverse, 1 / np.sqrt(made[1])))


def _standardize(x: Array, *, axis: AxisTuple, eps: float) -> Array:
    return narrow(standardized_lines(exactly(x), axis, eps)[0], x)


def _inverse_deviation(x: Array, *, axis: AxisTuple, eps: float) -> Array:
    return narrow(standardized_lines(exactly(x), axis, eps)[1], x)


def _inverse_deviation_rule(g: Any, ans: Any, x: Any, *, axis: AxisTuple, eps: float) -> Any:
    # s = (v + eps)^(-1/2), dv/dx = 2 (x - mean) / count:  ds/dx = -s^3 (x - mean) / count = -s^2 standardize(x) / count
    slope = multiply(square(ans), -1.0 / _count(x.shape, axis))
    return multiply(multiply(g, slope), _standardize_op(x, axis=axis, eps=eps))


_inverse_deviation_op = primitive("inverse_deviation", _inverse_deviation, [_inverse_deviation_rule], saves=("ans", 0))


def standardize_gradient(g: Value, x: Value, axis: AxisTuple, eps: float) -> Value:
    """The gradient of `standardize` at x, as operations."""
    return _standardize_rule(g, None, x, axis=axis, eps=float(eps))


def _standardize_rule(g: Any, ans: Any, x: Any, *, axis: AxisTuple, eps: float) -> Value:
    # s (g - mean(g) - y mean(g y)) with y = standardize(x), s = 1 / sqrt(var(x) + eps)
    dtype = x.dtype
    if ans is None or dtype.itemsize == 2:
        g, x = _exact(g), _exact(x)
        ans = _standardize_op(x, axis=axis, eps=eps)
    s = _inverse_deviation_op(x, axis=axis, eps=eps)
    if not (isinstance(g, Tensor) or isinstance(ans, Tensor) or isinstance(s, Tensor)):
        made = around.standardize_gradient(g, ans, s, axis)
        if made is not None:
            return astype(made, dtype)
    along = multiply(ans, mean(multiply(g, ans), axis, keepdims=True))
    return astype(multiply(s, subtract(subtract(g, mean(g, axis, keepdims=True)), along)), dtype)


_standardize_op: Primitive = primitive("standardize", _standardize, [_standardize_rule], saves=("ans", 0))


def standardize(x: Operand, axis: Axes, eps: float = 1e-5) -> Value:
    """(x - mean(x)) / sqrt(var(x) + eps) over the axes.

    Raises: OptionError for a negative eps.
    """
    x = operand(x, "x")
    eps = number_of(eps, "standardize: eps")
    if eps < 0:
        raise OptionError(f"standardize: eps must not be negative, got {eps}")
    return _standardize_op(x, axis=axes_of(axis, x.ndim, "standardize"), eps=float(eps))
