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
from preimage.ops.broadcast import match, widely
from preimage.ops.elementwise import Elementwise, Symbol, binary, fused, generated, unary, unary_with, unrecorded
from preimage.ops.errorfunction import erf_values, normal_cdf_values
from preimage.ops.layout import laid_out
from preimage.ops.operands import Array, number_of, operands
from preimage.ops.pointwise import abs, add, exp, multiply, negative, reciprocal, select, square, within_on_device
from preimage.ops.shape import reshape
from preimage.typing import Operand, Value

__all__ = [
    "celu", "elu", "erf", "hardsigmoid", "hardtanh", "leaky_relu", "log_sigmoid", "normal_cdf", "prelu", "relu", "relu6", "selu",
    "sigmoid", "softplus", "softsign", "tanh",
]  # fmt: skip


# -- piecewise linear --------------------------------------------------------------------------------------------------


_relu = Elementwise("relu", lambda x: np.maximum(x, np.zeros((), x.dtype)), exact=True)


def _leaky_relu_in_numpy(x: Array, slope: float) -> Array:
    scaled = x * x.dtype.type(slope)
    return np.asarray(np.maximum(x, scaled) if 0 < slope <= 1 else np.where(x > 0, x, scaled))


_leaky_relu = Elementwise("leaky_relu", _leaky_relu_in_numpy, ("slope",), exact=True)


def _gated(g: Any, gate: Any, slope: float) -> Any:
    """g where the gate is above 0, else slope * g."""
    if isinstance(gate, DeviceArray) and not isinstance(g, Tensor):
        steps = (("if_positive", (0, 1, 2)),) if not slope else (("mul", (1, 2)), ("if_positive", (0, 1, 3)))
        return around.chain_on_device((gate, g), steps, (slope,), None)[0]
    return _open(g, gate, slope=slope)


@fused
def _open(g: Any, gate: Any, *, slope: float) -> Any:
    return select(gate > 0, g, multiply(g, slope) if slope else 0.0)


_hardtanh = Elementwise("clip", lambda x, lo, hi: np.clip(x, x.dtype.type(lo), x.dtype.type(hi)), ("lo", "hi"), exact=True)


def _hardtanh_rule(g: Any, ans: Any, x: Any, lo: float, hi: float) -> Any:
    if isinstance(array_of(x), DeviceArray):
        return within_on_device(g, x, lo, hi, ends=False)
    return _strictly_inside(g, array_of(x), lo=lo, hi=hi)


@fused
def _strictly_inside(g: Any, x: Any, *, lo: float, hi: float) -> Any:
    return select((x > lo) & (x < hi), g, 0.0)


_LINE = (("mul", (0, 1)), ("add", (5, 2)), ("clip", (6, 3, 4)))
HARDSIGMOID_NUMBERS = (1 / 6, 0.5, 0.0, 1.0)  # hardsigmoid's own


def hardsigmoid_in_numpy(x: Array, alpha: float, beta: float) -> Array:
    return np.asarray(np.clip(x * x.dtype.type(alpha) + x.dtype.type(beta), x.dtype.type(0), x.dtype.type(1)))


_hardsigmoid = Elementwise(_LINE, hardsigmoid_in_numpy, ("alpha", "beta", 0.0, 1.0), exact=True)


@fused
def _sloping(g: Any, ans: Any, *, alpha: float) -> Any:
    return select((ans > 0) & (ans < 1), multiply(g, alpha), 0.0)


_relu_op = primitive("relu", _relu, [lambda g, ans, x: _gated(g, array_of(ans), 0.0)], saves=("ans",))

_leaky_relu_op = primitive("leaky_relu", _leaky_relu, [lambda g, ans, x, slope: _gated(g, array_of(x), slope)], saves=(0,))

_hardtanh_op = primitive(
    "hardtanh",
    _hardtanh,
    [_hardtanh_rule],
    saves=(0,),
)

_hardsigmoid_op = primitive(
    "hardsigmoid",
    _hardsigmoid,
    [lambda g, ans, x, alpha, beta: _sloping(g, array_of(ans), alpha=alpha)],
    saves=("ans",),
)


def relu(x: Operand) -> Value:
    """max(x, 0). Gradient: 1 where x > 0, else 0."""
    return unary(_relu_op, x)


def leaky_relu(x: Operand, slope: float = 0.01) -> Value:
    """x where x > 0, else slope * x."""
    return unary_with(_leaky_relu_op, x, slope=number_of(slope, "leaky_relu: slope"))


def _prelu_in_numpy(x: Array, w: Array) -> Array:
    return np.asarray(np.where(x > 0, x, x * w))


