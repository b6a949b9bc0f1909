"""Graph words that only Caffe knows, written with preimage.ops; gradients follow, except where a layer has none.

Source: BVLC/caffe (9b891540), the layer code, read as facts; formulas stand at each function.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from preimage import ops
from preimage.autograd import array_of, primitive
from preimage.errors import ShapeError
from preimage.io.caffe.fillers import fill
from preimage.io.caffe.wire.message import Message
from preimage.io.graph import graph_op

__all__ = ["constant", "indices"]

Value = Any


def _shape(x: Value) -> tuple[int, ...]:
    return tuple(np.shape(array_of(x)))


def constant(x: Value) -> Any:
    """The array of a value that takes no gradient."""
    return array_of(x)


def indices(labels: Value, count: int, ignore: int | None = None) -> tuple[Any, Any]:
    """Labels as integers, and which of them count. Raises ShapeError for one outside 0 .. count - 1."""
    values = np.asarray(constant(labels))
    if not np.isfinite(values).all():
        raise ShapeError("a label is not finite")
    whole = np.clip(np.trunc(values), -(1 << 62), 1 << 62).astype(np.int64)
    valid = whole != ignore if ignore is not None else np.ones(whole.shape, bool)
    if (valid & ((whole < 0) | (whole >= count))).any():
        bad = whole[valid & ((whole < 0) | (whole >= count))].flat[0]
        raise ShapeError(f"label {bad} is outside 0 .. {count - 1}")
    return np.where(valid, whole, 0), valid


# -- shapes ------------------------------------------------------------------------------------------------------------


@graph_op("fold_batch")
def fold_batch(x: Value, *, axis: int) -> Value:
    """All axes before `axis` as one."""
    size = _shape(x)
    return ops.reshape(x, (prod(size[:axis]), *size[axis:]))


@graph_op("unfold_batch")
def unfold_batch(y: Value, x: Value, *, axis: int) -> Value:
    """The first axis of y as the axes that x has before `axis`."""
    return ops.reshape(y, (*_shape(x)[:axis], *_shape(y)[1:]))


@graph_op("crop_like")
def crop_like(x: Value, reference: Value, *, axis: int, offsets: Sequence[int]) -> Value:
    """From `axis` on, the part of x at the offsets that has the reference's size."""
    size = _shape(reference)
    cut = tuple(slice(start, start + size[axis + k]) for k, start in enumerate(offsets))
    out = x[(slice(None),) * axis + cut]
    if _shape(out)[axis:] != size[axis : axis + len(offsets)]:
        raise ShapeError(f"{size} from offsets {tuple(offsets)} does not lie in {_shape(x)}")
    return out


@graph_op("reshape_part")
def reshape_part(x: Value, *, target: Sequence[int], axis: int, end_axis: int) -> Value:
    """The axes axis .. end_axis - 1 as `target`: 0 copies the axis of the same place, -1 takes what is left."""
    size = _shape(x)
    middle = [size[axis + k] if n == 0 else n for k, n in enumerate(target)]
    return ops.reshape(x, (*size[:axis], *middle, *size[end_axis:]))


@graph_op("reduce_tail")
def reduce_tail(x: Value, *, axis: int, operation: str, coeff: float) -> Value:
    """coeff times the sum (of |x|, of x^2) or mean over the axes from `axis` on."""
    axes = tuple(range(axis, len(_shape(x))))
    if operation == "ASUM":
        x = ops.abs(x)
    elif operation == "SUMSQ":
        x = ops.square(x)
    if axes:
        x = ops.mean(x, axis=axes) if operation == "MEAN" else ops.sum(x, axis=axes)
    return x if coeff == 1 else ops.multiply(x, coeff)


