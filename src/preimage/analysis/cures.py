"""What helps against checkerboards: weights for which a constant gives a constant, good starts, and the resize-convolution.

    unity(g, w)            these weights, changed so that every phase has the same sum
    icnr(shape, stride)    a start whose phases are equal: the deconvolution begins as nearest up-sampling of a convolution
    bilinear               in preimage.nn.init: the stencil of linear interpolation
    resize_conv(g, w)      nearest up-sampling and a convolution that compute the same, where there are such
    deconv_of_resize(v, stride)   the reverse, which always is

With u the small side spread out by zeros, a deconvolution is the full convolution u * w. Nearest up-sampling is u * box, with a box
of `stride` ones along each axis. So it is an up-sampling and a convolution exactly where w = box * v: where the polynomial of w is
divisible by the box's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.analysis.coverage import phase_of_tap, phase_sums
from preimage.autograd import array_of
from preimage.errors import OptionError, ShapeError
from preimage.geometry import ConvGeometry, per_axis
from preimage.nn import init
from preimage.ops import conv, upsample

__all__ = ["ResizeConv", "deconv_of_resize", "icnr", "resize_conv", "unity"]

Array = NDArray[Any]


def _spread(geometry: ConvGeometry, per_phase: Array) -> Array:
    """A value for each phase as a value for each tap."""
    for axis in range(geometry.ndim):
        per_phase = np.take(per_phase, phase_of_tap(geometry, axis), axis=2 + axis)
    return per_phase


def unity(geometry: ConvGeometry, w: Any, *, how: str = "scale") -> Array:
    """The weights changed so that all phases have the same sum for each pair of channels: a constant gives a constant.

    how="scale": each phase is multiplied, so that zero weights stay zero; a partition of unity where the weights were a window.
    how="shift": each phase has a number added, the least change (in the mean square) that does it; works for any sums.
    The mean over the phases is kept.

    Raises: OptionError where a phase has no taps (the kernel is smaller than the stride, or the dilation shares a factor with
    it), or where scaling would have to turn or divide by nothing: a phase's sum is 0 or of the other sign than the mean.
    """
    g, weights = geometry, np.asarray(array_of(w))
    if not isinstance(how, str) or how not in ("scale", "shift"):
        raise OptionError(f"how must be 'scale' or 'shift', got {how!r}")
    sums = phase_sums(g, weights)
    taps: Any = np.ones((1, 1))
    for axis in range(g.ndim):
        counts = np.bincount(phase_of_tap(g, axis), minlength=g.stride[axis])
        if not counts.all():
            raise OptionError(
                f"axis {axis}: {int((counts == 0).sum())} of {g.stride[axis]} phases have no taps (kernel {g.kernel_size[axis]}, stride"
                f" {g.stride[axis]}, dilation {g.dilation[axis]}): no weights give them a value; use a kernel of at least"
                f" {g.stride[axis]} and a dilation that shares no factor with the stride"
            )
        taps = np.multiply.outer(taps, counts)
    space = tuple(range(2, 2 + g.ndim))
    mean = sums.mean(axis=space, keepdims=True)
    if how == "shift":
        changed = weights.astype(np.float64) + _spread(g, (mean - sums) / taps)
        return changed.astype(weights.dtype)
    size = np.abs(weights).astype(np.float64).sum(axis=space, keepdims=True)
    stuck = (sums * np.sign(mean) <= 1e-12 * size) & (size > 0)
    if stuck.any():
        where = tuple(int(i) for i in np.argwhere(stuck)[0])
        raise OptionError(
            f"the weights of channels {where[:2]}, phase {where[2:]}, sum to {sums[where]:.3g} where the mean over the phases is"
            f" {mean[(*where[:2], *[0] * g.ndim)]:.3g}: no factor makes them equal; how='shift' does"
        )
    with np.errstate(all="ignore"):
        factor = np.where(size > 0, mean / sums, 1.0)
    return (weights.astype(np.float64) * _spread(g, factor)).astype(weights.dtype)


def icnr(shape: Any, stride: Any, *, base: Callable[..., Array] = init.kaiming_normal, rng: Any = None) -> Array:
    """A start for a deconvolution without checkerboard: all phases equal (Aitken et al. 2017, for the transposed layer).

    shape: (in, out // groups, *kernel) with every kernel size a multiple of the stride. `base` starts the weights of one phase.

    Raises: ShapeError where the stride does not divide the kernel.
    """
    shape = tuple(shape)
    strides = per_axis(stride, len(shape) - 2, "stride")
    for axis, (k, s) in enumerate(zip(shape[2:], strides, strict=True)):
        if k % s:
            raise ShapeError(
                f"icnr: kernel size {k} along axis {axis} must be a multiple of the stride {s}; the nearest is {-(-k // s) * s}"
            )
    weight = base((*shape[:2], *(k // s for k, s in zip(shape[2:], strides, strict=True))), rng=rng)
    for axis, s in enumerate(strides):
        weight = np.repeat(weight, s, axis=2 + axis)
    return weight


@dataclass(frozen=True)
class ResizeConv:
    """Nearest up-sampling by `scale`, then a convolution: conv(upsample(y), weight, padding=padding, groups=groups)."""

    scale: tuple[int, ...]
    weight: Array
    padding: tuple[tuple[int, int], ...]
    groups: int

    def __call__(self, y: Any, b: Any = None) -> Any:
        """The layer on an input."""
        wide = upsample(y, scale_factor=self.scale) if any(s != 1 for s in self.scale) else y
        return conv(wide, self.weight, b, padding=self.padding, groups=self.groups)


def resize_conv(geometry: ConvGeometry, w: Any) -> ResizeConv:
    """The nearest up-sampling and convolution that compute just what the deconvolution with weights w does.

    Raises: OptionError, with the reason, where there is none: the weights are not a box of the stride convolved with another
    kernel, the kernel is smaller than the stride, or it is dilated.
    """
    g, weights = geometry, np.asarray(array_of(w))
    if weights.shape != g.weight_shape:
        raise ShapeError(f"w has shape {weights.shape}, the geometry wants {g.weight_shape}")
    if any(d != 1 and s != 1 for d, s in zip(g.dilation, g.stride, strict=True)):
        raise OptionError(f"no resize-convolution: dilation {g.dilation} leaves gaps that an up-sampling by {g.stride} fills")
    for axis, (k, s) in enumerate(zip(g.kernel_size, g.stride, strict=True)):
        if k < s:
            raise OptionError(
                f"no resize-convolution: kernel size {k} along axis {axis} is smaller than the stride {s}, so cells stay empty that"
                " an up-sampling fills"
            )
    found = _divided(weights.astype(np.float64), g.stride)
    if isinstance(found, str):
        raise OptionError(
            f"no resize-convolution: {found}; icnr() starts with weights that have one, unity() removes the checkerboard"
        )
    if any(d != 1 for d in g.dilation):
        found = _dilated(found, g.dilation)
    padding = []
    for axis in range(g.ndim):
        lo, hi = g.padding[axis]
        reach = found.shape[2 + axis] - 1
        padding.append((reach - lo, reach - hi + g.remainder[axis]))
    space = tuple(slice(None, None, -1) for _ in range(g.ndim))
    grouped = found[(slice(None), slice(None), *space)].reshape(g.groups, g.out_channels_per_group, *found.shape[1:])
    swapped = np.swapaxes(grouped, 1, 2)
    made = swapped.reshape(g.in_channels, g.out_channels_per_group, *found.shape[2:])
    return ResizeConv(g.stride, np.ascontiguousarray(made).astype(weights.dtype), tuple(padding), g.groups)


def _dilated(w: Array, dilation: tuple[int, ...]) -> Array:
    """The kernel with its gaps written out."""
    size = tuple(d * (k - 1) + 1 for k, d in zip(w.shape[2:], dilation, strict=True))
    out = np.zeros((*w.shape[:2], *size))
    out[(slice(None), slice(None), *(slice(None, None, d) for d in dilation))] = w
    return out


def _divided(w: Array, stride: tuple[int, ...]) -> Array | str:
    """w divided by a box of the stride along every axis; the reason where it leaves a remainder."""
    allowed = 8 * np.finfo(np.float32).eps * np.abs(w).max(initial=0.0)
    for axis, s in enumerate(stride, 2):
        line = np.moveaxis(w, axis, 0)
        length = len(line) - s + 1
        v = np.zeros((length, *line.shape[1:]))
        for t in range(length):
            v[t] = line[t] - v[max(0, t - s + 1) : t].sum(axis=0)
        for t in range(length, len(line)):
            rest = np.abs(line[t] - v[max(0, t - s + 1) :].sum(axis=0)).max(initial=0.0)
            if rest > allowed * prod(w.shape[2:]):
                return f"the weights along axis {axis - 2} are not a box of {s} convolved with a kernel of {length} (remainder {rest:.3g})"
        w = np.moveaxis(v, 0, axis)
    return w


def deconv_of_resize(v: Any, stride: Any, *, groups: int = 1, padding: Any = 0) -> tuple[Array, tuple[tuple[int, int], ...]]:
    """The deconvolution that computes conv(upsample(y, stride), v, padding=padding, groups=groups): its weight and padding.

    v: (out, in // groups, *kernel) of a convolution with stride 1. The deconvolution has the stride of the up-sampling.
    """
    weights = np.asarray(array_of(v)).astype(np.float64)
    ndim = weights.ndim - 2
    strides = per_axis(stride, ndim, "stride")
    wide = (groups * weights.shape[1], *(s * max(1, k) for s, k in zip(strides, weights.shape[2:], strict=True)))
    g = ConvGeometry.from_conv((1, *wide), weights.shape, padding=padding, groups=groups)
    turned = weights[(slice(None), slice(None), *(slice(None, None, -1) for _ in range(ndim)))]
    grouped = turned.reshape(groups, weights.shape[0] // groups, *weights.shape[1:])
    w = np.swapaxes(grouped, 1, 2).reshape(groups * weights.shape[1], weights.shape[0] // groups, *weights.shape[2:])
    for axis, s in enumerate(strides, 2):
        length = w.shape[axis] + s - 1
        out = np.zeros((*w.shape[:axis], length, *w.shape[axis + 1 :]))
        for t in range(s):
            out[(slice(None),) * axis + (slice(t, t + w.shape[axis]),)] += w
        w = out
    kernel = weights.shape[2:]
    pads = tuple((k - 1 - lo, k - 1 - hi) for k, (lo, hi) in zip(kernel, g.padding, strict=True))
    return w.astype(np.asarray(array_of(v)).dtype), pads
