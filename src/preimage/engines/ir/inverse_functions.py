"""Hyperbolic functions, and the inverses of these and of sine, cosine and tangent, on vectors: the same bits on every CPU.

    atan(x)  = c + r + r z P(z),  z = r^2;   r = x, (x - 1) / (x + 1) or -1 / x with c = 0, pi/4 or pi/2, so that |r| <= tan(pi/8)
    asin(x)  = x + x z A(z),  z = x^2     |x| <= 1/2;   else pi/2 - 2 asin(sqrt((1 - |x|) / 2)), with the sign of x
    sinh(x)  = (t + t / (t + 1)) / 2,  t = expm1(|x|);   cosh(x) = (e + 1 / e) / 2,  e = exp(|x|)
    asinh(x) = log1p(|x| + x^2 / (1 + sqrt(1 + x^2)));   acosh(x) = log1p(t + sqrt(2 t + t^2)),  t = x - 1
    atanh(x) = log1p(2 |x| / (1 - |x|)) / 2

P and A are Chebyshev fits (mpmath.chebyfit, 50 digits) with errors of 1e-18. f32 is computed in f64 and rounded once. NumPy's own take
another way on every kind of vector unit and for strided arrays, with other bits.
"""

from __future__ import annotations

from collections.abc import Callable

from preimage.engines.ir import math
from preimage.engines.ir.builder import Kernel, Num
from preimage.engines.ir.logarithms import log1p
from preimage.engines.ir.words import converted, number_like

__all__ = ["FUNCTIONS"]

# fmt: off
_P = (
    0.01628567631408441548, -0.034570489305867750417, 0.045515903947593870723, -0.052304536511503346129, 0.058789289137216159515,
    -0.066664248784227761852, 0.076922963746248413369, -0.090909087534867898311, 0.11111111105155163475, -0.14285714285659824701,
    0.19999999999999804515, -0.33333333333333217,
)
_A = (
    0.02961201126495512036, -0.019241671746743040654, 0.019554513336123378949, 0.0030448799094556773959, 0.0093195607947674462957,
    0.0096218429701002810177, 0.011566459612121668568, 0.013963780012203569641, 0.017352816540325494994, 0.022372157443507222419,
    0.030381944475532339993, 0.044642857142551892902, 0.07500000000000117751, 0.16666666666666592,
)
# fmt: on
#: pi/2 and pi/4 as their nearest numbers and the rest.
_HALF_PI, _HALF_PI_REST = 1.5707963267948966, 6.123233995736766e-17
_TAN_EIGHTH, _TAN_THREE_EIGHTHS = 0.41421356237309503, 2.414213562373095
#: From here on exp(|x|) itself may overflow; below, its square root does not lose digits either.
_LARGE = 40.0
#: From here on x^2 may overflow, and 1 is nothing beside it.
_SQUARE_OVERFLOWS = 1e150
_LOG_2 = 0.6931471805599453


def _atan(f: Kernel, x: Num) -> Num:
    one, zero = number_like(x, 1.0), f.zeros(x.dtype, x.lanes)
    size = x.absolute()
    far, middle = size.is_above(number_like(x, _TAN_THREE_EIGHTHS)), size.is_above(number_like(x, _TAN_EIGHTH))
    above = far.select(number_like(x, -1.0), middle.select(size - one, size))
    below = far.select(size, middle.select(size + one, one))
    r = above / below
    z = r * r
    rest = far.select(number_like(x, _HALF_PI_REST), middle.select(number_like(x, _HALF_PI_REST / 2), zero))
    small = (r * z).fma(math.polynomial(f, _P, z), rest) + r
    base = far.select(number_like(x, _HALF_PI), middle.select(number_like(x, _HALF_PI / 2), zero))
    value: Num = (base + small).with_sign_of(x)
    return value


def _asin_of(f: Kernel, root: Num, square: Num) -> Num:
    """asin(root) for root <= 1/2."""
    return (root * square).fma(math.polynomial(f, _A, square), root)


