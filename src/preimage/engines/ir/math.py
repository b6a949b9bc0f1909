"""exp, expm1, tanh and sigmoid on vectors: polynomials with fused multiply-adds, so that every CPU gives the same bits.

    exp(x)     = 2^n exp(r),  n = round(x / log 2),  r = x - n log 2;   exp(r) = 1 + r + r^2 Q(r)
    expm1(x)   = 2^n (r + r^2 Q(r)) + (2^n - 1)
    tanh(x)    = x + x z P(z),  z = x^2        |x| < 0.625;             else sign(x) (1 - 2 / (exp(2 |x|) + 1))
    sigmoid(x) = 1 / (1 + e) or e / (1 + e),  e = exp(-|x|)

Q and P are Chebyshev fits (mpmath.chebyfit, 40 digits) whose relative errors are 8e-9 and 7e-10 (f32), 2e-19 and 6e-20
(f64). NaN stays NaN, infinities go to their limits, results too small for a normal number are denormal, rounded once.
"""

from __future__ import annotations

from preimage.engines.ir.builder import Kernel, Num

__all__ = ["LOG_2", "exp", "expm1", "polynomial", "sigmoid", "tanh"]

_LOG2_E = 1.44269504088896340736
#: log 2 as its nearest number and the rest.
LOG_2 = {"f32": (0.6931471824645996, -1.9046542999577678785e-9), "f64": (0.6931471805599453, 2.3190468138462996155e-17)}
#: Beyond these exp is 0 or infinite; holding x there keeps n in the range of `times_power_of_two`.
_RANGE = {"f32": (-104.5, 89.5), "f64": (-746.0, 710.5)}
_SHIFT = {"f32": 1.5 * 2**23, "f64": 1.5 * 2**52}
# fmt: off
_Q = {
    "f32": (0.00139261763354, 0.008363173247, 0.0416665546608, 0.166665770246, 0.5),
    "f64": (
        2.0914679595617735113e-9, 2.5105206680681060213e-8, 2.7557273660822465681e-7, 2.7557255425009612854e-6,
        0.000024801587325533778562, 0.00019841269874801072764, 0.0013888888888883752298, 0.0083333333333261407179,
        0.041666666666666669752, 0.16666666666666670986, 0.5,
    ),
}
_P = {
    "f32": (0.00229274481618, -0.00834394551584, 0.021768918651, -0.0539592595772, 0.133333035569, -0.333333331721),
    "f64": (
        -2.4388316314720878041e-6, 0.000012209921790162781662, -0.000037081069215442333853, 0.000096041091570262659879,
        -0.00023888944636751173895, 0.0005899818158388232071, -0.0014558283998303245859, 0.0035921275075992522291,
        -0.0088632354998019925691, 0.021869488535133222007, -0.053968253968235901344, 0.13333333333333320761,
        -0.33333333333333333319,
    ),
}
# fmt: on
_NEAR = 0.625


def polynomial(f: Kernel, coefficients: tuple[float, ...], t: Num) -> Num:
    """Its value at t; the coefficient of the highest power first."""
    value = f.const(t.dtype, t.lanes, coefficients[0])
    for c in coefficients[1:]:
        value = value.fma(t, f.const(t.dtype, t.lanes, c))
    return value


def _reduced(f: Kernel, x: Num) -> tuple[Num, Num, Num]:
    """round(x / log 2), with 1.5 * 2^digits added and without, and what is left of x."""

    def number(value: float) -> Num:
        return f.const(x.dtype, x.lanes, value)

    shifted = x.fma(number(_LOG2_E), number(_SHIFT[x.dtype]))
    n = shifted - number(_SHIFT[x.dtype])
    high, low = LOG_2[x.dtype]
    return shifted, n, n.fma(number(-low), n.fma(number(-high), x))


def exp(f: Kernel, x: Num, rest: Num | None = None) -> Num:
    """e to the x; rest: what x leaves out of the exponent, far below its last digit."""

    def number(value: float) -> Num:
        return f.const(x.dtype, x.lanes, value)

    lo, hi = _RANGE[x.dtype]
    x = x.is_below(number(lo)).select(number(lo), x)
    x = x.is_above(number(hi)).select(number(hi), x)
    shifted, _, r = _reduced(f, x)
    q = polynomial(f, _Q[x.dtype], r)
    small = (r * r).fma(q, r)
    if rest is not None:
        small = small + small.fma(rest, rest)
    return (small + number(1.0)).times_power_of_two(shifted)


def expm1(f: Kernel, x: Num) -> Num:
    """e to the x, less 1: exact near 0."""

    def number(value: float) -> Num:
        return f.const(x.dtype, x.lanes, value)

    lo, hi, least = {"f32": (-30.0, 89.0, 2.0**-30), "f64": (-60.0, 710.0, 2.0**-60)}[x.dtype]
    held = x.is_below(number(lo)).select(number(lo), x)
    held = held.is_above(number(hi)).select(number(hi), held)
    shifted, _, r = _reduced(f, held)
    small = (r * r).fma(polynomial(f, _Q[x.dtype], r), r)
    half = number(0.5).times_power_of_two(shifted)  # 2^n itself may overflow where the result does not
    value = small.fma(half, half - number(0.5)) * number(2.0)
    near: Num = x.absolute().is_below(number(least)).select(x, value)
    return near


def sigmoid(f: Kernel, x: Num) -> Num:
    """1 / (1 + exp(-x)), relatively exact on the left too."""
    one = f.const(x.dtype, x.lanes, 1.0)
    e = exp(f, f.zeros(x.dtype, x.lanes) - x.absolute())
    top: Num = x.is_below(f.zeros(x.dtype, x.lanes)).select(e, one)
    return top / (one + e)


def tanh(f: Kernel, x: Num) -> Num:
    """The hyperbolic tangent."""
    one, two = f.const(x.dtype, x.lanes, 1.0), f.const(x.dtype, x.lanes, 2.0)
    size = x.absolute()
    z = x * x
    near = (x * z).fma(polynomial(f, _P[x.dtype], z), x)
    far = (one - two / (exp(f, size + size) + one)).with_sign_of(x)
    # NaN is not above the limit, so it takes the branch that keeps it
    value: Num = size.is_above(f.const(x.dtype, x.lanes, _NEAR)).select(far, near)
    return value.with_sign_of(x)
