"""Activation functions of the kind x f(x), whose f rises from 0 to 1: silu, mish, gelu, hardswish.

Where f is 0 or 1 to the last bit, x is held: their limits at -infinity and the limits of their slopes are 0, not 0 times infinity.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from preimage.autograd import Primitive, array_of, primitive
from preimage.engines import around
from preimage.errors import OptionError
from preimage.ops.activation import (
    HARDSIGMOID_NUMBERS,
    bell,
    hardsigmoid_values,
    normal_cdf,
    sigmoid,
    sigmoid_slope,
    sigmoid_values,
    softplus,
    softplus_values,
    tanh,
    tanh_values,
)  # fmt: skip
from preimage.ops.broadcast import widely
from preimage.ops.errorfunction import normal_cdf_values
from preimage.ops.one_pass import in_one_pass
from preimage.ops.operands import Array, operand
from preimage.ops.pointwise import add, clip, generated, multiply, negative, select, square, unary
from preimage.typing import Operand, Value

__all__ = ["gelu", "hardswish", "mish", "silu"]


#: The steps of hardsigmoid, with one number more behind its own; then x held, and the product.
_SWISH = (("mul", (0, 1)), ("add", (6, 2)), ("clip", (7, 3, 4)), ("maximum", (0, 5)), ("mul", (9, 8)))


def _hardswish(x: Array) -> Array:
    """x is held at -3, where the other factor reaches 0, so that no infinity meets it."""
    made = around.chain((x,), _SWISH, (*HARDSIGMOID_NUMBERS, -3.0))
    if made is not None:
        return made[0]
    return np.asarray(
        np.maximum(x, x.dtype.type(-3)) * hardsigmoid_values(x, alpha=HARDSIGMOID_NUMBERS[0], beta=HARDSIGMOID_NUMBERS[1])
    )


def _hardswish_rule(g: Any, ans: Any, x: Any) -> Any:
    value = array_of(x)
    inside = select((value <= -3) | (value >= 3), 0.0, multiply(g, add(multiply(clip(x, -3.0, 3.0), 1 / 3), 0.5)))
    return select(value >= 3, g, inside)


def _hardswish_steps(do: Any, g: Any, x: Any) -> Any:
    slope = do("add", do("mul", do("clip", x, -3.0, 3.0), 1 / 3), 0.5)
    inside = do("where", do("or", do("less_equal", x, -3.0), do("greater_equal", x, 3.0)), 0.0, do("mul", g, slope))
    return do("where", do("greater_equal", x, 3.0), g, inside)


_hardswish_op = primitive("hardswish", unary(_hardswish), widely([in_one_pass(_hardswish_steps, _hardswish_rule)]), saves=(0,))


def hardswish(x: Operand) -> Value:
    """x * hardsigmoid(x): 0 below -3, x above 3."""
    return _hardswish_op(operand(x, "x"))


# Functions x f(x) whose f is 0 or 1 to the last bit long before 1000, or FLAT: x is held there, so that no infinity meets the 0 of f or of its
# slope. 0 at -infinity, as their limits are.
HELD, FLAT = 1000.0, 50.0


def _above(x: Array, low: float) -> Array:
    return np.asarray(np.maximum(x, x.dtype.type(-low)))


_silu = generated("silu", lambda x: _above(x, HELD) * sigmoid_values(x))


def _silu_slope(x: Value) -> Value:
    return multiply(sigmoid(x), add(multiply(x, sigmoid(negative(x))), 1.0))


def _silu_steps(do: Any, g: Any, x: Any) -> Any:
    x = do("clip", x, -HELD, HELD)
    left = do("sigmoid", x)
    return do("mul", g, do("mul", left, do("add", do("mul", x, do("sigmoid", do("neg", x))), 1.0)))


_silu_op = primitive(
    "silu",
    unary(_silu),
    widely([in_one_pass(_silu_steps, lambda g, ans, x: multiply(g, _silu_slope(clip(x, -HELD, HELD))))]),
    saves=(0,),
)


def silu(x: Operand) -> Value:
    """x * sigmoid(x), also called swish."""
    return _silu_op(operand(x, "x"))


def _mish_slope(x: Value) -> Value:
    p = softplus(x)
    return add(tanh(p), multiply(multiply(x, multiply(sigmoid_slope(multiply(p, 2.0)), 4.0)), sigmoid(x)))


def _mish_steps(do: Any, g: Any, x: Any) -> Any:
    x = do("clip", x, -HELD, HELD)
    p = do("softplus", x)
    first, twice = do("tanh", p), do("mul", p, 2.0)
    slope = do("mul", do("mul", do("sigmoid", twice), do("sigmoid", do("neg", twice))), 4.0)
    return do("mul", g, do("add", first, do("mul", do("mul", x, slope), do("sigmoid", x))))


_mish_op = primitive(
    "mish",
    unary(generated("mish", lambda x: _above(x, HELD) * tanh_values(softplus_values(x, beta=1.0)))),
    widely([in_one_pass(_mish_steps, lambda g, ans, x: multiply(g, _mish_slope(clip(x, -HELD, HELD))))]),
    saves=(0,),
)


def mish(x: Operand) -> Value:
    """x * tanh(softplus(x))."""
    return _mish_op(operand(x, "x"))


_gelu = generated("gelu", lambda x: _above(x, FLAT) * normal_cdf_values(x))


def _gelu_slope(x: Value) -> Value:
    return add(normal_cdf(x), multiply(x, bell(x, 1 / math.sqrt(2 * math.pi), 0.5)))


_TANH_SCALE, _TANH_CUBE = math.sqrt(2 / math.pi), 0.044715


def _gelu_tanh_in_numpy(x: Array) -> Array:
    inner = x * x
    inner *= x * x.dtype.type(_TANH_CUBE)
    inner += x
    inner *= x.dtype.type(_TANH_SCALE)
    # (1 + tanh(u)) / 2 = sigmoid(2 u), which does not cancel on the left
    return _above(x, FLAT) * sigmoid_values(2 * inner)


_gelu_tanh = generated("gelu_tanh", _gelu_tanh_in_numpy)


def _gelu_tanh_slope(x: Value) -> Value:
    held = clip(x, -FLAT, FLAT)  # x^2 (1 + ..) cannot become infinity times 0
    cubic = add(multiply(square(held), _TANH_CUBE), 1.0)
    inner = multiply(multiply(held, cubic), 2 * _TANH_SCALE)
    s = sigmoid(inner)
    inner_slope = add(multiply(square(held), 6 * _TANH_CUBE * _TANH_SCALE), 2 * _TANH_SCALE)
    return add(s, multiply(multiply(held, multiply(s, sigmoid(negative(inner)))), inner_slope))


def _gelu_steps(do: Any, g: Any, x: Any) -> Any:
    x = do("clip", x, -FLAT, FLAT)
    bell = do("mul", do("exp", do("mul", do("square", x), -0.5)), 1 / math.sqrt(2 * math.pi))
    return do("mul", g, do("add", do("normal_cdf", x), do("mul", x, bell)))


def _gelu_tanh_steps(do: Any, g: Any, x: Any) -> Any:
    x = do("clip", x, -FLAT, FLAT)
    square = do("square", x)
    inner = do("mul", do("mul", x, do("add", do("mul", square, _TANH_CUBE), 1.0)), 2 * _TANH_SCALE)
    left = do("sigmoid", inner)
    slope = do("add", do("mul", square, 6 * _TANH_CUBE * _TANH_SCALE), 2 * _TANH_SCALE)
    right = do("mul", do("mul", x, do("mul", left, do("sigmoid", do("neg", inner)))), slope)
    return do("mul", g, do("add", left, right))


_gelu_op = primitive(
    "gelu",
    unary(_gelu),
    widely([in_one_pass(_gelu_steps, lambda g, ans, x: multiply(g, _gelu_slope(clip(x, -FLAT, FLAT))))]),
    saves=(0,),
)
_gelu_tanh_op = primitive(
    "gelu_tanh",
    unary(_gelu_tanh),
    widely([in_one_pass(_gelu_tanh_steps, lambda g, ans, x: multiply(g, _gelu_tanh_slope(x)))]),
    saves=(0,),
)

_GELU: dict[str, Primitive] = {"none": _gelu_op, "tanh": _gelu_tanh_op}


def gelu(x: Operand, approximate: Literal["none", "tanh"] = "none") -> Value:
    """x times the probability that a standard normal variable is at most x; approximate="tanh" is the usual formula with tanh.

    Raises: OptionError for another approximation.
    """
    if not isinstance(approximate, str) or approximate not in _GELU:
        raise OptionError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    return _GELU[approximate](operand(x, "x"))
