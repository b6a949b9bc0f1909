"""How sums are taken beside the contractions: the dtype they are kept in, and what becomes of one that overflows on its way.

16-bit floats are summed in float64, where sums of thousands of them are exact, and rounded once at the end: such a sum or mean is the
exact one, rounded, in whatever order it was taken. float32 and float64 are summed in the contract's order (`engines/sums.py`), for any
axes, layout and number of threads. A sum whose partial sums overflow while it does not itself is taken again of fractions (a power of
two, so no digit is lost).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from preimage.engines import around
from preimage.engines.base import accumulator_dtype
from preimage.ops.operands import Array

__all__ = ["dot", "exactly", "mean_of", "sum_dtype", "total"]


def sum_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that sums are kept in. Raises: DTypeError for anything but the four float types."""
    return np.dtype(np.float64) if dtype.itemsize == 2 else accumulator_dtype(dtype)


def exactly(x: Array) -> Array:
    """The array in the dtype that its sums are kept in."""
    return x if x.dtype.itemsize > 2 else x.astype(sum_dtype(x.dtype))


def _summed(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    made = around.sum_over(exactly(x), axis)
    return made.reshape([1 if k in axis else n for k, n in enumerate(x.shape)]) if keepdims else made


def _again(x: Array, axis: tuple[int, ...], keepdims: bool, found: Array, divisor: float) -> Array:
    """`found`, the sums over the divisor, with those that are not finite taken from fractions of the terms."""
    count = math.prod(x.shape[k] for k in axis)
    if count < 2 or around.expect_finite(found) or np.isfinite(found).all():
        return found
    part = 2.0 ** -math.ceil(math.log2(count))
    with np.errstate(all="ignore"):
        smaller = _by("div", _by("div", _summed(_by("mul", exactly(x), part), axis, keepdims), divisor), part)
        made = around.mixed((found, smaller), _IF_FINITE, found.dtype, found.dtype, (math.inf,)) if around.records() else None
        return np.where(np.isfinite(found), found, smaller) if made is None else made


#: Of two arrays and infinity: the first where it is finite, else the second.
_IF_FINITE = (("abs", (0,)), ("less", (3, 2)), ("where", (4, 0, 1)))


def _by(word: str, x: Array, number: float) -> Array:
    """x times ("mul") or over ("div") a number of its dtype."""
    made = around.pointwise(word, x, numbers=(number,)) if around.records() else None
    if made is not None:
        return made
    return np.asarray(x * x.dtype.type(number) if word == "mul" else x / x.dtype.type(number))


def total(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    """The sum over the axes, in `sum_dtype`."""
    return _again(x, axis, keepdims, _summed(x, axis, keepdims), 1.0)


def mean_of(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    """The mean over the axes, in `sum_dtype`: finite wherever all elements are; NaN over none."""
    found = _summed(x, axis, keepdims)
    count = float(math.prod(x.shape[k] for k in axis))
    quotient = around.pointwise("div", found, numbers=(count,)) if around.records() else None
    with np.errstate(all="ignore"):
        quotient = np.asarray(found / found.dtype.type(count)) if quotient is None else quotient
        return _again(x, axis, keepdims, quotient, count)


@np.errstate(all="ignore")
def dot(a: Array, b: Array) -> float:
    """The sum of the products of two arrays of one shape, elements in row-major order: without BLAS, whose threads no setting binds."""
    return float(around.sum_over(exactly(a * b).reshape(1, -1), (1,))[0])
