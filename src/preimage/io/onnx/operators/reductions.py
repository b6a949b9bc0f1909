"""ONNX's reductions, softmaxes, normalisations and products as graph ops."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from preimage import ops
from preimage.autograd import Tensor
from preimage.engines import products
from preimage.engines.base import Epilogue
from preimage.errors import FileFormatError
from preimage.io.graph import OPS, graph_op
from preimage.io.graph import ops as words
from preimage.io.graph.types import gives
from preimage.io.onnx.operators.moving import is_float, recorded, reshape, tile, transpose, typed, where
from preimage.io.onnx.operators.pointwise import as_type
from preimage.io.onnx.operators.shapes import ints
from preimage.ops.normalise import instance_normalised, standardized

__all__: list[str] = []


def _axes(x: Any, given: Any, attribute: Any, noop: int, what: str) -> tuple[int, ...] | None:
    axes = attribute if given is None else ints(given, what)
    if axes is None or len(axes) == 0:
        return None if noop else tuple(range(x.ndim))
    if any(not -x.ndim <= a < x.ndim for a in axes):
        raise FileFormatError(f"{what}: axes {list(axes)} of shape {x.shape}")
    return tuple(sorted({a % x.ndim for a in axes}))


def _count(x: Any, axes: tuple[int, ...]) -> int:
    return int(np.prod([x.shape[a] for a in axes], dtype=np.int64))


def _sum(x: Any, axes: tuple[int, ...], keep: bool) -> Any:
    return ops.sum(x, axes, keepdims=keep) if is_float(x) else np.sum(x, axes, keepdims=keep, dtype=x.dtype)


def _mean(x: Any, axes: tuple[int, ...], keep: bool) -> Any:
    if is_float(x):
        return ops.mean(x, axes, keepdims=keep)
    total, count = np.asarray(np.sum(x, axes, keepdims=keep, dtype=np.int64)), max(_count(x, axes), 1)
    return np.asarray(np.sign(total) * (np.abs(total) // count)).astype(x.dtype)  # rounds toward zero


def _extreme(name: str, sign: int) -> Any:
    def reduce(x: Any, axes: tuple[int, ...], keep: bool) -> Any:
        if recorded(x) or (is_float(x) and _count(x, axes)):
            return getattr(ops, name)(x, axes, keepdims=keep)
        if _count(x, axes) == 0:  # the neutral element
            if x.dtype.kind == "b":
                limit: Any = sign < 0
            elif x.dtype.kind == "f":
                limit = -sign * np.inf
            else:
                limit = np.iinfo(x.dtype).min if sign > 0 else np.iinfo(x.dtype).max
            return np.full(np.sum(np.zeros(x.shape), axes, keepdims=keep).shape, limit, x.dtype)
        return (np.max if sign > 0 else np.min)(x, axis=axes, keepdims=keep)

    return reduce


def _log_sum_exp(x: Any, axes: tuple[int, ...], keep: bool) -> Any:
    if recorded(x):
        return ops.logsumexp(x, axes, keepdims=keep)
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        top = np.max(wide, axis=axes, keepdims=True, initial=-np.inf)
        top = np.where(np.isfinite(top), top, 0)
        total = np.log(ops.sum(ops.exp(wide - top), axes, keepdims=True)) + top
        return (total if keep else np.squeeze(total, axes)).astype(x.dtype)


def _log(x: Any) -> Any:
    if is_float(x):
        return ops.log(x)
    with np.errstate(all="ignore"):
        return np.asarray(np.log(x)).astype(x.dtype)


_REDUCTIONS = {
    "ReduceSum": _sum,
    "ReduceMean": _mean,
    "ReduceMax": _extreme("max", 1),
    "ReduceMin": _extreme("min", -1),
    "ReduceProd": lambda x, axes, keep: (
        ops.prod(x, axes, keepdims=keep) if is_float(x) else np.prod(x, axes, keepdims=keep, dtype=x.dtype)
    ),
    "ReduceL1": lambda x, axes, keep: _sum(ops.abs(x) if is_float(x) else np.abs(x), axes, keep),
    "ReduceL2": lambda x, axes, keep: _root(_sum(_squared(x), axes, keep)),
    "ReduceSumSquare": lambda x, axes, keep: _sum(_squared(x), axes, keep),
    "ReduceLogSum": lambda x, axes, keep: _log(_sum(x, axes, keep)),
    "ReduceLogSumExp": _log_sum_exp,
}


def _squared(x: Any) -> Any:
    return ops.square(x) if is_float(x) else x * x


def _root(x: Any) -> Any:
    return ops.sqrt(x) if is_float(x) else np.asarray(np.sqrt(x)).astype(x.dtype)


def _register_reduction(name: str, function: Any) -> None:
    def call(x: Any, axes_input: Any = None, *, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
        which = _axes(x, axes_input, axes, noop_with_empty_axes, name)
        if which is None:
            pointwise = {"ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum"}
            return function(x, (), True) if name in pointwise else x
        return function(x, which, bool(keepdims))

    graph_op(f"onnx.{name}")(call)


for _name, _function in _REDUCTIONS.items():
    _register_reduction(_name, _function)


# -- softmaxes ---------------------------------------------------------------------------------------------------------


def _register_softmax(name: str) -> None:
    def call(x: Any, axis: int | None = None, *, opset: int = 13) -> Any:
        axis = (-1 if opset >= 13 else 1) if axis is None else axis
        if not -x.ndim <= axis < max(x.ndim, 1):
            raise FileFormatError(f"{name}: axis {axis} of shape {x.shape}")
        if opset >= 13:
            return _soft(name, x, axis)
        axis %= max(x.ndim, 1)  # before opset 13: over everything from `axis` on, as one
        flat = reshape(x, (int(np.prod(x.shape[:axis], dtype=np.int64)), -1) if x.size else (0, 0))
        return reshape(_soft(name, flat, 1), x.shape)

    graph_op(f"onnx.{name}")(call)


def _soft(name: str, x: Any, axis: int) -> Any:
    if name == "Hardmax":
        data = x.data if isinstance(x, Tensor) else x
        first = np.expand_dims(np.argmax(data, axis), axis)
        result = np.zeros_like(data)
        np.put_along_axis(result, first, 1, axis)
        return result
    return (ops.softmax if name == "Softmax" else ops.log_softmax)(x, axis)


for _name in ("Softmax", "LogSoftmax", "Hardmax"):
    _register_softmax(_name)


# -- products ----------------------------------------------------------------------------------------------------------


@graph_op("onnx.MatMul")
def _matmul(a: Any, b: Any) -> Any:
    if not a.ndim or not b.ndim or a.shape[-1] != b.shape[max(b.ndim - 2, 0)]:
        raise FileFormatError(f"MatMul: shapes {a.shape} and {b.shape} do not belong together")
    return ops.matmul(a, b) if is_float(a) else np.matmul(a, b)


@graph_op("onnx.Gemm")
def _gemm(a: Any, b: Any, c: Any = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0) -> Any:
    a = transpose(a, (1, 0)) if transA else a
    b = transpose(b, (1, 0)) if transB else b
    if alpha == beta == 1 and _is_row(c, a, b):
        return products.matmul(a, b, Epilogue(bias=c.reshape(-1)))
    product = _matmul(a, b)
    product = product if alpha == 1 else typed(product * alpha, a)
    if c is None or beta == 0:
        return product
    return typed(product + (c if beta == 1 else typed(c * beta, a)), a)


def _is_row(c: Any, a: Any, b: Any) -> bool:
    """Whether a product of two matrices with one number added in each column is what c says, all of them arrays of one float type."""
    arrays = (c, a, b)
    return (
        all(type(v) is np.ndarray and v.dtype == a.dtype and v.flags.aligned for v in arrays)
        and a.dtype in (np.float32, np.float64)
        and a.ndim == b.ndim == 2
        and a.shape[1] == b.shape[0]
        and c.size == b.shape[1]
        and c.shape in ((c.size,), (1, c.size))
    )


@graph_op("onnx.Einsum")
def _einsum(*values: Any, equation: str) -> Any:
    if recorded(*values):
        raise FileFormatError("Einsum has no gradient: run it under no_grad")
    wide = [v.astype(np.float32) if v.dtype.itemsize == 2 and is_float(v) else v for v in values]
    product = _as_product(equation.replace(" ", ""), wide)
    if product is not None:
        return typed(product, values[0])
    try:
        return typed(np.asarray(np.einsum(equation, *wide)), values[0])
    except ValueError as error:
        raise FileFormatError(f"Einsum {equation!r} of shapes {[v.shape for v in values]}: {error}") from None


def _as_product(equation: str, values: Sequence[Any]) -> Any:
    """Two arrays of floats, multiplied and summed over letters that both have, as a product of matrices; None for other equations."""
    taken, arrow, out = equation.partition("->")
    names = taken.split(",")
    if len(values) != 2 or len(names) != 2 or not arrow or not (taken.replace(",", "") + out).isalpha():
        return None
    (a, b), (left, right) = values, names
    if a.dtype != b.dtype or not is_float(a) or any(len(set(n)) < len(n) for n in (left, right, out)):
        return None
    if (len(left), len(right)) != (a.ndim, b.ndim) or not a.size or not b.size:
        return None
    sizes = dict(zip(left, a.shape, strict=True))
    many = [c for c in out if c in left and c in right]
    summed = [c for c in left if c in right and c not in out]
    rows, columns = ([c for c in out if c in own and c not in many] for own in (left, right))
    if (
        not summed
        or {*left, *right} != {*out, *summed}
        or len(out) != len(many) + len(rows) + len(columns)
        or any(sizes.setdefault(c, n) != n for c, n in zip(right, b.shape, strict=True))
    ):
        return None
    lead = [sizes[c] for c in many]
    m, k, n = (prod(sizes[c] for c in own) for own in (rows, summed, columns))
    first = reshape(transpose(a, tuple(left.index(c) for c in (*many, *rows, *summed))), (*lead, m, k))
    second = reshape(transpose(b, tuple(right.index(c) for c in (*many, *summed, *columns))), (*lead, k, n))
    made = [*many, *rows, *columns]
    return transpose(reshape(ops.matmul(first, second), tuple(sizes[c] for c in made)), tuple(made.index(c) for c in out))


# -- normalisations ----------------------------------------------------------------------------------------------------


def _per_channel(v: Any, ndim: int) -> Any:
    return reshape(v, (1, -1) + (1,) * (ndim - 2))


@graph_op("onnx.BatchNormalization", types=gives(0, 3))
def _batch_norm(x: Any, scale: Any, bias: Any, mean: Any, variance: Any, *, epsilon: float = 1e-5, momentum: float = 0.9,
                training_mode: int = 0, outputs: int = 1, spatial: int = 1) -> Any:  # fmt: skip
    """spatial=0, before opset 9: numbers for every element of an image, not for every channel."""
    if not spatial and not training_mode and all(v.shape == x.shape[1:] for v in (scale, bias, mean, variance)):
        return typed((x - mean) / ops.sqrt(variance + epsilon) * scale + bias, x)
    if x.ndim < 2 or any(v.shape != (x.shape[1],) for v in (scale, bias, mean, variance)):
        raise FileFormatError(
            f"BatchNormalization: input {x.shape} with parameters of shapes {[v.shape for v in (scale, bias, mean, variance)]}"
        )
    shape = x.ndim
    if not training_mode:
        factor = scale / ops.sqrt(variance + epsilon)
        shift = bias - mean * factor
        return typed(x * _per_channel(typed(factor, x), shape) + _per_channel(typed(shift, x), shape), x)
    axes = (0, *range(2, shape))
    y = standardized(x, _per_channel(scale, shape), _per_channel(bias, shape), axes=axes, eps=epsilon)
    data = x.data if isinstance(x, Tensor) else x
    batch_mean, batch_variance = ops.mean(data, axes), ops.var(data, axes)
    running = [
        (old * momentum + new * (1 - momentum)).astype(old.dtype) for old, new in ((mean, batch_mean), (variance, batch_variance))
    ]
    return (y, *running)[:outputs] if outputs > 1 else y


@graph_op("onnx.InstanceNormalization")
def _instance_norm(x: Any, scale: Any, bias: Any, *, epsilon: float = 1e-5) -> Any:
    if x.ndim < 2 or any(v.shape != (x.shape[1],) for v in (scale, bias)):
        raise FileFormatError(f"InstanceNormalization: input {x.shape}, scale {scale.shape}, bias {bias.shape}")
    return instance_normalised(x, scale, bias, epsilon)


@graph_op("onnx.GroupNormalization")
def _group_norm(x: Any, scale: Any, bias: Any, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1) -> Any:
    if num_groups < 1 or x.ndim < 2 or x.shape[1] % num_groups:
        raise FileFormatError(f"GroupNormalization: {num_groups} groups of shape {x.shape}")
    c = x.shape[1]
    if any(v.shape not in ((c,), (num_groups,)) for v in (scale, bias)):
        raise FileFormatError(f"GroupNormalization: input {x.shape}, {num_groups} groups, scale {scale.shape}, bias {bias.shape}")
    if scale.shape[0] != c:  # opsets before 21: one value a group
        scale, bias = (reshape(tile(reshape(v, (-1, 1)), (1, c // num_groups)), (c,)) for v in (scale, bias))
    return OPS["group_norm"].function(x, scale, bias, groups=num_groups, channels=c, eps=epsilon)


@graph_op("onnx.LayerNormalization", types=gives(0, "float32"))
def _layer_norm(
    x: Any, scale: Any, bias: Any = None, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1, outputs: int = 1
) -> Any:
    axes = tuple(range(axis % x.ndim, x.ndim))
    y = standardized(x, scale, bias, axes=axes, eps=epsilon)
    if outputs == 1:
        return y
    wide = as_type(x, np.dtype(np.float32)) if x.dtype.itemsize == 2 else x
    mean = ops.mean(wide, axes, keepdims=True)
    inverse = ops.rsqrt(ops.add(ops.mean(ops.square(ops.subtract(wide, mean)), axes, keepdims=True), epsilon))
    return (y, mean, inverse)[:outputs]


@graph_op("onnx.RMSNormalization", types=gives(1))
def _rms_norm(x: Any, scale: Any, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Any:
    axes = tuple(range(axis % x.ndim, x.ndim))
    root = ops.sqrt(ops.add(ops.mean(ops.square(x), axes, keepdims=True), epsilon))
    return typed(ops.multiply(ops.divide(x, root), scale), scale)


@graph_op("onnx.MeanVarianceNormalization")
def _mvn(x: Any, axes: list[int] | None = None) -> Any:
    which = tuple(a % x.ndim for a in ([0, 2, 3] if axes is None else axes))
    centred = ops.subtract(x, ops.mean(x, which, keepdims=True))
    deviation = ops.sqrt(ops.mean(ops.square(centred), which, keepdims=True))
    return typed(ops.divide(centred, ops.add(deviation, 1e-9)), x)


@graph_op("onnx.LpNormalization")
def _lp_norm(x: Any, axis: int = -1, p: int = 2) -> Any:
    length = ops.sum(ops.abs(x), axis, keepdims=True) if p == 1 else ops.sqrt(ops.sum(x * x, axis, keepdims=True))
    data = length.data if isinstance(length, Tensor) else length
    safe = where(data == 0, np.ones((), x.dtype), length)
    return typed(x / safe, x)


@graph_op("onnx.LRN")
def _lrn(x: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Any:
    if size < 1 or x.ndim < 2:
        raise FileFormatError(f"LRN: size {size} of shape {x.shape}")
    return words.lrn(x, size=size, alpha=alpha, beta=beta, k=bias)
