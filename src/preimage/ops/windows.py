"""Windows over the spatial axes: which taps of which windows lie inside the input. Shared by all pooling.

The window of output o along one axis covers the positions o * stride - lo + k * dilation, k = 0 .. kernel - 1. For a fixed
tap k the outputs whose position lies inside the input are a range, and their positions a strided slice: so pooling is a loop
over taps of whole-array operations, and nothing is padded or copied.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from preimage.errors import GeometryError, OptionError

__all__ = ["Axis", "Windows", "per_axis", "taps", "windows_of"]


@dataclass(frozen=True, slots=True)
class Axis:
    """The windows along one axis: outputs of them, over `size` input elements."""

    size: int
    outputs: int
    kernel: int
    stride: int
    lo: int
    hi: int
    dilation: int

    def reach(self, k: int) -> tuple[slice, slice] | None:
        """For tap k: the outputs whose element lies inside, and those elements; None if there is none."""
        offset = k * self.dilation - self.lo
        first = max(0, -(offset // self.stride))
        last = min(self.outputs - 1, (self.size - 1 - offset) // self.stride)
        if last < first:
            return None
        start = first * self.stride + offset
        return slice(first, last + 1), slice(start, (last - first) * self.stride + start + 1, self.stride)

    def covered(self, padded: bool) -> list[int]:
        """How many taps of each window count: inside the input, or (padded) inside input and padding."""
        first, last = (-self.lo, self.size + self.hi) if padded else (0, self.size)
        starts = (o * self.stride - self.lo for o in range(self.outputs))
        return [sum(first <= s + k * self.dilation < last for k in range(self.kernel)) for s in starts]


Windows = tuple[Axis, ...]


def per_axis(value: Any, ndim: int, name: str, least: int) -> tuple[int, ...]:
    """One int per spatial axis from an int or a sequence of them. Raises: OptionError."""
    values = tuple(value) if isinstance(value, Iterable) else (value,) * ndim
    try:
        sizes = tuple(operator.index(v) for v in values)
    except TypeError:
        raise OptionError(f"{name} must be an int or {ndim} of them, got {value!r}") from None
    if len(sizes) != ndim or any(isinstance(v, bool) for v in values):
        raise OptionError(f"{name} must be an int or {ndim} of them, got {value!r}")
    if any(v < least for v in sizes):
        raise OptionError(f"{name} must be at least {least}, got {value!r}")
    return sizes


def _pairs(padding: Any, ndim: int) -> list[tuple[int, int]]:
    if isinstance(padding, Iterable):
        listed = list(padding)
        if len(listed) == ndim and all(isinstance(p, Iterable) for p in listed):
            return [(lo, hi) for lo, hi in (per_axis(p, 2, "a padding pair", 0) for p in listed)]
        return [(p, p) for p in per_axis(listed, ndim, "padding", 0)]
    return [(p, p) for p in per_axis(padding, ndim, "padding", 0)]


def windows_of(
    name: str, size: tuple[int, ...], kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Windows:
    """The windows over an input of spatial `size`; stride None means the kernel size.

    outputs = floor or ceil((size + lo + hi - extent) / stride) + 1; with ceil, a last window that would start in the padding
    behind the input is dropped, as PyTorch and Caffe do.

    Raises: GeometryError where no window fits, or padding is so large that a window could lie in it altogether.
    """
    ndim = len(size)
    kernels = per_axis(kernel_size, ndim, "kernel_size", 1)
    strides = kernels if stride is None else per_axis(stride, ndim, "stride", 1)
    dilations = per_axis(dilation, ndim, "dilation", 1)
    axes = []
    for k, (n, kernel, step, (lo, hi), dil) in enumerate(
        zip(size, kernels, strides, _pairs(padding, ndim), dilations, strict=True)
    ):
        extent = dil * (kernel - 1) + 1
        if lo >= extent or hi >= extent:
            raise GeometryError(
                f"{name}: padding {(lo, hi)} of spatial axis {k} must be smaller than the window's extent {extent};"
                f" at most {extent - 1}"
            )
        room = n + lo + hi - extent
        outputs = (-(-room // step) if ceil_mode else room // step) + 1
        if outputs < 1:
            raise GeometryError(
                f"{name}: the window's extent {extent} is larger than spatial axis {k}, {n} + padding {lo} + {hi};"
                f" at least {extent - lo - hi} is needed"
            )
        if ceil_mode and (outputs - 1) * step >= n + lo:
            outputs -= 1
        axes.append(Axis(n, outputs, kernel, step, lo, hi, dil))
    return tuple(axes)


def taps(windows: Windows, backwards: bool = False) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Every tap in row-major order: the slices of the outputs that it serves, and of the inputs that it reads."""
    order = list(itertools.product(*(range(w.kernel) for w in windows)))
    for index in reversed(order) if backwards else order:
        reach = [r for r in (w.reach(k) for w, k in zip(windows, index, strict=True)) if r is not None]
        if len(reach) == len(windows):
            yield tuple(r[0] for r in reach), tuple(r[1] for r in reach)
