"""Operands for a case: small integers whose sums are exact in the dtype, or random reals.

An integer result is exact in any order of summation, fused or not, while every partial sum stays within 2**p, p the bits
of the significand (24 for float32, 53 float64, 11 float16, 8 bfloat16). With T the largest number of products that any
element sums, and values up to a in magnitude, T*a*a + |bias| <= 2**p does it: `amplitude` solves that for a. Where even
a = 1 is too much (long sums, narrow dtypes) entries are set to zero until the row sums of magnitudes keep the bound.
"""

from __future__ import annotations

from math import isqrt, prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from preimage.audit.case import Case

__all__ = ["EPSILON", "PRECISION", "amplitude", "dtype_of", "integers", "lay_out", "reals"]

Array = NDArray[Any]

#: Bits of the significand: integers up to 2**p in magnitude are exact.
PRECISION = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}
#: Unit roundoff: half the distance from 1 to the next number.
EPSILON = {name: 2.0**-bits for name, bits in PRECISION.items()}
_LARGEST = 100

LAYOUTS = ("contiguous", "channels_last", "strided", "reversed", "fortran", "offset", "inner", "idle")
#: What stands in for the strides of axes of one position, which say nothing (layout "idle"): the first axis gets the first.
IDLE_STRIDES = (-8, 10**9, 0, 4, 10**6, -(10**9), 64)


def dtype_of(name: str) -> np.dtype[Any]:
    """The NumPy dtype of that name, bfloat16 included (from ml_dtypes)."""
    if name == "bfloat16":
        import ml_dtypes

        narrow: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return narrow
    return np.dtype(name)


def amplitude(terms: int, bits: int) -> int:
    """The largest a with terms*a*a + a <= 2**bits, at most 100; 0 where not even a = 1 keeps it."""
    bound = 1 << bits
    a = min(isqrt(bound // max(terms, 1)), _LARGEST)
    while a and terms * a * a + a > bound:
        a -= 1
    return a


def integers(
    case: Case,
    rng: np.random.Generator,
    bits: int,
    results: tuple[str, ...] = ("conv", "conv_transpose", "conv_weight_grad", "bias_grad"),
) -> tuple[Array, Array, Array]:
    """x, w, y of int64 for which every partial sum of the wanted results (and a bias up to a) is at most 2**bits."""
    terms = max((case.terms[r] for r in results), default=1)
    a = amplitude(terms, bits)
    x, w, y = (_nonzero_rich(rng, shape, max(a, 1)) for shape in (case.x_shape, case.w_shape, case.y_shape))
    if a == 0:
        _thin(case, rng, (1 << bits) - 1, x, w, y, results)
    return x, w, y


def _nonzero_rich(rng: np.random.Generator, shape: tuple[int, ...], a: int) -> Array:
    """Uniform in -a..a, with most of the zeros drawn again: a zero hides what it should show."""
    values = rng.integers(-a, a + 1, shape, dtype=np.int64)
    again = (values == 0) & (rng.random(shape) < 0.8)
    values[again] = rng.choice(np.array([-1, 1]), int(again.sum())) if a == 1 else rng.integers(1, a + 1, int(again.sum()))
    return values


def _thin(case: Case, rng: np.random.Generator, bound: int, x: Array, w: Array, y: Array, results: tuple[str, ...]) -> None:
    """Set entries to zero, in place, until the magnitudes that meet in one element sum to at most `bound`.

    With |x|, |w|, |y| <= 1: conv sums at most the non-zero weights of one small channel, conv_transpose those of one
    large channel, and the other two at most the non-zero entries of one small channel over batch and space.
    """
    if "conv" in results:
        for o in range(case.out_channels):
            _keep(rng, w[o].reshape(-1), bound)
    if "conv_transpose" in results:
        grouped = w.reshape(case.groups, case.group_out, case.group_in, prod(case.kernel_size))
        for g in range(case.groups):
            for i in range(case.group_in):
                column = grouped[g, :, i].reshape(-1).copy()
                _keep(rng, column, bound)
                grouped[g, :, i] = column.reshape(grouped[g, :, i].shape)
    if "conv_weight_grad" in results or "bias_grad" in results:
        for o in range(case.out_channels):
            column = y[:, o].reshape(-1).copy()
            _keep(rng, column, bound)
            y[:, o] = column.reshape(y[:, o].shape)
    del x


def _keep(rng: np.random.Generator, flat: Array, most: int) -> None:
    where = np.flatnonzero(flat)
    if where.size > most:
        flat[rng.choice(where, where.size - most, replace=False)] = 0


def reals(case: Case, rng: np.random.Generator, dtype: str, kind: str = "normal") -> tuple[Array, Array, Array]:
    """x, w, y as random reals of the dtype: normal, all positive, or with magnitudes over ten binary orders."""
    made = []
    for shape in (case.x_shape, case.w_shape, case.y_shape):
        values = rng.standard_normal(shape)
        if kind == "positive":
            values = np.abs(values) + 0.1
        elif kind == "spread":
            values = values * 2.0 ** rng.integers(-5, 6, shape)
        made.append(values.astype(dtype_of(dtype)))
    return made[0], made[1], made[2]


def lay_out(a: Array, layout: str) -> Array:
    """The same values in another memory: as views that no plain layout fits. Filler between them is NaN."""
    if layout == "channels_last" and a.ndim > 2:
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)
    if layout == "fortran":
        return np.asfortranarray(a)
    filler: Any = np.nan if a.dtype.kind not in "iu" else 0
    if layout == "strided" and a.ndim:
        wide = np.full((*a.shape[:-1], 2 * a.shape[-1] + 1), filler, a.dtype)
        wide[..., 1 : 2 * a.shape[-1] : 2] = a
        return wide[..., 1 : 2 * a.shape[-1] : 2]
    if layout == "inner" and a.ndim:
        wide = np.full(tuple(n + 3 for n in a.shape), filler, a.dtype)
        cut = tuple(slice(1, 1 + n) for n in a.shape)
        wide[cut] = a
        return wide[cut]
    if layout == "reversed":
        cut = (slice(None, None, -1),) * a.ndim
        return np.ascontiguousarray(a[cut])[cut]
    if layout == "idle":
        a = np.ascontiguousarray(a)
        strides = [
            IDLE_STRIDES[k % len(IDLE_STRIDES)] if n == 1 else s for k, (n, s) in enumerate(zip(a.shape, a.strides, strict=True))
        ]
        return as_strided(a, a.shape, strides)
    if layout == "offset":
        flat = np.full(a.size + 1, filler, a.dtype)
        flat[1:] = a.reshape(-1)
        return flat[1:].reshape(a.shape)
    return np.ascontiguousarray(a)
