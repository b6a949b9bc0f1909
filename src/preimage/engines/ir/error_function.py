"""The error function and the normal distribution function on vectors, with the same bits on every CPU.

    f32    erf(x)  = x + x A(x^2), |x| < 1;   sign(x) (1 - exp(B(|x|))), B = log erfc
           Phi(x)  = exp(-x^2 / 2) G(t) / (|x| + 3),  t = (|x| - 3) / (|x| + 3);   1 - that where x > 0
    f64    erf(x)  = x P(x^2), |x| < 1;       sign(x) (1 - erfc(|x|)),  erfc(x) = exp(-x^2) / x R((x - 3) / (x + 3))
           Phi(x)  = erfc(-x / sqrt(2)) / 2

Chebyshev fits (mpmath.chebyfit, 40 to 50 digits) to 2e-8 and better (f32), 2e-18 and 1e-17 (f64). Where the left tail of Phi is wanted in
relative terms, x^2 is split, so that its rounding does not enter the exponential.
"""

from __future__ import annotations

from preimage.engines.ir import math
from preimage.engines.ir.builder import Kernel, Num
from preimage.engines.ir.error_coefficients import FAR, NEAR
from preimage.engines.ir.words import mirrored, number_like

__all__ = ["erf", "normal_cdf"]

# fmt: off
_A = (
    0.000083797555817682237434, -0.00081619865400335107772, 0.0052045787787619085427, -0.026861699954947375087,
    0.11283753661630409823, -0.37612638376109975951,
)
_A_FIRST = (1.128379225730896, -5.863538342e-8)  # 2 / sqrt(pi) and what is left of it
_B = (
    1.6399380164806259094e-6, -0.000046112913906238152882, 0.00059726443314225286604, -0.0047617172358141055322,
    0.026427043772144179048, -0.11009019746356286557, -0.63181569958200887041, -1.1302392014174953394, 0.00032147102637958827465,
)
_G = (
    0.000055355966295437999524, 0.00013312590875052612842, -0.00024458266635030284105, -0.0010342220593040599616,
    0.0010241357110211652086, 0.0069698131313015088309, -0.010462293756020216735, -0.047262745275900215694, 0.23001767766349003359,
    -0.50933198954028234501, 0.72908369069624986858,
)
# fmt: on
_ROOT_HALF = (0.7071067811865476, -4.833646656726457e-17)


def _held(x: Num, most: float) -> Num:
    """At most so much; NaN stays."""
    held: Num = x.is_above(number_like(x, most)).select(number_like(x, most), x)
    return held


def erf(f: Kernel, x: Num) -> Num:
    """2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
    size, one = x.absolute(), number_like(x, 1.0)
    square = x * x
    if x.dtype == "f32":
        first, rest = _A_FIRST
        near = x.fma(number_like(x, first), x * square.fma(math.polynomial(f, _A, square), number_like(x, rest)))
        tail = math.exp(f, math.polynomial(f, _B, _held(size, 4.0)))
        far = one - tail
    else:
        near = x * math.polynomial(f, NEAR, square)
        far = one - _erfc_tail(f, size, None)
    # NaN is not above the limit, so it takes the branch that keeps it
    value: Num = size.is_above(one).select(far.with_sign_of(x), near)
    return value.with_sign_of(x)


def _erfc_tail(f: Kernel, size: Num, rest: Num | None) -> Num:
    """erfc in f64 for size >= 1 (0 where it underflows); rest: what size leaves out of its argument."""
    z = _held(size, 28.0)
    square = z * z
    left = z.fma(z, mirrored(square))
    if rest is not None:
        left = z.fma(rest + rest, left)
    decay = math.exp(f, mirrored(square), mirrored(left))
    three = number_like(size, 3.0)
    return decay * math.polynomial(f, FAR, (z - three) / (z + three)) / z


def normal_cdf(f: Kernel, x: Num) -> Num:
    """The probability that a standard normal variable is at most x."""
    one, half = number_like(x, 1.0), number_like(x, 0.5)
    zero = f.zeros(x.dtype, x.lanes)
    if x.dtype == "f32":
        size = _held(x.absolute(), 15.0)
        square = size * size
        left = size.fma(size, mirrored(square)) * number_like(x, -0.5)
        decay = math.exp(f, square * number_like(x, -0.5), left)
        three = number_like(x, 3.0)
        share = one / (size + three)
        low = decay * (math.polynomial(f, _G, (size - three) * share) * share)
        value: Num = x.is_above(zero).select(one - low, low)
        return value
    high, low_root = _ROOT_HALF
    x = _held(x.absolute(), 39.5).with_sign_of(x)
    z = x * number_like(x, high)
    rest = x.fma(number_like(x, low_root), x.fma(number_like(x, high), mirrored(z)))
    size = z.absolute()
    near = half + half * (z * math.polynomial(f, NEAR, z * z))
    tail = half * _erfc_tail(f, size, rest * number_like(x, 1.0).with_sign_of(z))
    far = x.is_above(zero).select(one - tail, tail)
    chosen: Num = size.is_above(one).select(far, near)
    return chosen
