"""Activation functions: pointwise, without overflow or cancellation, NaN staying NaN.

At a kink the gradient is the one from the left (relu'(0) = 0), as in PyTorch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from preimage.autograd import Tensor, array_of, primitive
from preimage.autograd.device_arrays import DeviceArray
from preimage.autograd.traced import whole
from preimage.engines import around
from preimage.errors import OptionError, ShapeError
from preimage.ops.broadcast import widely
from preimage.ops.errorfunction import erf_values, normal_cdf_values
from preimage.ops.layout import laid_out
from preimage.ops.one_pass import in_one_pass
from preimage.ops.operands import Array, number_of, operand, operands
from preimage.ops.pointwise import (
    abs,
    add,
    clipped,
    exp,
    generated,
    multiply,
    negative,
    reciprocal,
    select,
    square,
    unary,
    within_on_device,
)  # fmt: skip
from preimage.ops.shape import reshape
from preimage.typing import Operand, Value

__all__ = [
    "celu", "elu", "erf", "hardsigmoid", "hardtanh", "leaky_relu", "log_sigmoid", "normal_cdf", "prelu", "relu", "relu6", "selu",
    "sigmoid", "softplus", "softsign", "tanh",
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


def _gated(g: Value, gate: Array, slope: float) -> Value:
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


def _hardtanh_rule(g: Value, ans: Value, x: Value, lo: float, hi: float) -> Value:
    if isinstance(array_of(x), DeviceArray):
        return within_on_device(g, x, lo, hi, ends=False)
    return select((array_of(x) > lo) & (array_of(x) < hi), g, 0.0)


_LINE = (("mul", (0, 1)), ("add", (5, 2)), ("clip", (6, 3, 4)))
HARDSIGMOID_NUMBERS = (1 / 6, 0.5, 0.0, 1.0)  # hardsigmoid's own


def hardsigmoid_values(x: Array, *, alpha: float, beta: float) -> Array:
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
    [
        in_one_pass(
            lambda do, g, x, lo, hi: do("where", do("and", do("greater", x, lo), do("less", x, hi)), g, 0.0), _hardtanh_rule
        )
    ],
    saves=(0,),
)

_hardsigmoid_op = primitive(
    "hardsigmoid",
    unary(hardsigmoid_values),
    [
        in_one_pass(
            lambda do, g, ans, alpha, beta: do(
                "where", do("and", do("greater", ans, 0.0), do("less", ans, 1.0)), do("mul", g, alpha), 0.0
            ),
            lambda g, ans, x, alpha, beta: select((array_of(ans) > 0) & (array_of(ans) < 1), multiply(g, alpha), 0.0),
            of="ans",
        )
    ],
    saves=("ans",),
)


def relu(x: Operand) -> Value:
    """max(x, 0). Gradient: 1 where x > 0, else 0."""
    return _relu_op(operand(x, "x"))


def leaky_relu(x: Operand, slope: float = 0.01) -> Value:
    """x where x > 0, else slope * x."""
    return _leaky_relu_op(operand(x, "x"), slope=number_of(slope, "leaky_relu: slope"))


@laid_out
@whole
@np.errstate(all="ignore")
def prelu(x: Operand, weight: Operand) -> Value:
    """x where x > 0, else weight * x, with one weight for all or one per channel (axis 1 of x, or the last by `layout`).

    Raises: ShapeError for another number of weights.
    """
    x, weight = operands("prelu", x, weight)
    channels = x.shape[1] if x.ndim > 1 else 1
    if weight.size != 1 and weight.shape != (channels,):
        raise ShapeError(f"prelu: weight has shape {weight.shape}, wanted (1,) or ({channels},): one per channel of x")
    per_channel = reshape(weight, () if weight.size == 1 else (channels, *([1] * (x.ndim - 2))))
    right = array_of(x) > 0  # there the weight has no part, not even of an infinity
    return select(right, x, multiply(select(right, 0.0, x), per_channel))


def hardtanh(x: Operand, lo: float = -1.0, hi: float = 1.0) -> Value:
    """x held between lo and hi. Gradient: 1 strictly inside, else 0 (`clip` counts the bounds in).

    Raises: OptionError where lo > hi.
    """
    lo, hi = number_of(lo, "hardtanh: lo"), number_of(hi, "hardtanh: hi")
    if lo > hi:
        raise OptionError(f"hardtanh: lo {lo} is above hi {hi}")
    return _hardtanh_op(operand(x, "x"), lo=float(lo), hi=float(hi))


def relu6(x: Operand) -> Value:
    """min(max(x, 0), 6)."""
    return hardtanh(x, 0.0, 6.0)


def hardsigmoid(x: Operand, alpha: float = 1 / 6, beta: float = 0.5) -> Value:
    """alpha * x + beta held between 0 and 1 (PyTorch's alpha; ONNX's is 0.2 unless the file says otherwise)."""
    return _hardsigmoid_op(
        operand(x, "x"), alpha=number_of(alpha, "hardsigmoid: alpha"), beta=number_of(beta, "hardsigmoid: beta")
    )


# -- smooth ------------------------------------------------------------------------------------------------------------


def _logistic(x: Array) -> Array:
    """e / (1 + e) or 1 / (1 + e) with e = exp(-|x|), which cannot overflow."""
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, e.dtype.type(1), e) / (1 + e))


sigmoid_values = generated("sigmoid", _logistic)
tanh_values = generated("tanh", np.tanh)


def _softplus_in_numpy(x: Array) -> Array:
    return np.asarray(np.maximum(x, x.dtype.type(0)) + np.log1p(np.exp(-np.abs(x))))


#: max(x, 0) + log(1 + exp(-|b x|)) / b, with the number b behind x; for b < 0 min(x, 0) + ...: not by way of b x, which may overflow.
_TAIL = (("mul", (0, 1)), ("abs", (3,)), ("neg", (4,)), ("exp", (5,)), ("log1p", (6,)), ("div", (7, 1)))
_SOFTPLUS = {True: (*_TAIL, ("maximum", (0, 2)), ("add", (9, 8))), False: (*_TAIL, ("minimum", (0, 2)), ("add", (9, 8)))}


def softplus_values(x: Array, *, beta: float) -> Array:
    if beta == 1:
        return generated("softplus", _softplus_in_numpy)(x)
    made = around.chain((x,), _SOFTPLUS[beta > 0], (beta, 0.0), least=1)
    if made is not None:
        return made[0]
    b, zero = x.dtype.type(beta), x.dtype.type(0)
    held = np.maximum(x, zero) if beta > 0 else np.minimum(x, zero)
    return np.asarray(held + np.log1p(np.exp(-np.abs(x * b))) / b)


# The slopes are written with x, not with the answer: 1 - s, 1 - t^2 and elu + alpha are 0 as soon as s and t have rounded to 1 and elu to
# -alpha (|x| > 17 in float32), and no gradient would come through any more.
def _sigmoid_steps(do: Any, g: Any, x: Any) -> Any:
    return do("mul", g, do("mul", do("sigmoid", x), do("sigmoid", do("neg", x))))


def _tanh_steps(do: Any, g: Any, x: Any) -> Any:
    x = do("mul", x, 2.0)
    return do("mul", g, do("mul", do("mul", do("sigmoid", x), do("sigmoid", do("neg", x))), 4.0))


_sigmoid_op = primitive(
    "sigmoid",
    unary(sigmoid_values),
    widely([in_one_pass(_sigmoid_steps, lambda g, ans, x: multiply(g, sigmoid_slope(x)))]),
    saves=(0,),
)
_tanh_op = primitive(
    "tanh",
    unary(tanh_values),
    widely([in_one_pass(_tanh_steps, lambda g, ans, x: multiply(g, multiply(sigmoid_slope(multiply(x, 2.0)), 4.0)))]),
    saves=(0,),
)
_softplus_op = primitive(
    "softplus",
    unary(softplus_values),
    widely(
        [
            in_one_pass(
                lambda do, g, x, beta: do("mul", g, do("sigmoid", do("mul", x, beta))),
                lambda g, ans, x, beta: multiply(g, sigmoid(multiply(x, beta))),
            )
        ]
    ),
    saves=(0,),
)


def sigmoid_slope(x: Operand) -> Value:
    """sigmoid(x) sigmoid(-x)."""
    return multiply(sigmoid(x), sigmoid(negative(x)))


def sigmoid(x: Operand) -> Value:
    """1 / (1 + exp(-x)), relatively exact on the left too."""
    return _sigmoid_op(operand(x, "x"))


def log_sigmoid(x: Operand) -> Value:
    """log(sigmoid(x)) = -softplus(-x)."""
    return negative(softplus(negative(x)))


def tanh(x: Operand) -> Value:
    """The hyperbolic tangent."""
    return _tanh_op(operand(x, "x"))


def softplus(x: Operand, beta: float = 1.0) -> Value:
    """log(1 + exp(beta x)) / beta, without overflow.

    Raises: OptionError for beta = 0.
    """
    beta = number_of(beta, "softplus: beta")
    if not beta:
        raise OptionError("softplus: beta must not be 0")
    return _softplus_op(operand(x, "x"), beta=float(beta))


def _softsign(x: Array) -> Array:
    made = around.pointwise("softsign", x, passes=2)
    if made is not None:
        return made
    size = np.abs(x)
    return np.asarray(np.where(np.isinf(x), np.sign(x), x / (1 + size)))


_softsign_op = primitive(
    "softsign",
    unary(_softsign),
    widely(
        [
            in_one_pass(
                lambda do, g, x: do("mul", g, do("square", do("reciprocal", do("add", do("abs", x), 1.0)))),
                lambda g, ans, x: multiply(g, square(reciprocal(add(abs(x), 1.0)))),
            )
        ]
    ),
    saves=(0,),
)


def softsign(x: Operand) -> Value:
    """x / (1 + |x|)."""
    return _softsign_op(operand(x, "x"))


def _elu(x: Array, *, alpha: float, inner: float, scale: float) -> Array:
    made = around.function("elu", x, numbers=(alpha, inner, scale))
    if made is not None:
        return made
    kind = x.dtype.type
    curve = kind(alpha) * np.expm1(np.minimum(x, kind(0)) * kind(inner))
    return np.asarray(np.where(x > 0, x, curve) * kind(scale))


def _elu_rule(g: Any, ans: Any, x: Any, *, alpha: float, inner: float, scale: float) -> Any:
    right = array_of(x) > 0  # 0 there, so that no exponential overflows
    slope = multiply(exp(multiply(select(right, 0.0, x), inner)), alpha * inner)
    return multiply(select(right, g, multiply(g, slope)), scale)


def _elu_steps(do: Any, g: Any, x: Any, *, alpha: float, inner: float, scale: float) -> Any:
    right = do("greater", x, 0.0)
    slope = do("mul", do("exp", do("mul", do("where", right, 0.0, x), inner)), alpha * inner)
    return do("mul", do("where", right, g, do("mul", g, slope)), scale)


_elu_op = primitive("elu", unary(_elu), widely([in_one_pass(_elu_steps, _elu_rule)]), saves=(0,))


def elu(x: Operand, alpha: float = 1.0) -> Value:
    """x where x > 0, else alpha (exp(x) - 1)."""
    return _elu_op(operand(x, "x"), alpha=number_of(alpha, "elu: alpha"), inner=1.0, scale=1.0)


def selu(x: Operand) -> Value:
    """The scaled elu whose activations keep mean 0 and variance 1 (Klambauer et al. 2017, equation 2)."""
    return _elu_op(operand(x, "x"), alpha=1.6732632423543772, inner=1.0, scale=1.0507009873554805)


def celu(x: Operand, alpha: float = 1.0) -> Value:
    """x where x > 0, else alpha (exp(x / alpha) - 1): smooth at 0 for every alpha.

    Raises: OptionError for alpha = 0.
    """
    alpha = number_of(alpha, "celu: alpha")
    if not alpha:
        raise OptionError("celu: alpha must not be 0")
    return _elu_op(operand(x, "x"), alpha=float(alpha), inner=1 / float(alpha), scale=1.0)


# -- the error function ------------------------------------------------------------------------------------------------


def bell(x: Operand, height: float, width: float) -> Value:
    """height * exp(-width x^2)."""
    return multiply(exp(multiply(square(x), -width)), height)


_erf_op = primitive(
    "erf",
    unary(generated("erf", erf_values)),
    widely([lambda g, ans, x: multiply(g, bell(x, 2 / math.sqrt(math.pi), 1.0))]),
    saves=(0,),
)
_normal_cdf_op = primitive(
    "normal_cdf",
    unary(generated("normal_cdf", normal_cdf_values)),
    widely([lambda g, ans, x: multiply(g, bell(x, 1 / math.sqrt(2 * math.pi), 0.5))]),
    saves=(0,),
)


def erf(x: Operand) -> Value:
    """The error function, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
    return _erf_op(operand(x, "x"))


def normal_cdf(x: Operand) -> Value:
    """The probability that a standard normal variable is at most x: (1 + erf(x / sqrt(2))) / 2."""
    return _normal_cdf_op(operand(x, "x"))