def _halves(f: Kernel, x: Num) -> tuple[Num, Num]:
    """asin(|x|) where |x| <= 1/2, else acos(|x|) / 2; |x|. NaN beyond 1."""
    size, half = x.absolute(), number_like(x, 0.5)
    outer = size.is_above(half)
    square = outer.select((number_like(x, 1.0) - size) * half, size * size)
    root = outer.select(square.sqrt(), size)
    return _asin_of(f, root, square), size


def _asin(f: Kernel, x: Num) -> Num:
    found, size = _halves(f, x)
    far = number_like(x, _HALF_PI) - (found + found - number_like(x, _HALF_PI_REST))
    value: Num = size.is_above(number_like(x, 0.5)).select(far, found)
    return value.with_sign_of(x)


def _acos(f: Kernel, x: Num) -> Num:
    found, size = _halves(f, x)
    twice = found + found
    negative = x.is_below(f.zeros(x.dtype, x.lanes))
    far = negative.select(number_like(x, 2 * _HALF_PI) - (twice - number_like(x, 2 * _HALF_PI_REST)), twice)
    near = number_like(x, _HALF_PI) - (found.with_sign_of(x) - number_like(x, _HALF_PI_REST))
    value: Num = size.is_above(number_like(x, 0.5)).select(far, near)
    return value


def _sinh(f: Kernel, x: Num) -> Num:
    one, half, size = number_like(x, 1.0), number_like(x, 0.5), x.absolute()
    large = size.is_above(number_like(x, _LARGE))
    t = math.expm1(f, large.select(size * half, size))
    e = t + one
    value: Num = large.select(half * e * e, (t + t / e) * half)
    return value.with_sign_of(x)


def _cosh(f: Kernel, x: Num) -> Num:
    half, size = number_like(x, 0.5), x.absolute()
    large = size.is_above(number_like(x, _LARGE))
    e = math.exp(f, large.select(size * half, size))
    value: Num = large.select(half * e * e, half * e + half / e)
    return value


def _asinh(f: Kernel, x: Num) -> Num:
    one, size = number_like(x, 1.0), x.absolute()
    square = size * size
    return _log1p_or_large(f, size + square / (one + (one + square).sqrt()), size).with_sign_of(x)


def _acosh(f: Kernel, x: Num) -> Num:
    one = number_like(x, 1.0)
    t = x - one
    value = _log1p_or_large(f, t + (t + t + t * t).sqrt(), x)
    kept: Num = x.is_below(one).select(number_like(x, float("nan")), value)
    return kept


def _log1p_or_large(f: Kernel, inner: Num, x: Num) -> Num:
    """log1p(inner), or log(2 x) where x^2 may overflow."""
    large = x.is_above(number_like(x, _SQUARE_OVERFLOWS))
    value = log1p(f, large.select(x, inner))
    kept: Num = large.select(value + number_like(x, _LOG_2), value)
    return kept


def _atanh(f: Kernel, x: Num) -> Num:
    size = x.absolute()
    return (log1p(f, (size + size) / (number_like(x, 1.0) - size)) * number_like(x, 0.5)).with_sign_of(x)


def _in_f64(function: Callable[[Kernel, Num], Num]) -> Callable[[Kernel, Num], Num]:
    """NaN of NaN."""

    def value(f: Kernel, x: Num) -> Num:
        wide = converted(x, "f64")
        found = function(f, wide)
        kept: Num = wide.is_nan().select(wide, found)
        return converted(kept, x.dtype)

    return value


FUNCTIONS: dict[str, Callable[[Kernel, Num], Num]] = {
    name: _in_f64(function)
    for name, function in {
        "acos": _acos,
        "acosh": _acosh,
        "asin": _asin,
        "asinh": _asinh,
        "atan": _atan,
        "atanh": _atanh,
        "cosh": _cosh,
        "sinh": _sinh,
    }.items()
}
