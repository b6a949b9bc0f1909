"""Normalisation layers and dropout."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np

from preimage import functional, ops
from preimage.autograd import array_of
from preimage.engines.recording import recorder
from preimage.errors import OptionError, ShapeError
from preimage.nn import init
from preimage.nn.module import Layer, Parameter
from preimage.ops.layout import check_layout
from preimage.ops.normalise import grouped, instance_normalised, moved, normalise, scaled_by, standardized
from preimage.ops.operands import check_room, count_of, flag_of, float_dtype, number_of, operand, shape_of, shape_sizes
from preimage.ops.random import chance_of, dropped
from preimage.typing import Array, DTypeLike, Layout, Operand, Seed, Shape, Value

__all__ = [
    "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "GroupNorm", "InstanceNorm1d",
    "InstanceNorm2d", "InstanceNorm3d", "LayerNorm", "LocalResponseNorm", "RMSNorm",
]  # fmt: skip


class _Norm(Layer):
    """Weight and bias per channel, if `affine`; `_run` sees (N, C, *spatial) whatever the layout."""

    def __init__(self, channels: int, eps: float, affine: bool, dtype: DTypeLike, layout: Layout) -> None:
        super().__init__()
        name = type(self).__name__
        channels = count_of(channels, f"{name}: the number of channels", 0)
        self.eps, self.affine, self.layout = (
            number_of(eps, f"{name}: eps", least=0),
            flag_of(affine, f"{name}: affine"),
            check_layout(layout),
        )
        dtype = float_dtype(dtype)
        check_room(name, (channels,), dtype)
        self.register_parameter("weight", Parameter(np.ones(channels, dtype)) if self.affine else None)
        self.register_parameter("bias", Parameter(np.zeros(channels, dtype)) if self.affine else None)

    def forward(self, x: Operand, slope: float | None = None) -> Value:
        """slope: of a relu (0) or leaky relu that follows, where the layer can compute it (`Sequential` asks so of `BatchNorm`)."""
        if self.layout == "channels_first" or len(shape_of(x)) < 3:
            return self._run(x, slope)
        return ops.moveaxis(self._run(ops.moveaxis(x, -1, 1), slope), 1, -1)

    def _run(self, x: Operand, slope: float | None) -> Value:
        raise NotImplementedError


class _Tracking(_Norm):
    """Running mean and variance of every channel, moved in training by `momentum` (None: the plain average over all batches)."""

    def __init__(
        self, num_features: int, eps: float, momentum: float | None, affine: bool, track: bool, dtype: DTypeLike, layout: Layout
    ) -> None:
        super().__init__(num_features, eps, affine, dtype, layout)
        name = type(self).__name__
        self.num_features = count_of(num_features, f"{name}: num_features", 0)
        self.momentum = None if momentum is None else number_of(momentum, f"{name}: momentum")
        self.track_running_stats = track = flag_of(track, f"{name}: track_running_stats")
        for buffer, start in (("running_mean", np.zeros), ("running_var", np.ones)):
            self.register_buffer(buffer, start(self.num_features, dtype) if track else None)
        self.register_buffer("num_batches_tracked", np.zeros((), np.int64) if track else None)

    def _track(self, mean: Array, var: Array, count: int) -> None:
        here = recorder()
        if here is not None:
            here.tell(self._move, (mean, var), count)
        else:
            self._move(mean, var, count)

    @np.errstate(all="ignore")
    def _move(self, mean: Array, var: Array, count: int) -> None:
        seen: Any = np.asarray(self._buffers["num_batches_tracked"]) + 1
        self._buffers["num_batches_tracked"] = np.asarray(seen)
        rate = 1.0 / float(seen) if self.momentum is None else self.momentum
        for name, batch in (("running_mean", mean), ("running_var", var * (count / (count - 1)))):
            setattr(self, name, moved(getattr(self, name), batch, rate))

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine},"
            f" track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_Tracking):
    """(x - mean) / sqrt(var + eps) * weight + bias, mean and variance of each channel over batch and space.

    In training those are the batch's, and the running ones move towards them by `momentum` (None: the plain average over all
    batches; the running variance is the unbiased one); in evaluation the running ones are used.

    Raises: ShapeError for other axes or channels, and in training for a single value per channel.
    """

    ndims: tuple[int, ...]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        layout: Layout = "channels_first",
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype, layout)

    def _run(self, x: Operand, slope: float | None) -> Value:
        shape = shape_of(x)
        if len(shape) not in self.ndims or shape[1] != self.num_features:
            wanted = " or ".join(str(n) for n in self.ndims)
            raise ShapeError(f"{type(self).__name__}: wanted {wanted} axes and {self.num_features} channels, got shape {shape}")
        if not self.training and self.track_running_stats:
            return scaled_by(x, self.running_mean, self.running_var, self.weight, self.bias, self.eps)
        count = shape[0] * math.prod(shape[2:])
        if self.training and count <= 1:
            raise ShapeError(f"{type(self).__name__}: training needs more than one value per channel, got shape {shape}")
        y, mean, var = normalise(x, self.weight, self.bias, images=True, eps=self.eps, slope=slope)
        if self.training and self.track_running_stats:
            self._track(mean, var, count)
        return y


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of (N, C) or (N, C, L)."""

    ndims = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of (N, C, H, W)."""

    ndims = (4,)


class BatchNorm3d(_BatchNorm):
    """Batch normalisation of (N, C, D, H, W)."""

    ndims = (5,)


class GroupNorm(_Norm):
    """Each image standardised over each of num_groups groups of channels and all space (Wu and He 2018).

    Raises: OptionError where the groups do not divide the channels; ShapeError for other channels.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        layout: Layout = "channels_first",
    ) -> None:
        num_groups, num_channels = (
            count_of(v, f"GroupNorm: {k}", 1) for k, v in (("num_groups", num_groups), ("num_channels", num_channels))
        )
        if num_channels % num_groups:
            raise OptionError(f"GroupNorm: num_groups {num_groups} must divide num_channels {num_channels}")
        super().__init__(num_channels, eps, affine, dtype, layout)
        self.num_groups, self.num_channels = num_groups, num_channels

    def _run(self, x: Operand, slope: float | None) -> Value:
        shape = shape_of(x)
        if len(shape) < 2 or shape[1] != self.num_channels:
            raise ShapeError(f"GroupNorm: wanted {self.num_channels} channels on axis 1, got shape {shape}")
        return grouped(x, self.num_groups, self.weight, self.bias, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class _InstanceNorm(_Tracking):
    """Each channel of each image standardised over space (Ulyanov et al. 2016).

    track_running_stats: in evaluation the running mean and variance are used, which in training move towards the mean of the images'
    own by `momentum`.

    Raises: ShapeError for other axes or channels, and for a single value per channel, whose answer would be 0 whatever it is.
    """

    ndim: int

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        dtype: DTypeLike = np.float32,
        layout: Layout = "channels_first",
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype, layout)

    def _run(self, x: Operand, slope: float | None) -> Value:
        shape = shape_of(x)
        if len(shape) != self.ndim + 2 or shape[1] != self.num_features:
            raise ShapeError(
                f"{type(self).__name__}: wanted (N, {self.num_features}, {self.ndim} spatial axes), got shape {shape}"
            )
        if not self.training and self.track_running_stats:
            return scaled_by(x, self.running_mean, self.running_var, self.weight, self.bias, self.eps)
        count = math.prod(shape[2:])
        if count == 1:
            raise ShapeError(f"{type(self).__name__}: needs more than one value per channel of an image, got shape {shape}")
        if not self.training or not self.track_running_stats:
            return instance_normalised(operand(x, "x"), self.weight, self.bias, self.eps)
        y, mean, var = normalise(x, self.weight, self.bias, images=False, eps=self.eps)
        if shape[0]:
            of_images = (ops.mean(np.asarray(array_of(v)).reshape(shape[0], -1), 0) for v in (mean, var))
            self._track(next(of_images), next(of_images), count)
        return y


