"""The tangent, the hyperbolic functions, and the inverses of these and of sine and cosine, element by element, under NumPy's names.

Their values come from generated kernels at every size (`engines/ir/inverse_functions.py`), so that they have the same bits on every CPU
and in every memory order. Sine and cosine lie in `pointwise`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage.autograd import primitive
from preimage.ops.broadcast import widely
from preimage.ops.elementwise import fused, generated, unary
from preimage.ops.pointwise import abs as absolute
from preimage.ops.pointwise import add, divide, maximum, multiply, negative, sqrt, square, subtract
from preimage.typing import Operand, Value

__all__ = ["arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctanh", "cosh", "sinh", "tan"]


def _one_less_square(x: Any) -> Any:
    """1 - x^2, as exact near 1 as x itself."""
    return multiply(subtract(1.0, x), add(1.0, x))


def _root_of_one_and_square(x: Any) -> Any:
    """sqrt(1 + x^2), by numbers that do not overflow."""
    scale = maximum(absolute(x), 1.0)
    return multiply(scale, sqrt(add(square(divide(1.0, scale)), square(divide(x, scale)))))


_tan_op = primitive(
    "tan", generated("tan", np.tan), widely([fused(lambda g, ans, x: multiply(g, add(square(ans), 1.0)))]), saves=("ans",)
)
_arcsin_op = primitive(
    "arcsin", generated("asin", np.arcsin), widely([fused(lambda g, ans, x: divide(g, sqrt(_one_less_square(x))))]), saves=(0,)
)
_arccos_op = primitive(
    "arccos",
    generated("acos", np.arccos),
    widely([fused(lambda g, ans, x: negative(divide(g, sqrt(_one_less_square(x)))))]),
    saves=(0,),
)
_arctan_op = primitive(
    "arctan", generated("atan", np.arctan), widely([fused(lambda g, ans, x: divide(g, add(square(x), 1.0)))]), saves=(0,)
)
_sinh_op = primitive("sinh", generated("sinh", np.sinh), widely([fused(lambda g, ans, x: multiply(g, cosh(x)))]), saves=(0,))
_cosh_op = primitive("cosh", generated("cosh", np.cosh), widely([fused(lambda g, ans, x: multiply(g, sinh(x)))]), saves=(0,))
_arcsinh_op = primitive(
    "arcsinh",
    generated("asinh", np.arcsinh),
    widely([fused(lambda g, ans, x: divide(g, _root_of_one_and_square(x)))]),
    saves=(0,),
)
_arccosh_op = primitive(
    "arccosh",
    generated("acosh", np.arccosh),
    widely([fused(lambda g, ans, x: divide(divide(g, sqrt(subtract(x, 1.0))), sqrt(add(x, 1.0))))]),
    saves=(0,),
)
_arctanh_op = primitive(
    "arctanh", generated("atanh", np.arctanh), widely([fused(lambda g, ans, x: divide(g, _one_less_square(x)))]), saves=(0,)
)


def tan(x: Operand) -> Value:
    """The tangent, x in radians."""
    return unary(_tan_op, x)


def arcsin(x: Operand) -> Value:
    """The angle in [-pi/2, pi/2] whose sine is x; NaN beyond -1 and 1. Gradient: infinite at -1 and 1."""
    return unary(_arcsin_op, x)


def arccos(x: Operand) -> Value:
    """The angle in [0, pi] whose cosine is x; NaN beyond -1 and 1. Gradient: infinite at -1 and 1."""
    return unary(_arccos_op, x)


def arctan(x: Operand) -> Value:
    """The angle in [-pi/2, pi/2] whose tangent is x."""
    return unary(_arctan_op, x)


def sinh(x: Operand) -> Value:
    """The hyperbolic sine, exact near zero."""
    return unary(_sinh_op, x)


def cosh(x: Operand) -> Value:
    """The hyperbolic cosine."""
    return unary(_cosh_op, x)


def arcsinh(x: Operand) -> Value:
    """The number whose hyperbolic sine is x."""
    return unary(_arcsinh_op, x)


def arccosh(x: Operand) -> Value:
    """The number from 0 on whose hyperbolic cosine is x; NaN below 1. Gradient: infinite at 1."""
    return unary(_arccosh_op, x)


def arctanh(x: Operand) -> Value:
    """The number whose hyperbolic tangent is x; infinite at -1 and 1, NaN beyond."""
    return unary(_arctanh_op, x)
