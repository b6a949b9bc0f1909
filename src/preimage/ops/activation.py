"""Activation functions: pointwise, without overflow or cancellation, NaN staying NaN.

At a kink the gradient is the one from the left (relu'(0) = 0), as in PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from preimage.autograd import Tensor, array_of, primitive
from preimage.engines import around
from preimage.errors import OptionError, ShapeError
from preimage.ops.errorfunction import erf_values, normal_cdf_values
from preimage.ops.layout import laid_out
from preimage.ops.operands import Array, operand, operands
from preimage.ops.pointwise import (
    abs,
    add,
    clip,
    clipped,
    divide,
    exp,
    generated,
    multiply,
    negative,
    select,
    square,
    subtract,
    unary,
)  # fmt: skip
from preimage.ops.shape import reshape

__all__ = [
    "celu", "elu", "erf", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log_sigmoid", "mish", "normal_cdf",
    "prelu", "relu", "relu6", "selu", "sigmoid", "silu", "softplus", "softsign", "tanh",
]  # fmt: skip


# -- piecewise linear --------------------------------------------------------------------------------------------------


def _relu(x: Array) -> Array:
    made = around.pointwise("relu", x)
    return np.asarray(np.maximum(x, np.zeros((), x.dtype))) if made is None else made


def _leaky_relu(x: Array, *, slope: float) -> Array:
    made = around.pointwise("leaky_relu", x, numbers=(slope,), passes=2)
    if made is not None:
        return made
    scaled = x * x.dtype.type(slope)
    return np.asarray(np.maximum(x, scaled) if 0 < slope <= 1 else np.where(x > 0, x, scaled))


def _gated(g: Any, gate: Array, slope: float) -> Any:
    """g where the gate is above 0, else slope * g: in one pass, if it need not be recorded."""
    if not isinstance(g, Tensor):
        steps = (("if_positive", (0, 1, 2)),) if not slope else (("mul", (1, 2)), ("if_positive", (0, 1, 3)))
        made = around.chain((gate, g), steps, (slope,))
        if made is not None:
            return made[0]
    return select(gate > 0, g, multiply(g, slope) if slope else 0.0)


def _hardtanh(x: Array, *, lo: float, hi: float) -> Array:
    made = clipped(x, lo, hi)
    return np.asarray(np.clip(x, x.dtype.type(lo), x.dtype.type(hi))) if made is None else made


_LINE = (("mul", (0, 1)), ("add", (5, 2)), ("clip", (6, 3, 4)))
_LINE_NUMBERS = (1 / 6, 0.5, 0.0, 1.0)  # hardsigmoid's own


def _hardsigmoid(x: Array, *, alpha: float, beta: float) -> Array:
    made = around.chain((x,), _LINE, (alpha, beta, 0.0, 1.0))
    if made is not None:
        return made[0]
    return np.asarray(np.clip(x * x.dtype.type(alpha) + x.dtype.type(beta), x.dtype.type(0), x.dtype.type(1)))


_relu_op = primitive(
    "relu",
    _relu,
    [lambda g, ans, x: _gated(g, array_of(ans), 0.0)],
    saves=("ans",),
)

_leaky_relu_op = primitive(
    "leaky_relu",
    unary(_leaky_relu),
    [lambda g, ans, x, slope: _gated(g, array_of(x), slope)],
    saves=(0,),
)

_hardtanh_op = primitive(
    "hardtanh",
    unary(_hardtanh),
    [lambda g, ans, x, lo, hi: select((array_of(x) > lo) & (array_of(x) < hi), g, 0.0)],
    saves=(0,),
)

_hardsigmoid_op = primitive(
    "hardsigmoid",
    unary(_hardsigmoid),
    [lambda g, ans, x, alpha, beta: select((array_of(ans) > 0) & (array_of(ans) < 1), multiply(g, alpha), 0.0)],
    saves=("ans",),
)


def relu(x: Any) -> Any:
    """max(x, 0). Gradient: 1 where x > 0, else 0."""
    return _relu_op(operand(x, "x"))


def leaky_relu(x: Any, slope: float = 0.01) -> Any:
    """x where x > 0, else slope * x."""
    return _leaky_relu_op(operand(x, "x"), slope=float(slope))


@laid_out
def prelu(x: Any, weight: Any) -> Any:
    """x where x > 0, else weight * x, with one weight for all or one per channel (axis 1 of x, or the last by `layout`).

    Raises: ShapeError for another number of weights.
    """
    x, weight = operands("prelu", x, weight)
    channels = x.shape[1] if x.ndim > 1 else 1
    if weight.size != 1 and weight.shape != (channels,):
        raise ShapeError(f"prelu: weight has shape {weight.shape}, wanted (1,) or ({channels},): one per channel of x")
    per_channel = reshape(weight, () if weight.size == 1 else (channels, *([1] * (x.ndim - 2))))
    return select(array_of(x) > 0, x, multiply(x, per_channel))


def hardtanh(x: Any, lo: float = -1.0, hi: float = 1.0) -> Any:
    """x held between lo and hi. Gradient: 1 strictly inside, else 0 (`clip` counts the bounds in).

    Raises: OptionError where lo > hi.
    """
    if lo > hi:
        raise OptionError(f"hardtanh: lo {lo} is above hi {hi}")
    return _hardtanh_op(operand(x, "x"), lo=float(lo), hi=float(hi))


def relu6(x: Any) -> Any:
    """min(max(x, 0), 6)."""
    return hardtanh(x, 0.0, 6.0)


def hardsigmoid(x: Any, alpha: float = 1 / 6, beta: float = 0.5) -> Any:
    """alpha * x + beta held between 0 and 1 (PyTorch's alpha; ONNX's is 0.2 unless the file says otherwise)."""
    return _hardsigmoid_op(operand(x, "x"), alpha=float(alpha), beta=float(beta))


def hardswish(x: Any) -> Any:
    """x * hardsigmoid(x)."""
    if isinstance(x, np.ndarray):
        made = around.chain((x,), (*_LINE, ("mul", (0, 7))), _LINE_NUMBERS)
        if made is not None:
            return made[0]
    return multiply(x, hardsigmoid(x))


# -- smooth ------------------------------------------------------------------------------------------------------------


def _sigmoid_values(x: Array) -> Array:
    """e / (1 + e) or 1 / (1 + e) with e = exp(-|x|), which cannot overflow."""
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, e.dtype.type(1), e) / (1 + e))


_sigmoid = generated("sigmoid", _sigmoid_values)
_tanh = generated("tanh", np.tanh)


def _softplus(x: Array, *, beta: float) -> Array:
    scaled = x if beta == 1 else x * x.dtype.type(beta)
    value = np.maximum(scaled, x.dtype.type(0)) + np.log1p(np.exp(-np.abs(scaled)))
    return np.asarray(value if beta == 1 else value / x.dtype.type(beta))


_sigmoid_op = primitive(
    "sigmoid", unary(_sigmoid), [lambda g, ans, x: multiply(g, multiply(ans, subtract(1.0, ans)))], saves=("ans",)
)
_tanh_op = primitive("tanh", unary(_tanh), [lambda g, ans, x: multiply(g, subtract(1.0, square(ans)))], saves=("ans",))
_softplus_op = primitive(
    "softplus", unary(_softplus), [lambda g, ans, x, beta: multiply(g, sigmoid(multiply(x, beta)))], saves=(0,)
)


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)), relatively exact on the left too."""
    return _sigmoid_op(operand(x, "x"))


