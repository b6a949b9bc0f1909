"""The error function and the normal distribution function, to the last bits, in NumPy alone.

    erf(x)  = x P(x^2)                              |x| < 1
    erfc(x) = exp(-x^2) / x * R((x - 3) / (x + 3))  x >= 1;  erf(x) = sign(x) (1 - erfc(|x|))

P and R are Chebyshev fits (mpmath.chebyfit, 40 digits, to 2e-18 and 1e-17; the short ones to 1e-10, for float32). Float32 is
evaluated in float64 with the short ones and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from preimage.engines.ir.error_coefficients import FAR, NEAR
from preimage.ops.operands import Array

__all__ = ["erf_values", "normal_cdf_values"]

# fmt: off
_P_SHORT = (
    -9.667044571486996415e-6, 0.0001126595902560660897, -0.0008484080405535106294, 0.005221031807858022797,
    -0.02686543072767024289, 0.1128378249523684454, -0.376126384680287104, 1.128379167061543415,
)
_R_SHORT = (
    0.00005114059336896621065, -0.00007171770867938193394, -0.0004041689197573584746, 0.001235946919045136247,
    0.0009091474471553822839, -0.01401829054694093318, 0.04635042474096808646, -0.09546989746522758476,
    0.1398805398768081567, -0.1465830429679590742, 0.09530622710055359201, 0.5370034535163637269,
)
# fmt: on

#: Elements that are worked on at a time: all temporaries stay in a core's cache.
BLOCK = 8192


def _horner(coefficients: tuple[float, ...], t: Array) -> Array:
    value = np.full_like(t, coefficients[0])
    for c in coefficients[1:]:
        value *= t
        value += c
    return value


def _erfc_tail(x: Array, short: bool) -> Array:
    """erfc for x >= 1 (0 where it underflows). x^2 is split, so that its rounding does not enter the exponential."""
    x = np.minimum(x, 28.0)
    high = x.astype(np.float32).astype(np.float64)
    decay = np.exp(-high * high)
    if not short:
        decay *= np.exp((high - x) * (high + x))
    decay /= x
    decay *= _horner(_R_SHORT if short else FAR, (x - 3.0) / (x + 3.0))
    return decay


def _erf(x: Array, short: bool) -> Array:
    near = np.abs(x) < 1
    result = np.empty_like(x)
    middle = x[near]
    result[near] = middle * _horner(_P_SHORT if short else NEAR, middle * middle)
    far = ~near
    tail = x[far]
    result[far] = np.copysign(1.0 - _erfc_tail(np.abs(tail), short), tail)
    return result


def _normal_cdf(x: Array, short: bool) -> Array:
    z = x * np.sqrt(0.5)
    near = np.abs(z) < 1
    result = np.empty_like(x)
    middle = z[near]
    result[near] = 0.5 + 0.5 * middle * _horner(_P_SHORT if short else NEAR, middle * middle)
    far = ~near
    tail = z[far]
    half = 0.5 * _erfc_tail(np.abs(tail), short)
    result[far] = np.where(tail > 0, 1.0 - half, half)
    return result


def _blocked(function: Callable[[Array, bool], Array]) -> Callable[[Array], Array]:
    def values(x: Array) -> Array:
        short = x.dtype.itemsize < 8
        flat = np.ravel(x)
        out = np.empty(flat.shape, x.dtype)
        with np.errstate(all="ignore"):
            for start in range(0, flat.size, BLOCK):
                block: Any = flat[start : start + BLOCK].astype(np.float64)
                out[start : start + BLOCK] = function(block, short)
        out[np.isnan(flat)] = np.nan
        return out.reshape(x.shape)

    return values


#: erf of every element, in the dtype of the array (float32 or float64).
erf_values = _blocked(_erf)
#: The probability that a standard normal variable is at most x, small in relative terms on the left.
normal_cdf_values = _blocked(_normal_cdf)
