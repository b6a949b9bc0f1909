"""Activation functions of the kind x f(x), whose f rises from 0 to 1: silu, mish, gelu, hardswish.

Where f is 0 or 1 to the last bit, x is held: their limits at -infinity and the limits of their slopes are 0, not 0 times infinity.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from preimage.autograd import Primitive, array_of, primitive
from preimage.errors import OptionError
from preimage.ops.activation import (
    HARDSIGMOID_NUMBERS,
    bell,
    hardsigmoid_in_numpy,
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
from preimage.ops.elementwise import Elementwise, fused, generated, unary
from preimage.ops.errorfunction import normal_cdf_values
from preimage.ops.operands import Array
from preimage.ops.pointwise import add, clip, multiply, negative, select, square
from preimage.typing import Operand, Value

__all__ = ["gelu", "hardswish", "mish", "silu"]


#: The steps of hardsigmoid, with one number more behind its own; then x held, and the product.
_SWISH = (("mul", (0, 1)), ("add", (6, 2)), ("clip", (7, 3, 4)), ("maximum", (0, 5)), ("mul", (9, 8)))


#: x is held at -3, where the other factor reaches 0, so that no infinity meets it.
_hardswish = Elementwise(
    _SWISH,
    lambda x: np.maximum(x, x.dtype.type(-3)) * hardsigmoid_in_numpy(x, HARDSIGMOID_NUMBERS[0], HARDSIGMOID_NUMBERS[1]),
    (*HARDSIGMOID_NUMBERS, -3.0),
    exact=True,
)


@fused
def _hardswish_rule(g: Any, ans: Any, x: Any) -> Any:
    value = array_of(x)
    inside = select((value <= -3) | (value >= 3), 0.0, multiply(g, add(multiply(clip(x, -3.0, 3.0), 1 / 3), 0.5)))
    return select(value >= 3, g, inside)


_hardswish_op = primitive("hardswish", _hardswish, widely([_hardswish_rule]), saves=(0,))


def hardswish(x: Operand) -> Value:
    """x * hardsigmoid(x): 0 below -3, x above 3."""
    return unary(_hardswish_op, x)


# Functions x f(x) whose f is 0 or 1 to the last bit long before 1000, or FLAT: x is held there, so that no infinity meets the 0 of f or of its
# slope. 0 at -infinity, as their limits are.
HELD, FLAT = 1000.0, 50.0


def _above(x: Array, low: float) -> Array:
    return np.asarray(np.maximum(x, x.dtype.type(-low)))


_silu = generated("silu", lambda x: _above(x, HELD) * sigmoid_values(x))


_silu_op = primitive(
    "silu",
    _silu,
    widely([fused(lambda g, ans, x: multiply(g, _silu_slope(clip(x, -HELD, HELD))))]),
    saves=(0,),
)


def _silu_slope(x: Value) -> Value:
    return multiply(sigmoid(x), add(multiply(x, sigmoid(negative(x))), 1.0))


def silu(x: Operand) -> Value:
    """x * sigmoid(x), also called swish."""
    return unary(_silu_op, x)


def _mish_slope(x: Value) -> Value:
    p = softplus(x)
    return add(tanh(p), multiply(multiply(x, multiply(sigmoid_slope(multiply(p, 2.0)), 4.0)), sigmoid(x)))


_mish_op = primitive(
    "mish",
    generated("mish", lambda x: _above(x, HELD) * tanh_values(softplus_values(x, beta=1.0))),
    widely([fused(lambda g, ans, x: multiply(g, _mish_slope(clip(x, -HELD, HELD))))]),
    saves=(0,),
)


def mish(x: Operand) -> Value:
    """x * tanh(softplus(x))."""
    return unary(_mish_op, x)


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


_gelu_op = primitive("gelu", _gelu, widely([fused(lambda g, ans, x: multiply(g, _gelu_slope(clip(x, -FLAT, FLAT))))]), saves=(0,))
_gelu_tanh_op = primitive(
    "gelu_tanh", _gelu_tanh, widely([fused(lambda g, ans, x: multiply(g, _gelu_tanh_slope(x)))]), saves=(0,)
)

_GELU: dict[str, Primitive] = {"none": _gelu_op, "tanh": _gelu_tanh_op}


def gelu(x: Operand, approximate: Literal["none", "tanh"] = "none") -> Value:
    """x times the probability that a standard normal variable is at most x; approximate="tanh" is the usual formula with tanh.

    Raises: OptionError for another approximation.
    """
    if not isinstance(approximate, str) or approximate not in _GELU:
        raise OptionError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    return unary(_GELU[approximate], x)
