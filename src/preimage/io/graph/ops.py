"""The common words of graphs: each a function on arrays or Tensors, written with preimage.ops.

Both importers translate into these where a word exists, and exporters and passes read them; what only one format knows is registered by
its importer. Sizes are never frozen: a word whose result depends on sizes reads them from its arguments as it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from preimage import ops
from preimage.autograd import Tensor, array_of
from preimage.engines import around
from preimage.geometry import ConvGeometry
from preimage.io.graph.nodes import OPS, graph_op
from preimage.ops.normalise import scaled_by

__all__: list[str] = []

Value = Any


def _shape(x: Value) -> tuple[int, ...]:
    return tuple(np.shape(array_of(x)))


# -- contractions ------------------------------------------------------------------------------------------------------


@graph_op("conv")
def conv(x: Value, w: Value, b: Value = None, residual: Value = None, *, chain: Any = None, **attributes: Any) -> Value:
    """Convolution: preimage.conv with its keywords. A residual of another shape is added by broadcasting; `chain`: steps after it;
    `innermost`: the result's channels lie innermost in memory, however those of x do.
    """
    if attributes.pop("innermost", False):
        x = OPS["channels_innermost"].function(x)
    if chain is not None:
        return _chained(conv(x, w, b, residual, **attributes), chain)
    if residual is None:
        return ops.conv(x, w, b, **attributes)
    shape = ConvGeometry.from_conv(_shape(x), _shape(w), **_geometry(attributes)).output_shape
    return _with_residual(ops.conv, x, w, b, residual, shape, attributes)


@graph_op("conv_transpose")
def conv_transpose(
    y: Value, w: Value, b: Value = None, residual: Value = None, *, chain: Any = None, **attributes: Any
) -> Value:  # fmt: skip
    """Transposed convolution: preimage.conv_transpose with its keywords. The rest as in conv."""
    if attributes.pop("innermost", False):
        y = OPS["channels_innermost"].function(y)
    if chain is not None:
        return _chained(conv_transpose(y, w, b, residual, **attributes), chain)
    if residual is None:
        return ops.conv_transpose(y, w, b, **attributes)
    shape = ConvGeometry.from_conv_transpose(_shape(y), _shape(w), **_geometry(attributes)).input_shape
    return _with_residual(ops.conv_transpose, y, w, b, residual, shape, attributes)


def _chained(value: Value, chain: Any) -> Value:
    steps, numbers = chain
    singles = [np.full((), number, array_of(value).dtype) for number in numbers]
    return OPS["pointwise"].function(value, *singles, steps=steps)


_EPILOGUE = ("activation", "slope", "clip_range")


def _geometry(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in attributes.items() if key not in _EPILOGUE}


def _with_residual(
    op: Callable[..., Value], x: Value, w: Value, b: Value, residual: Value, shape: tuple[int, ...], attributes: Mapping[str, Any]
) -> Value:
    if _shape(residual) == shape and array_of(residual).dtype == array_of(x).dtype:
        return op(x, w, b, residual=residual, **attributes)
    total = ops.add(op(x, w, b, **_geometry(attributes)), residual)
    activation = attributes.get("activation")
    if activation == "relu":
        return ops.relu(total)
    if activation == "leaky_relu":
        return ops.leaky_relu(total, attributes["slope"])
    return ops.clip(total, *attributes["clip_range"]) if activation == "clip" else total


@graph_op("linear")
def linear(x: Value, w: Value, b: Value = None, *, transposed: bool = False) -> Value:
    """x @ w.T + b with w (out, in); transposed: w is (in, out)."""
    return ops.linear(x, ops.transpose(w, (1, 0)) if transposed else w, b)


@graph_op("matmul")
def matmul(a: Value, b: Value) -> Value:
    """The matrix product over the last two axes."""
    return ops.matmul(a, b)


# -- windows -----------------------------------------------------------------------------------------------------------


@graph_op("max_pool")
def max_pool(x: Value, **window: Any) -> Value:
    """The maximum over windows; padding takes no part."""
    return ops.max_pool(x, **window)


@graph_op("avg_pool")
def avg_pool(x: Value, **window: Any) -> Value:
    """The mean over windows."""
    return ops.avg_pool(x, **window)


def _space(x: Value) -> tuple[int, ...]:
    return tuple(range(2, len(_shape(x))))


@graph_op("global_avg_pool")
def global_avg_pool(x: Value) -> Value:
    """The mean over space, its axes kept as 1."""
    return ops.mean(x, axis=_space(x), keepdims=True)


@graph_op("global_max_pool")
def global_max_pool(x: Value) -> Value:
    """The maximum over space, its axes kept as 1."""
    return ops.max(x, axis=_space(x), keepdims=True)


# -- element by element ------------------------------------------------------------------------------------------------

_PLAIN: dict[str, Callable[..., Any]] = {
    "abs": ops.abs,
    "add": ops.add,
    "div": ops.divide,
    "exp": ops.exp,
    "log": ops.log,
    "maximum": ops.maximum,
    "minimum": ops.minimum,
    "mul": ops.multiply,
    "relu": ops.relu,
    "sigmoid": ops.sigmoid,
    "softplus": ops.softplus,
    "sqrt": ops.sqrt,
    "sub": ops.subtract,
    "tanh": ops.tanh,
}
for _name, _function in _PLAIN.items():
    graph_op(_name)(_function)


@graph_op("identity")
def identity(x: Value) -> Value:
    """x itself."""
    return x


@graph_op("leaky_relu")
def leaky_relu(x: Value, *, slope: float) -> Value:
    """x where positive, slope x elsewhere."""
    return ops.leaky_relu(x, slope)


@graph_op("elu")
def elu(x: Value, *, alpha: float = 1.0) -> Value:
    """x where positive, alpha (exp(x) - 1) elsewhere."""
    return ops.elu(x, alpha)


@graph_op("clip")
def clip(x: Value, *, lo: float | None = None, hi: float | None = None) -> Value:
    """x held between lo and hi."""
    return ops.clip(x, lo, hi)


@graph_op("prelu")
def prelu(x: Value, slope: Value) -> Value:
    """x where positive, slope x elsewhere; the slope has one value, or one per channel (axis 1)."""
    if len(_shape(slope)) == 1:
        slope = ops.reshape(slope, (-1, *(1,) * (len(_shape(x)) - 2)))
    return ops.add(ops.relu(x), ops.multiply(slope, ops.minimum(x, 0.0)))


@graph_op("swish")
def swish(x: Value, *, beta: float = 1.0) -> Value:
    """x sigmoid(beta x)."""
    return ops.multiply(x, ops.sigmoid(x if beta == 1 else ops.multiply(x, beta)))


# -- normalisation -----------------------------------------------------------------------------------------------------


@graph_op("batch_norm")
def batch_norm(x: Value, scale: Value, bias: Value, mean: Value, variance: Value, *, eps: float) -> Value:
    """scale (x - mean) / sqrt(variance + eps) + bias, one number each per channel (axis 1); scale and bias may be absent."""
    if len(_shape(x)) > 1 and not isinstance(mean, Tensor) and not isinstance(variance, Tensor):
        return scaled_by(x, mean, variance, scale, bias, eps)
    factor = ops.rsqrt(ops.add(variance, eps))
    if scale is not None:
        factor = ops.multiply(factor, scale)
    channels = (-1, *(1,) * (len(_shape(x)) - 2)) if len(_shape(x)) > 1 else (1,)
    # the mean is taken off first: a large one costs no digits so
    y = ops.multiply(ops.subtract(x, ops.reshape(mean, channels)), ops.reshape(factor, channels))
    return y if bias is None else ops.add(y, ops.reshape(bias, channels))


@graph_op("lrn")
def lrn(x: Value, *, size: int, alpha: float, beta: float, k: float = 1.0) -> Value:
    """x (k + alpha/size sum of x^2 over `size` neighbouring channels)^-beta; an even size has the longer half behind."""
    shape = _shape(x)
    if 0 in shape:
        return x
    before = (size - 1) // 2
    total = ops.square(x)
    if size > 1:
        lines = ops.reshape(total, (shape[0], 1, shape[1], -1))
        total = ops.reshape(ops.sum_pool(lines, (size, 1), stride=1, padding=((before, size - 1 - before), (0, 0))), shape)
    if (
        isinstance(x, np.ndarray)
        and isinstance(total, np.ndarray)
        and (made := around.chain((total, x), _LRN, (alpha / size, k, -beta))) is not None
    ):
        return made[0]
    return ops.multiply(x, ops.power(ops.add(ops.multiply(total, alpha / size), k), -beta))


#: x (k + alpha/size sum)^-beta, of the sum, x and three numbers.
_LRN = (("mul", (0, 2)), ("add", (5, 3)), ("power", (6, 4)), ("mul", (1, 7)))


@graph_op("softmax")
def softmax(x: Value, *, axis: int = -1) -> Value:
    """exp(x) / sum(exp(x)) along an axis."""
    return ops.softmax(x, axis=axis) if _shape(x) else ops.multiply(x, 0.0) + 1.0


# -- axes --------------------------------------------------------------------------------------------------------------


@graph_op("reshape")
def reshape(x: Value, *, target: Sequence[int]) -> Value:
    """Another shape: 0 copies the size of the same axis, -1 takes what is left."""
    size = _shape(x)
    shape = [size[k] if n == 0 else n for k, n in enumerate(target)]
    if -1 in shape:  # a copied size may be 0, of which nothing could be divided
        left = prod(n for k, n in enumerate(size) if k >= len(target) or target[k] != 0)
        known = prod(n for n in target if n > 0)
        shape[shape.index(-1)] = left // known if left % known == 0 else -1
    return ops.reshape(x, tuple(shape)) if isinstance(x, Tensor) or x.dtype.kind == "f" else np.reshape(x, tuple(shape))


@graph_op("flatten")
def flatten(x: Value, *, axis: int, end_axis: int = -1) -> Value:
    """The axes axis..end_axis as one."""
    return ops.flatten(x, axis, end_axis)


@graph_op("transpose")
def transpose(x: Value, *, axes: Sequence[int]) -> Value:
    """The axes in another order."""
    return ops.transpose(x, tuple(axes)) if isinstance(x, Tensor) or x.dtype.kind == "f" else np.transpose(x, tuple(axes))


@graph_op("concat")
def concat(*parts: Value, axis: int) -> Value:
    """Side by side along an axis."""
    return parts[0] if len(parts) == 1 else ops.concat(parts, axis=axis)


@graph_op("slice_axis")
def slice_axis(x: Value, *, axis: int, start: int | None, stop: int | None) -> Value:
    """x[start:stop] along one axis."""
    return x[(slice(None),) * (axis % len(_shape(x))) + (slice(start, stop),)]


@graph_op("tile_axis")
def tile_axis(x: Value, *, axis: int, tiles: int) -> Value:
    """The array `tiles` times along an axis."""
    ndim = len(_shape(x))
    return x if tiles == 1 else ops.tile(x, tuple(tiles if k == axis % ndim else 1 for k in range(ndim)))
