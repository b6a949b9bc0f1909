"""Activation functions. `inplace` is taken and changes nothing: an operation gives a new array."""

from __future__ import annotations

from typing import Literal

from preimage import ops
from preimage.autograd import array_of
from preimage.errors import ShapeError
from preimage.functional.checks import axis_named
from preimage.ops.broadcast import in_wide
from preimage.ops.operands import axis_of, number_of, operand
from preimage.typing import DTypeLike, Operand, Value

__all__ = [
    "celu", "elu", "gelu", "glu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log_softmax", "logsigmoid", "mish",
    "normalize", "prelu", "relu", "relu6", "selu", "sigmoid", "silu", "softmax", "softmin", "softplus", "softshrink", "softsign", "tanh",
    "tanhshrink", "threshold",
]  # fmt: skip


def relu(input: Operand, inplace: bool = False) -> Value:
    """max(x, 0)."""
    return ops.relu(input)


def relu6(input: Operand, inplace: bool = False) -> Value:
    """min(max(x, 0), 6)."""
    return ops.relu6(input)


def leaky_relu(input: Operand, negative_slope: float = 0.01, inplace: bool = False) -> Value:
    """x, or negative_slope x below 0."""
    return ops.leaky_relu(input, negative_slope)


def elu(input: Operand, alpha: float = 1.0, inplace: bool = False) -> Value:
    """x, or alpha (exp(x) - 1) below 0."""
    return ops.elu(input, alpha)


def celu(input: Operand, alpha: float = 1.0, inplace: bool = False) -> Value:
    """x, or alpha (exp(x / alpha) - 1) below 0."""
    return ops.celu(input, alpha)


def selu(input: Operand, inplace: bool = False) -> Value:
    """The self-normalising exponential unit."""
    return ops.selu(input)


def gelu(input: Operand, approximate: Literal["none", "tanh"] = "none") -> Value:
    """x times the normal distribution function of x."""
    return ops.gelu(input, approximate)


def silu(input: Operand, inplace: bool = False) -> Value:
    """x sigmoid(x)."""
    return ops.silu(input)


def mish(input: Operand, inplace: bool = False) -> Value:
    """x tanh(softplus(x))."""
    return ops.mish(input)


def hardswish(input: Operand, inplace: bool = False) -> Value:
    """x hardsigmoid(x)."""
    return ops.hardswish(input)


def hardsigmoid(input: Operand, inplace: bool = False) -> Value:
    """x / 6 + 1/2, held in 0..1."""
    return ops.hardsigmoid(input)


def hardtanh(input: Operand, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Value:
    """x, held in min_val..max_val."""
    return ops.hardtanh(input, min_val, max_val)


def sigmoid(input: Operand) -> Value:
    """1 / (1 + exp(-x))."""
    return ops.sigmoid(input)


def logsigmoid(input: Operand) -> Value:
    """log sigmoid(x)."""
    return ops.log_sigmoid(input)


def tanh(input: Operand) -> Value:
    """The hyperbolic tangent."""
    return ops.tanh(input)


def softplus(input: Operand, beta: float = 1.0, threshold: float = 20.0) -> Value:
    """log(1 + exp(beta x)) / beta; x itself where beta x is above the threshold."""
    x = operand(input, "input")
    linear = array_of(x) * number_of(beta, "softplus: beta") > number_of(threshold, "softplus: threshold")
    return ops.where(linear, x, ops.softplus(x, beta))


def softsign(input: Operand) -> Value:
    """x / (1 + |x|)."""
    return ops.softsign(input)


def tanhshrink(input: Operand) -> Value:
    """x - tanh(x)."""
    return ops.subtract(input, ops.tanh(input))


def softshrink(input: Operand, lambd: float = 0.5) -> Value:
    """x moved towards 0 by lambd, 0 where it is nearer."""
    width = number_of(lambd, "softshrink: lambd", least=0)
    return ops.subtract(input, ops.clip(input, -width, width))


def hardshrink(input: Operand, lambd: float = 0.5) -> Value:
    """x, and 0 where it is not further than lambd from 0."""
    x, width = operand(input, "input"), number_of(lambd, "hardshrink: lambd")
    values = array_of(x)
    return ops.where((values >= -width) & (values <= width), 0.0, x)


def threshold(input: Operand, threshold: float, value: float, inplace: bool = False) -> Value:
    """x where it is above the threshold, else value."""
    x = operand(input, "input")
    above = array_of(x) > number_of(threshold, "threshold")
    return ops.where(above, x, number_of(value, "threshold: value"))


def prelu(input: Operand, weight: Operand) -> Value:
    """x, or weight x below 0: one weight, or one per channel."""
    return ops.prelu(input, weight)


def glu(input: Operand, dim: int = -1) -> Value:
    """The first half along an axis times the sigmoid of the second. Raises: ShapeError for an axis of odd size."""
    x = operand(input, "input")
    axis = axis_of(dim, x.ndim, "glu")
    half, rest = divmod(x.shape[axis], 2)
    if rest:
        raise ShapeError(f"glu: axis {axis} has size {x.shape[axis]}, wanted an even one, for two halves; got shape {x.shape}")
    first, second = ops.split(x, (half, half), axis)
    return ops.multiply(first, ops.sigmoid(second))


def softmax(input: Operand, dim: int | None = None, dtype: DTypeLike | None = None) -> Value:
    """exp(x) over its sum along an axis."""
    return ops.softmax(_typed(input, dtype), axis_named("softmax", dim))


def softmin(input: Operand, dim: int | None = None, dtype: DTypeLike | None = None) -> Value:
    """softmax(-x)."""
    return ops.softmax(ops.negative(_typed(input, dtype)), axis_named("softmin", dim))


def log_softmax(input: Operand, dim: int | None = None, dtype: DTypeLike | None = None) -> Value:
    """log softmax(x)."""
    return ops.log_softmax(_typed(input, dtype), axis_named("log_softmax", dim))


def _typed(x: Operand, dtype: DTypeLike | None) -> Operand:
    return x if dtype is None else ops.astype(x, dtype)


def normalize(input: Operand, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Value:
    """x over its p-norm along an axis, which counts as eps at least."""
    x, power = operand(input, "input"), number_of(p, "normalize: p", least=0)
    least, wide = number_of(eps, "normalize: eps", least=0), in_wide(x)
    size = ops.abs(wide)
    if power == float("inf"):
        norm = ops.max(size, dim, keepdims=True)
    elif power == 2:
        norm = ops.sqrt(ops.sum(ops.square(wide), dim, keepdims=True))
    else:
        norm = ops.power(ops.sum(ops.power(size, power), dim, keepdims=True), 1 / power)
    found: Value = ops.divide(wide, ops.maximum(norm, least))
    return ops.astype(found, x.dtype)