def log_sigmoid(x: Any) -> Any:
    """log(sigmoid(x)) = -softplus(-x)."""
    return negative(softplus(negative(x)))


def tanh(x: Any) -> Any:
    """The hyperbolic tangent."""
    return _tanh_op(operand(x, "x"))


def softplus(x: Any, beta: float = 1.0) -> Any:
    """log(1 + exp(beta x)) / beta, without overflow.

    Raises: OptionError for beta = 0.
    """
    if not beta:
        raise OptionError("softplus: beta must not be 0")
    return _softplus_op(operand(x, "x"), beta=float(beta))


def softsign(x: Any) -> Any:
    """x / (1 + |x|)."""
    return divide(x, add(abs(x), 1.0))


# elu' = 1 for x > 0, else alpha exp(x) = elu(x) + alpha: written with the answer, so no exponential can overflow.
_elu_op = primitive(
    "elu",
    unary(lambda x, alpha: np.where(x > 0, x, x.dtype.type(alpha) * np.expm1(np.minimum(x, x.dtype.type(0))))),
    [lambda g, ans, x, alpha: select(array_of(x) > 0, g, multiply(g, add(ans, alpha)))],
    saves=("ans", 0),
)


def elu(x: Any, alpha: float = 1.0) -> Any:
    """x where x > 0, else alpha (exp(x) - 1)."""
    return _elu_op(operand(x, "x"), alpha=float(alpha))


def selu(x: Any) -> Any:
    """The scaled elu whose activations keep mean 0 and variance 1 (Klambauer et al. 2017, equation 2)."""
    return multiply(elu(x, 1.6732632423543772), 1.0507009873554805)


