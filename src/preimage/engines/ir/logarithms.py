"""log, log1p and powers on vectors, with the same bits on every CPU (fused multiply-adds and divisions alone).

    x = 2^k m,  sqrt(1/2) <= m < sqrt(2),  f = m - 1
    f32    log(1 + f) = f - f^2 / 2 + f^3 P(f)
    f64    log(1 + f) = f - (f^2 / 2 - s (f^2 / 2 + z R(z))),  s = f / (2 + f),  z = s^2
    log(x)   = k log 2 + log(1 + f);   log1p(x): of u = 1 + x as rounded, what was rounded off added as c / u
    x^y      = exp(y log |x|):  f32 in f64; f64 with log |x| as a sum of two numbers (_log_of_two)

P and R are Chebyshev fits (mpmath.chebyfit, 50 digits) whose errors are 5e-9 and 2e-20. Zero gives -infinity, what lies below NaN.
"""

from __future__ import annotations

import math as numbers

from preimage.engines.ir import math
from preimage.engines.ir.builder import Bit, Kernel, Num
from preimage.engines.ir.words import DIGITS, Word, converted, floor, mirrored, number_like

__all__ = ["log", "log1p", "power"]

# fmt: off
_P = (
    -0.062029578009928839834, 0.10532691842409669728, -0.1064654970951048952, 0.11037549650958263335, -0.12450675430910384682,
    0.14286533060100600016, -0.16668004341955115592, 0.20000009954217906117, -0.24999990247994667244, 0.3333333328130374309,
)
_R = (
    0.11882627381096523646, 0.11688054094268660697, 0.13335641774000266863, 0.15384575060560597387, 0.18181818594570470279,
    0.22222222219852462983, 0.2857142857143538007, 0.39999999999999992474, 0.66666666666666666668,
)
#: (R(z) - 2/3) / z
_R_LESS = (
    0.11723603622905411647, 0.11706195689881364835, 0.13334806212100603652, 0.15384594934597916688, 0.18181818335654159468,
    0.22222222221654732568, 0.28571428571429368119, 0.39999999999999999817,
)
# fmt: on
#: sqrt(1/2) as bits, and log 2 in two parts of which k times the first is exact.
_HALF_ROOT = {"f32": 0x3F3504F3, "f64": 0x3FE6A09E667F3BCD}
_LOG_2 = {"f32": (0.693145751953125, 1.42860682030941723212e-6), "f64": (0.69314718036912381649, 1.9082149292705877e-10)}
_LEAST = {"f32": 2.0**-126, "f64": 2.0**-1022}
_LIFT = {"f32": 25, "f64": 54}


def _split(f: Kernel, x: Num) -> tuple[Num, Num]:
    """k and m of a positive number; denormal ones are lifted first."""
    digits, bias = DIGITS[x.dtype]
    small = x.is_below(number_like(x, _LEAST[x.dtype]))
    x = small.select(x * number_like(x, 2.0 ** _LIFT[x.dtype]), x)
    bits = Word.of(x)
    above = bits - (_HALF_ROOT[x.dtype] - (bias << digits))
    exponent = above >> digits  # k + bias
    m = (bits - ((exponent - bias) << digits)).as_float()
    offset = 2.0**digits  # an integer in the lowest digits of this number is that number more
    wide = (exponent | Word.of(number_like(x, offset))).as_float()
    lifted = small.select(number_like(x, offset + bias + _LIFT[x.dtype]), number_like(x, offset + bias))
    return wide - lifted, m


def _joined(x: Num, k: Num, t: Num, c: Num | None) -> Num:
    """k log 2 + log(1 + t) + c."""
    high, low = _LOG_2[x.dtype]
    rest = k * number_like(x, low)
    if c is not None:
        rest = rest + c
    square = t * t
    if x.dtype == "f32":
        rest = (t * square).fma(math.polynomial(x.kernel, _P, t), rest)
        return k.fma(number_like(x, high), t + square.fma(number_like(x, -0.5), rest))
    half = square * number_like(x, 0.5)
    s = t / (t + number_like(x, 2.0))
    z = s * s
    inner = s.fma(z.fma(math.polynomial(x.kernel, _R, z), half), rest)
    return k.fma(number_like(x, high), t - (half - inner))


def _ends(x: Num, value: Num, zero: Num) -> Num:
    """-infinity where `zero` (x, or 1 + x) is 0, NaN below it, x itself for infinity and NaN."""
    f, dtype, lanes = x.kernel, x.dtype, x.lanes
    value = zero.is_equal(f.zeros(dtype, lanes)).select(number_like(x, float("-inf")), value)
    value = zero.is_below(f.zeros(dtype, lanes)).select(number_like(x, float("nan")), value)
    held: Num = (zero.is_equal(number_like(x, float("inf"))) | x.is_nan()).select(x, value)
    return held


