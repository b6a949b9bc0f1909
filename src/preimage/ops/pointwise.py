"""Pointwise arithmetic: each output element depends on one element of each argument; shapes broadcast as in NumPy.

A gradient with respect to an argument that was broadcast is summed over the axes of the broadcast (`match`). The result's
dtype is the arguments'; narrow floats are computed in float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsFloat, cast

import numpy as np

from preimage.autograd import Tensor, array_of, primitive
from preimage.autograd.device_arrays import DeviceArray
from preimage.autograd.traced import TracedArray
from preimage.engines import around
from preimage.errors import DTypeError, OptionError
from preimage.ops.broadcast import match, widely
from preimage.ops.elementwise import Elementwise, Symbol, beside, binary, exact, fused, generated, unary, unary_with
from preimage.ops.operands import Array, broadcast_shape, narrow, number_of, operand, operands, regular, widened
from preimage.typing import Condition, Operand, Value

__all__ = [
    "abs", "add", "clip", "cos", "divide", "exp", "expm1", "log", "log1p", "maximum", "minimum", "multiply", "negative",
    "power", "reciprocal", "rsqrt", "select", "sign", "sin", "sqrt", "square", "subtract", "where",
]  # fmt: skip


# -- arithmetic --------------------------------------------------------------------------------------------------------

_add_op = primitive(
    "add",
    exact("add", np.add, 2),
    [lambda g, ans, a, b: match(g, a), lambda g, ans, a, b: match(g, b)],
    saves=(),
)

_subtract_op = primitive(
    "subtract",
    exact("sub", np.subtract, 2),
    [lambda g, ans, a, b: match(g, a), lambda g, ans, a, b: match(negative(g), b)],
    saves=(),
)

_multiply_op = primitive(
    "multiply",
    exact("mul", np.multiply, 2),
    widely([lambda g, ans, a, b: match(multiply(g, b), a), lambda g, ans, a, b: match(multiply(g, a), b)]),
    saves=(0, 1),
    linear=(0, 1),
)

_quotient_slope = fused(lambda g, ans, b: negative(divide(multiply(g, ans), b)))

_divide_op = primitive(
    "divide",
    exact("div", np.true_divide, 2),
    widely(
        [
            lambda g, ans, a, b: match(divide(g, b), a),
            lambda g, ans, a, b: match(_quotient_slope(g, ans, b), b),
        ]
    ),
    saves=("ans", 1),
    linear=(0,),
)

_negative_op = primitive("negative", exact("neg", np.negative), [lambda g, ans, x: negative(g)], saves=(), linear=(0,))


def add(a: Operand, b: Operand) -> Value:
    """a + b, shapes broadcast. Gradient: the cotangent, summed over what was broadcast."""
    return binary("add", a, b, _add_op)


def subtract(a: Operand, b: Operand) -> Value:
    """a - b, shapes broadcast."""
    return binary("subtract", a, b, _subtract_op)


def multiply(a: Operand, b: Operand) -> Value:
    """a * b element by element, shapes broadcast."""
    return binary("multiply", a, b, _multiply_op)


def divide(a: Operand, b: Operand) -> Value:
    """a / b element by element, shapes broadcast; a division by zero gives what IEEE 754 says."""
    return binary("divide", a, b, _divide_op)


def negative(x: Operand) -> Value:
    """-x."""
    return unary(_negative_op, x)


# -- powers, exponentials, roots ---------------------------------------------------------------------------------------

_exp_op = primitive("exp", generated("exp", np.exp), [lambda g, ans, x: multiply(g, ans)], saves=("ans",))
# Rules are written so that neither end of the domain meets 0 * infinity or a difference that cancels, and in an order in which no
# product on the way overflows where the gradient does not.
_expm1_op = primitive("expm1", generated("expm1", np.expm1), widely([fused(lambda g, ans, x: multiply(g, exp(x)))]), saves=(0,))
_log_op = primitive("log", generated("log", np.log), widely([lambda g, ans, x: divide(g, x)]), saves=(0,))
_log1p_op = primitive(
    "log1p", generated("log1p", np.log1p), widely([fused(lambda g, ans, x: divide(g, add(x, 1.0)))]), saves=(0,)
)
_sqrt_op = primitive(
    "sqrt", exact("sqrt", np.sqrt), widely([fused(lambda g, ans, x: divide(multiply(g, 0.5), ans))]), saves=("ans",)
)
_square_op = primitive(
    "square", exact("square", np.square), widely([fused(lambda g, ans, x: multiply(multiply(g, x), 2.0))]), saves=(0,)
)
_reciprocal_op = primitive(
    "reciprocal",
    exact("reciprocal", np.reciprocal),
    widely([fused(lambda g, ans, x: negative(multiply(multiply(g, ans), ans)))]),
    saves=("ans",),
)
_rsqrt_op = primitive(
    "rsqrt",
    exact("rsqrt", lambda x: 1 / np.sqrt(x)),
    widely([fused(lambda g, ans, x: multiply(divide(multiply(g, ans), x), -0.5))]),
    saves=("ans", 0),
)
_sin_op = primitive("sin", generated("sin", np.sin), widely([fused(lambda g, ans, x: multiply(g, cos(x)))]), saves=(0,))
_cos_op = primitive("cos", generated("cos", np.cos), widely([fused(lambda g, ans, x: negative(multiply(g, sin(x))))]), saves=(0,))


def exp(x: Operand) -> Value:
    """e to the x."""
    return unary(_exp_op, x)


def expm1(x: Operand) -> Value:
    """exp(x) - 1, exact near zero."""
    return unary(_expm1_op, x)


def log(x: Operand) -> Value:
    """The natural logarithm: -infinity at 0, NaN below."""
    return unary(_log_op, x)


def log1p(x: Operand) -> Value:
    """log(1 + x), exact near zero."""
    return unary(_log1p_op, x)


def sqrt(x: Operand) -> Value:
    """The square root. Gradient: g / (2 sqrt(x)), infinite at 0."""
    return unary(_sqrt_op, x)


def rsqrt(x: Operand) -> Value:
    """1 / sqrt(x)."""
    return unary(_rsqrt_op, x)


def square(x: Operand) -> Value:
    """x * x."""
    return unary(_square_op, x)


def reciprocal(x: Operand) -> Value:
    """1 / x."""
    return unary(_reciprocal_op, x)


def sin(x: Operand) -> Value:
    """The sine, x in radians."""
    return unary(_sin_op, x)


def cos(x: Operand) -> Value:
    """The cosine, x in radians."""
    return unary(_cos_op, x)


def _power_number_rule(g: Any, ans: Any, x: Any, *, exponent: float) -> Any:
    return _power_slope(g, x, exponent=exponent) if exponent else nothing(g)


@fused
def _power_slope(g: Any, x: Any, *, exponent: float) -> Any:
    return multiply(multiply(g, power(x, exponent - 1)), exponent)


_power_number_op = primitive(
    "power_number",
    Elementwise("power", lambda x, exponent: np.power(x, x.dtype.type(exponent)), ("exponent",)),
    widely([_power_number_rule]),
    saves=(0,),
)


def _power_base_rule(g: Any, ans: Any, a: Any, b: Any) -> Any:
    """b a^(b-1); 0 where a factor of it is and the other infinite: 0 to the 0, and where an infinite exponent leaves 0."""
    x, y = np.abs(array_of(a)), array_of(b)
    none = ((x == 0) & (y == 0)) | (np.isinf(y) & ((x < 1) == (y > 0)) & (x != 1))
    slope = power(select(none, 1.0, a), subtract(b, 1.0)) if none.any() else power(a, subtract(b, 1.0))
    return match(multiply(g, multiply(select(none, 0.0, b), slope)), a)


def _power_exponent_rule(g: Any, ans: Any, a: Any, b: Any) -> Any:
    """a^b log(a); 0 where a^b is, and where 0 meets an exponent of 0."""
    value = power(a, b)
    none = (array_of(value) == 0) | ((array_of(a) == 0) & (array_of(b) == 0))
    return match(multiply(g, multiply(value, log(select(none, 1.0, a)))), b)


_power_op = primitive("power", generated("power", np.power, 2), widely([_power_base_rule, _power_exponent_rule]), saves=(0, 1))


def power(a: Operand, b: Operand) -> Value:
    """a to the b. A plain number b is the usual, cheap case; an array or Tensor b broadcasts and has a gradient.

    Gradient: b a^(b-1) and a^b log(a); both 0 where the power is constant (b = 0; a = 0 with b >= 0).
    """
    if not isinstance(b, Tensor | np.ndarray | np.generic | list | tuple):
        try:
            exponent = float(cast(SupportsFloat, b))
        except (TypeError, ValueError):
            raise DTypeError(f"power: the exponent must be a number, an array or a Tensor, got {type(b).__name__}") from None
        a = a if isinstance(a, Symbol) else operand(a, "a")
        if exponent == 2:
            return unary(_square_op, a)
        return a if exponent == 1 else unary_with(_power_number_op, a, exponent=exponent)
    return binary("power", a, b, _power_op)


# -- choosing: the gradient goes where the value came from -------------------------------------------------------------


_chosen = Elementwise("where", np.where, arrays=3, exact=True, mask=True)


def _select(a: Array, b: Array, *, condition: Array) -> Array:
    return _chosen(condition, a, b) if a.dtype == b.dtype else np.where(condition, a, b)


_select_op = primitive(
    "select",
    _select,
    [
        lambda g, ans, a, b, condition: match(select(condition, g, 0.0), a),
        lambda g, ans, a, b, condition: match(select(condition, 0.0, g), b),
    ],
    saves=(),
)


def select(condition: Any, a: Any, b: Any) -> Value:
    """`where` for a boolean array that is known to be one."""
    made: Any
    if type(condition) is Symbol:
        made = _chosen.then(condition, a, b)
        return cast(Value, made)
    if (
        type(condition) is np.ndarray
        and (both := beside(a, b)) is not None
        and (made := _chosen.again(condition, *both)) is not None
    ):
        return cast(Value, made)
    a, b = operands("where", a, b)
    broadcast_shape("where", condition.shape, a.shape, b.shape)
    if isinstance(condition, TracedArray) and not (isinstance(a, Tensor) or isinstance(b, Tensor)):
        return cast(Value, np.where(condition, a, b))  # of which the condition's writer is told
    return _select_op(a, b, condition=condition)


def where(condition: Condition, a: Operand, b: Operand) -> Value:
    """a where the condition holds, else b; all three broadcast. The condition is a boolean array (constant).

    Raises: DTypeError for a condition that is not boolean.
    """
    chosen = regular(array_of(condition))
    if chosen.dtype != np.bool_:
        raise DTypeError(f"where: the condition must be boolean, got {chosen.dtype}; compare, e.g. x > 0")
    # A mask of the caller's may be changed before the gradient needs it.
    return select(chosen.copy() if isinstance(a, Tensor) or isinstance(b, Tensor) else chosen, a, b)


def nothing(g: Value) -> Value:
    """The cotangent of what does not depend on its argument: 0, also where g is infinite."""
    return select(np.zeros(g.shape, bool), g, 0.0)


@fused
def _taken(g: Any, ans: Any, a: Any, b: Any, *, first: bool, largest: bool) -> Any:
    x, y, best = array_of(a), array_of(b), array_of(ans)
    mine = x if first else y
    hit = mine >= best if largest else mine <= best
    taken = select(mine >= mine, select(hit, g, 0.0), g)
    return select((x >= y) & (x <= y), multiply(taken, 0.5), taken)


def _extremum_rule(first: bool, largest: bool) -> Callable[..., Any]:
    """Where both are equal each gets half, as in torch. NaN is the answer of both; the gradient goes to the NaN."""
    return lambda g, ans, a, b: match(_taken(g, ans, a, b, first=first, largest=largest), a if first else b)


_maximum_op = primitive(
    "maximum", exact("maximum", np.maximum, 2), [_extremum_rule(True, True), _extremum_rule(False, True)], saves=("ans", 0, 1)
)
_minimum_op = primitive(
    "minimum", exact("minimum", np.minimum, 2), [_extremum_rule(True, False), _extremum_rule(False, False)], saves=("ans", 0, 1)
)


def maximum(a: Operand, b: Operand) -> Value:
    """The larger of a and b, element by element; NaN if either is. Gradient: to the larger, halved where they are equal."""
    return binary("maximum", a, b, _maximum_op)


def minimum(a: Operand, b: Operand) -> Value:
    """The smaller of a and b, element by element; NaN if either is. Gradient: to the smaller, halved where they are equal."""
    return binary("minimum", a, b, _minimum_op)


def _clip_in_numpy(x: Array, lo: float | None, hi: float | None) -> Array:
    return np.asarray(np.clip(x, lo, hi)).astype(x.dtype, copy=False)


#: By which bounds there are.
_HELD = {
    (True, True): Elementwise("clip", _clip_in_numpy, ("lo", "hi"), exact=True),
    (True, False): Elementwise("maximum", _clip_in_numpy, ("lo",), exact=True),
    (False, True): Elementwise("minimum", _clip_in_numpy, ("hi",), exact=True),
}


class _Clip:
    """x held between bounds that may be None: the forward function of `clip`."""

    is_silent = True

    def again(self, x: Array, *, lo: float | None, hi: float | None) -> Array | None:
        held = _HELD.get((lo is not None, hi is not None))
        return None if held is None else held.again(x, lo=lo, hi=hi)

    def then(self, x: Symbol, *, lo: float | None, hi: float | None) -> Symbol:
        return _HELD[lo is not None, hi is not None].then(x, lo=lo, hi=hi)

    def __call__(self, x: Array, *, lo: float | None, hi: float | None) -> Array:
        if lo is None and hi is None:
            return x.copy()
        if lo != lo or hi != hi:  # NaN: NumPy gives NaN everywhere
            with np.errstate(all="ignore"):
                return narrow(_clip_in_numpy(widened(x), lo, hi), x)
        return _HELD[lo is not None, hi is not None](x, lo=lo, hi=hi)


def _clip_rule(g: Value, ans: Value, x: Value, lo: float | None, hi: float | None) -> Value:
    if isinstance(array_of(x), DeviceArray):
        return within_on_device(g, x, lo, hi)
    return _passed(g, None, x, lo=lo, hi=hi) if not (lo is None and hi is None) else g


@fused
def _passed(g: Any, ans: Any, x: Any, *, lo: float | None, hi: float | None) -> Any:
    value = array_of(x)
    inside = value >= lo if lo is not None else value <= hi
    return select(inside & (value <= hi) if lo is not None and hi is not None else inside, g, 0.0)


def within_on_device(g: Value, x: Value, lo: float | None, hi: float | None, ends: bool = True) -> Value:
    """g where lo <= x <= hi (without the ends: lo < x < hi), else 0; as 0 where x is NaN. For arrays on a GPU, whose gradients are not recorded."""
    x, made = array_of(x), array_of(g)
    # operands x and g, numbers 0 and 1 and a bound: 4; a step's value: 5, 6, 7
    steps: tuple[tuple[str, tuple[int, ...]], ...]
    for bound, high in ((lo, False), (hi, True)):
        if bound is not None and ends:  # 0 where x is beyond; |x| + 1 is positive unless x is NaN
            beyond = ("sub", (0, 4) if high else (4, 0))
            steps = (beyond, ("if_positive", (5, 2, 1)), ("abs", (0,)), ("add", (7, 3)), ("if_positive", (8, 6, 2)))
        elif bound is not None:
            steps = (("sub", (4, 0) if high else (0, 4)), ("if_positive", (5, 1, 2)))
        else:
            continue
        (made,) = around.chain_on_device((x, made), steps, (0.0, 1.0, bound), None)
    return made


_clip_op = primitive(
    "clip",
    _Clip(),
    [_clip_rule],
    saves=(0,),
)


def clip(x: Operand, lo: float | None = None, hi: float | None = None) -> Value:
    """x held between the numbers lo and hi (None: no bound); NaN stays NaN. Gradient: passes for lo <= x <= hi.

    Raises: OptionError where lo > hi.
    """
    lo = None if lo is None else number_of(lo, "clip: lo")
    hi = None if hi is None else number_of(hi, "clip: hi")
    if lo is not None and hi is not None and lo > hi:
        raise OptionError(f"clip: lo {lo:g} is above hi {hi:g}")
    return unary_with(_clip_op, x, lo=lo, hi=hi)


_sign_op = primitive("sign", exact("sign", np.sign), [lambda g, ans, x: nothing(g)], saves=())
_abs_op = primitive("abs", exact("abs", np.abs), [fused(lambda g, ans, x: multiply(g, sign(array_of(x))))], saves=(0,))


def sign(x: Operand) -> Value:
    """-1, 0 or 1. Gradient: 0."""
    return unary(_sign_op, x)


def abs(x: Operand) -> Value:
    """The absolute value. Gradient: the sign (0 at 0)."""
    return unary(_abs_op, x)