def celu(x: Any, alpha: float = 1.0) -> Any:
    """x where x > 0, else alpha (exp(x / alpha) - 1): smooth at 0 for every alpha.

    Raises: OptionError for alpha = 0.
    """
    if not alpha:
        raise OptionError("celu: alpha must not be 0")
    return multiply(elu(divide(x, alpha)), alpha)


def _silu(x: Array) -> Array:
    made = around.chain((x,), (("sigmoid", (0,)), ("mul", (0, 1)))) if x.size else None
    return np.asarray(x * _sigmoid(x)) if made is None else made[0]


_silu_op = primitive(
    "silu",
    unary(_silu),
    [lambda g, ans, x: multiply(g, _silu_slope(x, sigmoid(x)))],
    saves=(0,),
)


def _silu_slope(x: Any, s: Any) -> Any:
    return multiply(s, add(multiply(x, subtract(1.0, s)), 1.0))


def silu(x: Any) -> Any:
    """x * sigmoid(x), also called swish."""
    return _silu_op(operand(x, "x"))


def _mish_slope(x: Any) -> Any:
    t = tanh(softplus(x))
    return add(t, multiply(multiply(x, subtract(1.0, square(t))), sigmoid(x)))


_mish_op = primitive(
    "mish",
    unary(lambda x: x * _tanh(_softplus(x, beta=1.0))),
    [lambda g, ans, x: multiply(g, _mish_slope(x))],
    saves=(0,),
)


def mish(x: Any) -> Any:
    """x * tanh(softplus(x))."""
    return _mish_op(operand(x, "x"))


# -- the error function and gelu ---------------------------------------------------------------------------------------


def _bell(x: Any, height: float, width: float) -> Any:
    """height * exp(-width x^2)."""
    return multiply(exp(multiply(square(x), -width)), height)


_erf_op = primitive("erf", unary(erf_values), [lambda g, ans, x: multiply(g, _bell(x, 2 / math.sqrt(math.pi), 1.0))], saves=(0,))
_normal_cdf_op = primitive(
    "normal_cdf",
    unary(normal_cdf_values),
    [lambda g, ans, x: multiply(g, _bell(x, 1 / math.sqrt(2 * math.pi), 0.5))],
    saves=(0,),
)


def erf(x: Any) -> Any:
    """The error function, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
    return _erf_op(operand(x, "x"))


def normal_cdf(x: Any) -> Any:
    """The probability that a standard normal variable is at most x: (1 + erf(x / sqrt(2))) / 2."""
    return _normal_cdf_op(operand(x, "x"))


def _gelu(x: Array) -> Array:
    return x * normal_cdf_values(x)


def _gelu_slope(x: Any) -> Any:
    return add(normal_cdf(x), multiply(x, _bell(x, 1 / math.sqrt(2 * math.pi), 0.5)))


_TANH_SCALE, _TANH_CUBE = math.sqrt(2 / math.pi), 0.044715


def _gelu_tanh(x: Array) -> Array:
    inner = x * x
    inner *= x * x.dtype.type(_TANH_CUBE)
    inner += x
    inner *= x.dtype.type(_TANH_SCALE)
    # (1 + tanh(u)) / 2 = sigmoid(2 u), which does not cancel on the left
    return x * _sigmoid(2 * inner)


def _gelu_tanh_slope(x: Any) -> Any:
    # beyond |x| = 20 the sigmoid is flat to the last bit; held there, x^2 (1 + ..) cannot become infinity times 0
    held = clip(x, -20.0, 20.0)
    cubic = add(multiply(square(held), _TANH_CUBE), 1.0)
    s = sigmoid(multiply(multiply(held, cubic), 2 * _TANH_SCALE))
    inner_slope = add(multiply(square(held), 6 * _TANH_CUBE * _TANH_SCALE), 2 * _TANH_SCALE)
    return add(s, multiply(multiply(held, multiply(s, subtract(1.0, s))), inner_slope))


_gelu_op = primitive("gelu", unary(_gelu), [lambda g, ans, x: multiply(g, _gelu_slope(x))], saves=(0,))
_gelu_tanh_op = primitive("gelu_tanh", unary(_gelu_tanh), [lambda g, ans, x: multiply(g, _gelu_tanh_slope(x))], saves=(0,))

_GELU: dict[str, Callable[..., Any]] = {"none": _gelu_op, "tanh": _gelu_tanh_op}


def gelu(x: Any, approximate: str = "none") -> Any:
    """x times the probability that a standard normal variable is at most x; approximate="tanh" is the usual formula with tanh.

    Raises: OptionError for another approximation.
    """
    if not isinstance(approximate, str) or approximate not in _GELU:
        raise OptionError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    return _GELU[approximate](operand(x, "x"))