class InstanceNorm1d(_InstanceNorm):
    """Instance normalisation of (N, C, L)."""

    ndim = 1


class InstanceNorm2d(_InstanceNorm):
    """Instance normalisation of (N, C, H, W)."""

    ndim = 2


class InstanceNorm3d(_InstanceNorm):
    """Instance normalisation of (N, C, D, H, W)."""

    ndim = 3


class LayerNorm(Layer):
    """Standardised over the last axes, of shape normalized_shape (Ba et al. 2016).

    Raises: ShapeError where the last axes have another shape.
    """

    def __init__(
        self,
        normalized_shape: Shape,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__()
        self.normalized_shape = shape_sizes(normalized_shape, "LayerNorm: normalized_shape")
        self.eps, dtype = number_of(eps, "LayerNorm: eps", least=0), float_dtype(dtype)
        self.elementwise_affine, bias = (
            flag_of(elementwise_affine, "LayerNorm: elementwise_affine"),
            flag_of(bias, "LayerNorm: bias"),
        )
        shape = self.normalized_shape
        check_room("LayerNorm", shape, dtype)
        self.register_parameter("weight", Parameter(np.ones(shape, dtype)) if self.elementwise_affine else None)
        self.register_parameter("bias", Parameter(np.zeros(shape, dtype)) if self.elementwise_affine and bias else None)

    def forward(self, x: Operand) -> Value:
        shape, last = shape_of(x), self.normalized_shape
        if shape[len(shape) - len(last) :] != last:
            raise ShapeError(f"LayerNorm: wanted last axes {last}, got shape {shape}")
        axes = tuple(range(len(shape) - len(last), len(shape)))
        return standardized(operand(x, "x"), self.weight, self.bias, axes=axes, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class RMSNorm(Layer):
    """x over the root of the mean of its squares over the last axes, of shape normalized_shape, times a weight of that shape.

    eps None: the dtype's own. Source: Zhang and Sennrich 2019.
    """

    def __init__(
        self, normalized_shape: Shape, eps: float | None = None, elementwise_affine: bool = True, *, dtype: DTypeLike = np.float32
    ) -> None:
        super().__init__()
        self.normalized_shape = shape_sizes(normalized_shape, "RMSNorm: normalized_shape")
        self.eps = None if eps is None else number_of(eps, "RMSNorm: eps", least=0)
        self.elementwise_affine, dtype = flag_of(elementwise_affine, "RMSNorm: elementwise_affine"), float_dtype(dtype)
        check_room("RMSNorm", self.normalized_shape, dtype)
        start = Parameter(np.ones(self.normalized_shape, dtype)) if self.elementwise_affine else None
        self.register_parameter("weight", start)

    def forward(self, x: Operand) -> Value:
        value: Any = operand(x, "x")
        found: Value = functional.rms_norm(value, self.normalized_shape, self.weight, self.eps)
        return found

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class LocalResponseNorm(Layer):
    """x over (k + alpha times the mean of the squares of `size` channels around)^beta. Source: Krizhevsky et al. 2012."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size = count_of(size, "LocalResponseNorm: size", 1)
        self.alpha, self.beta, self.k = (
            number_of(value, f"LocalResponseNorm: {name}") for name, value in (("alpha", alpha), ("beta", beta), ("k", k))
        )

    def forward(self, x: Operand) -> Value:
        value: Any = operand(x, "x")
        found: Value = functional.local_response_norm(value, self.size, self.alpha, self.beta, self.k)
        return found

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class Dropout(Layer):
    """In training every element is 0 with probability p, the others times 1 / (1 - p); in evaluation nothing happens.

    rng: a numpy Generator or seed of its own. Raises: OptionError for a p outside 0..1.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False, *, rng: Seed = None) -> None:
        super().__init__()
        self.p = chance_of(p, type(self).__name__)
        self._rng = None if rng is None else init.generator(rng)

    def _mask_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def forward(self, x: Operand) -> Value:
        if not self.training or not self.p:
            return cast("Value", x)
        x = operand(x, "x")
        return dropped(x, self.p, self._mask_shape(x.shape), self._rng)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class _ChannelDropout(Dropout):
    """Whole channels are dropped."""

    def __init__(self, p: float = 0.5, inplace: bool = False, *, rng: Seed = None, layout: Layout = "channels_first") -> None:
        super().__init__(p, inplace, rng=rng)
        self.layout = check_layout(layout)

    def _mask_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        ones = [1] * (len(shape) - 2)
        return (shape[0], *ones, shape[-1]) if self.layout == "channels_last" else (*shape[:2], *ones)


class Dropout1d(_ChannelDropout):
    """Dropout of whole channels of (N, C, L)."""


class Dropout2d(_ChannelDropout):
    """Dropout of whole channels of (N, C, H, W)."""


class Dropout3d(_ChannelDropout):
    """Dropout of whole channels of (N, C, D, H, W)."""