def log(f: Kernel, x: Num) -> Num:
    """The natural logarithm."""
    k, m = _split(f, x)
    return _ends(x, _joined(x, k, m - number_like(x, 1.0), None), x)


def log1p(f: Kernel, x: Num) -> Num:
    """log(1 + x), exact near 0."""
    one = number_like(x, 1.0)
    u = one + x
    back = u - one
    lost = (one - (u - back)) + (x - back)
    k, m = _split(f, u)
    whole = k.is_equal(f.zeros(x.dtype, x.lanes))
    t = whole.select(x, m - one)
    c = whole.select(f.zeros(x.dtype, x.lanes), lost / u)
    return _ends(x, _joined(x, k, t, c).with_sign_of(x), u)


# -- powers ------------------------------------------------------------------------------------------------------------


def power(f: Kernel, x: Num, y: Num) -> Num:
    """x to the y, with the special values of C's pow: 1 for y = 0 and x = 1, NaN for x < 0 where y is no integer."""
    one, zero = number_like(x, 1.0), f.zeros(x.dtype, x.lanes)
    size = x.absolute()
    if x.dtype == "f32":
        wide = math.exp(f, converted(y, "f64") * log(f, converted(size, "f64")))
        value = converted(wide, "f32")
    else:
        value = _exp_of_product(f, y, size)
    whole = floor(y).is_equal(y)
    half = y * number_like(x, 0.5)
    odd = whole.but_not(floor(half).is_equal(half))
    value = odd.select(value.with_sign_of(x), value)
    value = (
        x.is_below(zero).but_not(whole | size.is_equal(number_like(x, float("inf")))).select(number_like(x, float("nan")), value)
    )
    endless = y.absolute().is_equal(number_like(x, float("inf"))) & size.is_equal(one)
    certain: Bit = y.is_equal(zero) | x.is_equal(one) | endless
    kept: Num = certain.select(one, value)
    return kept


def _sum_of(a: Num, b: Num) -> tuple[Num, Num]:
    """a + b as rounded, and what was rounded off, where |a| >= |b| or a is 0."""
    s = a + b
    return s, b - (s - a)


def _log_of_two(f: Kernel, size: Num) -> tuple[Num, Num]:
    """log of a positive number as a sum of two, to 2^-66 of it."""
    k, m = _split(f, size)
    t = m - number_like(size, 1.0)
    below = t + number_like(size, 2.0)
    rest_below = t - (below - number_like(size, 2.0))
    s = t / below
    s_low = (mirrored(s).fma(below, t) - s * rest_below) / below  # s + s_low = t / (2 + t)
    z = s * s
    z_low = s.fma(s, mirrored(z)) + (s + s) * s_low
    # 2 s + s (2/3 z + z^2 Q(z)): the first two terms as sums of two
    cubic = s * z
    cubic_low = s.fma(z, mirrored(cubic)) + s.fma(z_low, z * s_low)
    third, third_low = 2.0 / 3.0, 3.700743415417188e-17
    b = cubic * number_like(size, third)
    b_low = cubic.fma(number_like(size, third), mirrored(b)) + cubic.fma(
        number_like(size, third_low), cubic_low * number_like(size, third)
    )
    tail = (cubic * z) * math.polynomial(f, _R_LESS, z)
    high, low = _sum_of(s + s, b)
    low = low + ((s_low + s_low) + b_low) + tail
    log_high, log_low = math.LOG_2["f64"]
    whole = k * number_like(size, log_high)
    whole_low = k.fma(number_like(size, log_high), mirrored(whole)) + k * number_like(size, log_low)
    top, top_low = _sum_of(whole, high)  # k = 0, or the larger
    return _sum_of(top, top_low + (low + whole_low))


def _exp_of_product(f: Kernel, y: Num, size: Num) -> Num:
    """exp(y log(size)); of 0 and infinity, whose logarithms have no digits, by their logarithms alone."""
    high, low = _log_of_two(f, size)
    product = y * high
    rest = y.fma(high, mirrored(product)) + y * low
    limit = number_like(size, 800.0)
    rest = product.absolute().is_below(limit).select(rest, f.zeros(size.dtype, size.lanes))
    plain = (
        size.is_nan()
        | product.is_nan()
        | size.is_equal(f.zeros(size.dtype, size.lanes))
        | size.is_equal(number_like(size, numbers.inf))
    )
    product = plain.select(y * _ends(size, high, size), product)
    rest = plain.select(f.zeros(size.dtype, size.lanes), rest)
    return math.exp(f, product, rest)
