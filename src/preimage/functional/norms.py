"""Normalisations, as functions of running values, weight and bias; dropout."""

from __future__ import annotations

import math

import numpy as np

from preimage import ops
from preimage.autograd import array_of
from preimage.errors import OptionError, ShapeError
from preimage.ops.broadcast import in_wide
from preimage.ops.normalise import grouped, instance_normalised, moved, normalise, scaled_by, standardized
from preimage.ops.operands import count_of, number_of, operand, shape_sizes
from preimage.ops.random import chance_of, dropped
from preimage.typing import Array, Operand, Shape, Value

__all__ = [
    "batch_norm", "dropout", "dropout1d", "dropout2d", "dropout3d", "group_norm", "instance_norm", "layer_norm", "local_response_norm", "rms_norm",
]  # fmt: skip


def batch_norm(
    input: Operand,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Operand | None = None,
    bias: Operand | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Value:
    """Every channel less its mean, over its standard deviation, times weight plus bias: of the batch in training, else the running ones.

    In training the arrays running_mean and running_var, where given, are moved towards the batch's, in place.
    Raises: ShapeError for fewer than two axes, and in training for a single value per channel; OptionError without running values in evaluation.
    """
    x = _channelled(input, "batch_norm")
    step, eps = number_of(momentum, "batch_norm: momentum"), number_of(eps, "batch_norm: eps", least=0)
    if not training:
        if running_mean is None or running_var is None:
            raise OptionError("batch_norm: give running_mean and running_var, or training=True")
        return scaled_by(
            x, _per_channel(running_mean, x, "running_mean"), _per_channel(running_var, x, "running_var"), weight, bias, eps
        )
    count = x.shape[0] * math.prod(x.shape[2:])
    if count <= 1:
        raise ShapeError(f"batch_norm: training needs more than one value per channel, got shape {x.shape}")
    y, mean, var = normalise(x, weight, bias, images=True, eps=eps)
    _move(running_mean, running_var, mean, var, count, step, x)
    return y


def instance_norm(
    input: Operand,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Operand | None = None,
    bias: Operand | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Value:
    """Every channel of every image less its mean, over its standard deviation; with use_input_stats=False by the running values.

    Running values that are given are moved towards the mean of the images' own, in place.
    """
    x = _channelled(input, "instance_norm")
    if not use_input_stats:
        return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    count = math.prod(x.shape[2:])
    if x.ndim < 3 or count <= 1:
        raise ShapeError(f"instance_norm: needs more than one value per channel of an image, got shape {x.shape}")
    eps = number_of(eps, "instance_norm: eps", least=0)
    if running_mean is None and running_var is None:
        scale, shift = (None if v is None else _of_channels(v, x, name) for v, name in ((weight, "weight"), (bias, "bias")))
        return instance_normalised(x, scale, shift, eps)
    y, mean, var = normalise(x, weight, bias, images=False, eps=eps)
    if not x.shape[0]:  # nothing to move the running values to
        return y
    means, variances = (np.asarray(ops.mean(np.asarray(array_of(v)).reshape(x.shape[0], -1), 0)) for v in (mean, var))
    _move(running_mean, running_var, means, variances, count, number_of(momentum, "instance_norm: momentum"), x)
    return y


def _channelled(x: Operand, name: str) -> Value:
    value = operand(x, "input")
    if value.ndim < 2:
        raise ShapeError(f"{name}: wanted (N, C, ...), got shape {value.shape}")
    return value


def _of_channels(given: Operand, x: Value, name: str) -> Value:
    value = operand(given, name)
    if value.shape != (x.shape[1],):
        raise ShapeError(f"{name} has shape {value.shape}, wanted ({x.shape[1]},): one per channel")
    return value


def _per_channel(running: Array, x: Value, name: str) -> Array:
    return np.asarray(array_of(_of_channels(running, x, name)))


def _move(
    running_mean: Array | None, running_var: Array | None, mean: Array, var: Array, count: int, rate: float, x: Value
) -> None:
    """In place, as torch does; the variance is the unbiased one."""
    unbiased = np.asarray(var) * np.asarray(count / (count - 1), np.asarray(var).dtype)
    for name, running, batch in (("running_mean", running_mean, mean), ("running_var", running_var, unbiased)):
        if running is not None:
            held = _per_channel(running, x, name)
            held[...] = moved(held, batch, rate)


def layer_norm(
    input: Operand, normalized_shape: Shape, weight: Operand | None = None, bias: Operand | None = None, eps: float = 1e-5
) -> Value:
    """Standardised over the last axes, of shape normalized_shape, times weight plus bias of that shape."""
    x, axes = _last_axes(input, normalized_shape, "layer_norm")
    given = [None if v is None else operand(v, name) for v, name in ((weight, "weight"), (bias, "bias"))]
    return standardized(x, given[0], given[1], axes=axes, eps=number_of(eps, "layer_norm: eps", least=0))


def rms_norm(input: Operand, normalized_shape: Shape, weight: Operand | None = None, eps: float | None = None) -> Value:
    """x over the root of the mean of its squares over the last axes, times weight. eps None: the dtype's own."""
    x, axes = _last_axes(input, normalized_shape, "rms_norm")
    small = (
        float(np.finfo(np.float64 if x.dtype == np.float64 else np.float32).eps)
        if eps is None
        else number_of(eps, "rms_norm: eps", least=0)
    )

    def run(wide: Value) -> Value:
        y = ops.multiply(wide, ops.rsqrt(ops.add(ops.mean(ops.square(wide), axes, keepdims=True), small)))
        return y if weight is None else ops.multiply(y, ops.astype(operand(weight, "weight"), wide.dtype))

    return ops.astype(run(in_wide(x)), x.dtype)


def _last_axes(x: Operand, shape: Shape, name: str) -> tuple[Value, tuple[int, ...]]:
    value, last = operand(x, "input"), shape_sizes(shape, f"{name}: normalized_shape")
    if value.shape[value.ndim - len(last) :] != last:
        raise ShapeError(f"{name}: wanted last axes {last}, got shape {value.shape}")
    return value, tuple(range(value.ndim - len(last), value.ndim))


def group_norm(
    input: Operand, num_groups: int, weight: Operand | None = None, bias: Operand | None = None, eps: float = 1e-5
) -> Value:
    """Each image standardised over each of num_groups groups of channels and all space, times weight plus bias of each channel."""
    x, groups = _channelled(input, "group_norm"), count_of(num_groups, "group_norm: num_groups", 1)
    if x.shape[1] % groups:
        raise OptionError(f"group_norm: num_groups {groups} must divide the {x.shape[1]} channels of shape {x.shape}")
    return grouped(x, groups, weight, bias, eps=number_of(eps, "group_norm: eps", least=0))


def local_response_norm(input: Operand, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Value:
    """x over (k + alpha times the mean of the squares of `size` channels around)^beta (Krizhevsky et al. 2012)."""
    x, size = _channelled(input, "local_response_norm"), count_of(size, "local_response_norm: size", 1)
    shape = (x.shape[0], 1, x.shape[1], math.prod(x.shape[2:]))

    def run(wide: Value) -> Value:
        rows = ops.reshape(ops.square(wide), shape)
        around = ops.avg_pool(ops.pad(rows, ((size // 2, (size - 1) // 2), (0, 0))), (size, 1), stride=1)
        return ops.divide(wide, ops.power(ops.add(ops.multiply(ops.reshape(around, x.shape), alpha), k), beta))

    return ops.astype(run(in_wide(x)), x.dtype)


def dropout(input: Operand, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
    """In training every element is 0 with probability p, the others times 1 / (1 - p). The library's own generator draws (nn.init.generator)."""
    x = operand(input, "input")
    return _dropped("dropout", x, p, training, x.shape)


def _dropped(name: str, x: Value, p: float, training: bool, drawn: tuple[int, ...]) -> Value:
    chance = chance_of(p, name)
    return dropped(x, chance, drawn, None) if training and chance else x


def _channels_dropped(name: str, input: Operand, p: float, training: bool) -> Value:
    x = _channelled(input, name)
    return _dropped(name, x, p, training, (*x.shape[:2], *[1] * (x.ndim - 2)))


def dropout1d(input: Operand, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
    """Dropout of whole channels of (N, C, L)."""
    return _channels_dropped("dropout1d", input, p, training)


def dropout2d(input: Operand, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
    """Dropout of whole channels of (N, C, H, W)."""
    return _channels_dropped("dropout2d", input, p, training)


def dropout3d(input: Operand, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
    """Dropout of whole channels of (N, C, D, H, W)."""
    return _channels_dropped("dropout3d", input, p, training)