@fused
def _prelu_slope(g: Any, x: Any, w: Any) -> Any:
    return select(array_of(x) > 0, g, multiply(g, w))


@fused
def _prelu_weight_slope(g: Any, x: Any) -> Any:
    """Where x > 0 the weight has no part, and an infinity there none in its gradient."""
    return multiply(g, select(array_of(x) > 0, 0.0, x))


_prelu_op = primitive(
    "prelu",
    Elementwise((("mul", (0, 1)), ("if_positive", (0, 0, 2))), _prelu_in_numpy, arrays=2, exact=True),
    widely([lambda g, ans, x, w: _prelu_slope(g, x, w), lambda g, ans, x, w: match(_prelu_weight_slope(g, x), w)]),
    saves=(0, 1),
)


@laid_out
@whole
def prelu(x: Operand, weight: Operand) -> Value:
    """x where x > 0, else weight * x, with one weight for all or one per channel (axis 1 of x, or the last by `layout`).

    Raises: ShapeError for another number of weights.
    """
    if (isinstance(x, Tensor) or isinstance(weight, Tensor)) and (arrays := unrecorded(x, weight)) is not None:
        return Tensor._result(prelu(*arrays), None)
    x, weight = operands("prelu", x, weight)
    channels = x.shape[1] if x.ndim > 1 else 1
    if weight.size != 1 and weight.shape != (channels,):
        raise ShapeError(f"prelu: weight has shape {weight.shape}, wanted (1,) or ({channels},): one per channel of x")
    shape = () if weight.size == 1 else (channels, *([1] * (x.ndim - 2)))
    per_channel = weight.reshape(shape) if type(weight) is np.ndarray else reshape(weight, shape)
    return binary("prelu", x, per_channel, _prelu_op)


def hardtanh(x: Operand, lo: float = -1.0, hi: float = 1.0) -> Value:
    """x held between lo and hi. Gradient: 1 strictly inside, else 0 (`clip` counts the bounds in).

    Raises: OptionError where lo > hi.
    """
    lo, hi = number_of(lo, "hardtanh: lo"), number_of(hi, "hardtanh: hi")
    if lo > hi:
        raise OptionError(f"hardtanh: lo {lo} is above hi {hi}")
    return unary_with(_hardtanh_op, x, lo=float(lo), hi=float(hi))


def relu6(x: Operand) -> Value:
    """min(max(x, 0), 6)."""
    return hardtanh(x, 0.0, 6.0)


def hardsigmoid(x: Operand, alpha: float = 1 / 6, beta: float = 0.5) -> Value:
    """alpha * x + beta held between 0 and 1 (PyTorch's alpha; ONNX's is 0.2 unless the file says otherwise)."""
    return unary_with(_hardsigmoid_op, x, alpha=number_of(alpha, "hardsigmoid: alpha"), beta=number_of(beta, "hardsigmoid: beta"))


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


_softplus_one = generated("softplus", _softplus_in_numpy)


def _softplus_of(beta: float, x: Array) -> Array:
    b, zero = x.dtype.type(beta), x.dtype.type(0)
    held = np.maximum(x, zero) if beta > 0 else np.minimum(x, zero)
    return np.asarray(held + np.log1p(np.exp(-np.abs(x * b))) / b)


_softplus_by_sign = {
    positive: Elementwise(steps, lambda x, beta: _softplus_of(beta, x), ("beta", 0.0)) for positive, steps in _SOFTPLUS.items()
}


class _Softplus:
    """The forward function of `softplus`."""

    is_silent = True

    def again(self, x: Array, *, beta: float) -> Array | None:
        return _softplus_one.again(x) if beta == 1 else _softplus_by_sign[beta > 0].again(x, beta=beta)

    def then(self, x: Symbol, *, beta: float) -> Symbol:
        return _softplus_one.then(x) if beta == 1 else _softplus_by_sign[beta > 0].then(x, beta=beta)

    def __call__(self, x: Array, *, beta: float) -> Array:
        return _softplus_one(x) if beta == 1 else _softplus_by_sign[beta > 0](x, beta=beta)


softplus_values = _Softplus()


# The slopes are written with x, not with the answer: 1 - s, 1 - t^2 and elu + alpha are 0 as soon as s and t have rounded to 1 and elu to
# -alpha (|x| > 17 in float32), and no gradient would come through any more.
_sigmoid_op = primitive("sigmoid", sigmoid_values, widely([fused(lambda g, ans, x: multiply(g, sigmoid_slope(x)))]), saves=(0,))
_tanh_op = primitive(
    "tanh",
    tanh_values,
    widely([fused(lambda g, ans, x: multiply(g, multiply(sigmoid_slope(multiply(x, 2.0)), 4.0)))]),
    saves=(0,),
)
_softplus_op = primitive(
    "softplus", softplus_values, widely([fused(lambda g, ans, x, beta: multiply(g, sigmoid(multiply(x, beta))))]), saves=(0,)
)