@graph_op("argmax_top")
def argmax_top(x: Value, *, axis: int | None, top_k: int, with_values: bool) -> Any:
    """Places of the top_k largest, in falling order (of equals the higher place first, as Caffe's pairs sort)."""
    data = constant(x)
    flat = data.reshape(data.shape[0], -1) if axis is None else np.moveaxis(data, axis, -1)
    order = (flat.shape[-1] - 1 - np.argsort(-flat[..., ::-1], axis=-1, kind="stable"))[..., :top_k]
    values = np.take_along_axis(flat, order, axis=-1)
    if axis is not None:
        return np.ascontiguousarray(np.moveaxis(values if with_values else order.astype(data.dtype), -1, axis))
    rows = np.stack([order.astype(data.dtype), values], axis=1) if with_values else order.astype(data.dtype)[:, None]
    return np.ascontiguousarray(rows.reshape(*rows.shape, *(1,) * (data.ndim - 3)))


# -- element by element ------------------------------------------------------------------------------------------------


@graph_op("weighted_sum")
def weighted_sum(*parts: Value, coefficients: Sequence[float]) -> Value:
    """The sum of the parts, each times its coefficient."""
    total = None
    for part, factor in zip(parts, coefficients, strict=True):
        term = part if factor == 1 else ops.multiply(part, factor)
        total = term if total is None else ops.add(total, term)
    return total


@graph_op("power")
def power(x: Value, *, power: float, scale: float, shift: float) -> Value:
    """(shift + scale x)^power; the constant shift^power where nothing of x is left, as Caffe computes it."""
    if scale == 0 or power == 0:
        value = 1.0 if power == 0 else shift**power
        return ops.add(ops.multiply(x, 0.0), value)
    x = x if scale == 1 else ops.multiply(x, scale)
    x = x if shift == 0 else ops.add(x, shift)
    return x if power == 1 else ops.power(x, power)


@graph_op("exp_linear")
def exp_linear(x: Value, *, scale: float, shift: float) -> Value:
    """exp(shift + scale x)."""
    value = ops.exp(x if scale == 1 else ops.multiply(x, scale))
    return value if shift == 0 else ops.multiply(value, float(np.exp(min(shift, 700.0))))


@graph_op("log_linear")
def log_linear(x: Value, *, scale: float, shift: float, factor: float) -> Value:
    """factor log(shift + scale x)."""
    x = x if scale == 1 else ops.multiply(x, scale)
    value = ops.log(x if shift == 0 else ops.add(x, shift))
    return value if factor == 1 else ops.multiply(value, factor)


@graph_op("threshold")
def threshold(x: Value, *, threshold: float) -> Any:
    """1 where x > threshold, else 0; no gradient."""
    data = constant(x)
    return (data > threshold).astype(data.dtype)


@graph_op("dropout", stateful=True)
def dropout(x: Value, *, ratio: float, training: bool, rng: np.random.Generator | None = None) -> Value:
    """In training, elements kept with probability 1 - ratio, over 1 - ratio."""
    return dropout_sampled(x, ratio=ratio, rng=rng) if training else x


@graph_op("dropout_sampled")
def dropout_sampled(x: Value, *, ratio: float, rng: np.random.Generator | None = None) -> Value:
    """Elements kept with probability 1 - ratio, over 1 - ratio, in testing, too: a sample of a Bayesian net."""
    if ratio == 0:
        return x
    data = constant(x)
    keep = (rng or np.random.default_rng()).random(data.shape) >= ratio
    return ops.multiply(x, (keep / (1 - ratio)).astype(data.dtype))


@graph_op("dummy_data")
def dummy_data(*, shape_of_data: tuple[int, ...], filler: Message | None, rng: np.random.Generator | None = None) -> Any:
    """An array from a filler (zeros without one)."""
    if filler is None:
        return np.zeros(shape_of_data, np.float32)
    return fill(filler, shape_of_data, rng or np.random.default_rng())


@graph_op("embed")
def embed(x: Value, weight: Value, bias: Value = None) -> Value:
    """weight[x] + bias."""
    rows, _ = indices(x, _shape(weight)[0])
    out = ops.reshape(ops.take(weight, rows.reshape(-1), 0), (*rows.shape, _shape(weight)[1]))
    return out if bias is None else ops.add(out, bias)


# -- normalisation -----------------------------------------------------------------------------------------------------


@graph_op("stored_statistics")
def stored_statistics(mean: Value, variance: Value, factor: Value) -> tuple[Value, Value]:
    """The running sums over their factor; zero where the factor is."""
    count = float(constant(factor).reshape(-1)[0])
    by = 0.0 if count == 0 else 1 / np.float32(count)
    return ops.multiply(mean, by), ops.multiply(variance, by)


@graph_op("batch_norm_train")
def batch_norm_train(
    x: Value, mean: Value, variance: Value, factor: Value, *, eps: float, fraction: float
) -> tuple[Value, Any, Any, Any]:
    """x normalised by the batch's own statistics, and the running sums after it (variance as an unbiased estimate)."""
    data = constant(x)
    axes = tuple(k for k in range(data.ndim) if k != 1) if data.ndim > 1 else (0,)
    count = data.size // max(data.shape[1], 1) if data.ndim > 1 else data.size
    out = ops.standardize(x, axes, eps)
    found, spread = (f(data, axes, keepdims=data.ndim == 1) for f in (ops.mean, ops.var))
    unbiased = spread * (count / (count - 1) if count > 1 else 1.0)
    kept = np.float32(fraction)
    return (
        out,
        (constant(mean) * kept + found).astype(np.float32),
        (constant(variance) * kept + unbiased).astype(np.float32),
        (constant(factor) * kept + 1).astype(np.float32),
    )


@graph_op("mvn")
def mvn(x: Value, *, across_channels: bool, variance: bool, eps: float) -> Value:
    """(x - mean) / (sqrt(var) + eps) over space, and channels if across_channels."""
    axes = tuple(range(1 if across_channels else 2, len(_shape(x))))
    if not axes:
        centred = ops.subtract(x, x)
        return ops.divide(centred, eps) if variance else centred
    centred = ops.subtract(x, ops.mean(x, axis=axes, keepdims=True))
    if not variance:
        return centred
    return ops.divide(centred, ops.add(_sqrt(ops.mean(ops.square(centred), axis=axes, keepdims=True)), eps))


def _flat_at_zero(g: Value, ans: Value, x: Value) -> Value:
    zero = array_of(ans) == 0
    return ops.where(zero, 0.0, ops.divide(ops.multiply(g, 0.5), ops.where(zero, 1.0, ans)))


# The square root with slope 0 at 0: a blank image has no deviation, and its gradient must not be NaN.
_sqrt = primitive("caffe_sqrt", lambda x: np.sqrt(x), [_flat_at_zero], saves=("ans",))


@graph_op("lrn_within")
def lrn_within(x: Value, *, size: int, alpha: float, beta: float) -> Value:
    """x (1 + alpha m)^-beta, m the mean of x^2 over a size x size window (padding counts)."""
    pad = (size - 1) // 2
    mean = ops.avg_pool(ops.square(x), (size, size), stride=(1, 1), padding=((pad, pad),) * 2, count_include_pad=True)
    return ops.multiply(x, ops.power(ops.add(ops.multiply(mean, alpha), 1.0), -beta))


@graph_op("l2_normalize")
def l2_normalize(x: Value, scale: Value, *, across_spatial: bool, eps: float) -> Value:
    """x / sqrt(sum x^2 + eps) * scale; the sum over channels, or over the whole image."""
    axes = tuple(range(1, len(_shape(x)))) if across_spatial else (1,)
    norm = ops.sqrt(ops.add(ops.sum(ops.square(x), axis=axes, keepdims=True), eps))
    if len(_shape(scale)) == 1:
        scale = ops.reshape(scale, (-1, *(1,) * (len(_shape(x)) - 2)))
    return ops.multiply(ops.divide(x, norm), scale)


@graph_op("max_pool_with_mask")
def max_pool_with_mask(x: Value, **window: Any) -> tuple[Value, Any]:
    """The maximum over windows, and its flat position in the plane as a float."""
    pooled, switches = ops.max_pool(x, return_switches=True, **window)
    return pooled, np.asarray(constant(switches)).astype(np.float32)