def sigmoid_slope(x: Operand) -> Value:
    """sigmoid(x) sigmoid(-x)."""
    return multiply(sigmoid(x), sigmoid(negative(x)))


def sigmoid(x: Operand) -> Value:
    """1 / (1 + exp(-x)), relatively exact on the left too."""
    return unary(_sigmoid_op, x)


def log_sigmoid(x: Operand) -> Value:
    """log(sigmoid(x)) = -softplus(-x)."""
    return negative(softplus(negative(x)))


def tanh(x: Operand) -> Value:
    """The hyperbolic tangent."""
    return unary(_tanh_op, x)


def softplus(x: Operand, beta: float = 1.0) -> Value:
    """log(1 + exp(beta x)) / beta, without overflow.

    Raises: OptionError for beta = 0.
    """
    beta = number_of(beta, "softplus: beta")
    if not beta:
        raise OptionError("softplus: beta must not be 0")
    return unary_with(_softplus_op, x, beta=float(beta))


_softsign = Elementwise("softsign", lambda x: np.where(np.isinf(x), np.sign(x), x / (1 + np.abs(x))), exact=True)


_softsign_op = primitive(
    "softsign",
    _softsign,
    widely([fused(lambda g, ans, x: multiply(g, square(reciprocal(add(abs(x), 1.0)))))]),
    saves=(0,),
)


def softsign(x: Operand) -> Value:
    """x / (1 + |x|)."""
    return unary(_softsign_op, x)


def _elu_in_numpy(x: Array, alpha: float, inner: float, scale: float) -> Array:
    kind = x.dtype.type
    curve = kind(alpha) * np.expm1(np.minimum(x, kind(0)) * kind(inner))
    return np.asarray(np.where(x > 0, x, curve) * kind(scale))


_elu = Elementwise("elu", _elu_in_numpy, ("alpha", "inner", "scale"))


@fused
def _elu_rule(g: Any, ans: Any, x: Any, *, alpha: float, inner: float, scale: float) -> Any:
    right = array_of(x) > 0  # 0 there, so that no exponential overflows
    slope = multiply(exp(multiply(select(right, 0.0, x), inner)), alpha * inner)
    return multiply(select(right, g, multiply(g, slope)), scale)


_elu_op = primitive("elu", _elu, widely([_elu_rule]), saves=(0,))


def elu(x: Operand, alpha: float = 1.0) -> Value:
    """x where x > 0, else alpha (exp(x) - 1)."""
    return unary_with(_elu_op, x, alpha=number_of(alpha, "elu: alpha"), inner=1.0, scale=1.0)


def selu(x: Operand) -> Value:
    """The scaled elu whose activations keep mean 0 and variance 1 (Klambauer et al. 2017, equation 2)."""
    return unary_with(_elu_op, x, alpha=1.6732632423543772, inner=1.0, scale=1.0507009873554805)


def celu(x: Operand, alpha: float = 1.0) -> Value:
    """x where x > 0, else alpha (exp(x / alpha) - 1): smooth at 0 for every alpha.

    Raises: OptionError for alpha = 0.
    """
    alpha = number_of(alpha, "celu: alpha")
    if not alpha:
        raise OptionError("celu: alpha must not be 0")
    return unary_with(_elu_op, x, alpha=float(alpha), inner=1 / float(alpha), scale=1.0)


# -- the error function ------------------------------------------------------------------------------------------------


def bell(x: Operand, height: float, width: float) -> Value:
    """height * exp(-width x^2)."""
    return multiply(exp(multiply(square(x), -width)), height)


_erf_op = primitive(
    "erf",
    generated("erf", erf_values),
    widely([fused(lambda g, ans, x: multiply(g, bell(x, 2 / math.sqrt(math.pi), 1.0)))]),
    saves=(0,),
)
_normal_cdf_op = primitive(
    "normal_cdf",
    generated("normal_cdf", normal_cdf_values),
    widely([fused(lambda g, ans, x: multiply(g, bell(x, 1 / math.sqrt(2 * math.pi), 0.5)))]),
    saves=(0,),
)


def erf(x: Operand) -> Value:
    """The error function, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
    return unary(_erf_op, x)


def normal_cdf(x: Operand) -> Value:
    """The probability that a standard normal variable is at most x: (1 + erf(x / sqrt(2))) / 2."""
    return unary(_normal_cdf_op, x)
