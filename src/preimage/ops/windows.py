"""Windows over the spatial axes: which taps of which windows lie inside the input. Shared by all pooling.

The window of output o along one axis covers the positions o * stride - lo + k * dilation, k = 0 .. kernel - 1. For a fixed
tap k the outputs whose position lies inside the input are a range, and their positions a strided slice: so pooling is a loop
over taps of whole-array operations, and nothing is padded or copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import GeometryError, ShapeError
from preimage.geometry import conv_size, extent_of, normalise_padding, per_axis, split_same
from preimage.ops.operands import flag_of
from preimage.ops.warm import plain_option
from preimage.records import record
from preimage.typing import Padding, PerAxis, Value

__all__ = ["MOST_KEPT", "Axis", "Bins", "Windows", "along", "spatial_of", "windows_of"]


@record
class Axis:
    """The windows along one axis: outputs of them, over `size` input elements."""

    size: int
    outputs: int
    kernel: int
    stride: int
    lo: int
    hi: int
    dilation: int

    @property
    def numbers(self) -> tuple[int, int, int, int, int]:
        """As kernels are given them: outputs, kernel, stride, lo, dilation."""
        return self.outputs, self.kernel, self.stride, self.lo, self.dilation

    @property
    def is_idle(self) -> bool:
        """Whether every window is the element of its number."""
        return self.kernel == self.stride == 1 and self.outputs == self.size and self.lo == 0

    @property
    def reaches(self) -> Iterator[tuple[slice, slice]]:
        """Tap by tap, of those that meet an element: the outputs whose element lies inside, and those elements.

        Taps before and behind all elements are not visited: a window may be far larger than what it lies over.
        """
        begin = -(((self.outputs - 1) * self.stride - self.lo) // self.dilation)
        end = (self.size - 1 + self.lo) // self.dilation + 1
        for k in range(max(0, begin), min(self.kernel, end)):
            offset = k * self.dilation - self.lo
            first = max(0, -(offset // self.stride))
            last = min(self.outputs - 1, (self.size - 1 - offset) // self.stride)
            if first <= last:
                start = first * self.stride + offset
                yield slice(first, last + 1), slice(start, (last - first) * self.stride + start + 1, self.stride)

    def covered(self, padded: bool) -> NDArray[np.int64]:
        """How many taps of each window count: inside the input, or (padded) inside input and padding."""
        first, last = (-self.lo, self.size + self.hi) if padded else (0, self.size)
        starts = np.arange(self.outputs) * self.stride - self.lo
        before, upto = -((starts - first) // self.dilation), (last - 1 - starts) // self.dilation + 1
        return np.clip(upto, 0, self.kernel) - np.clip(before, 0, self.kernel)


Windows = tuple[Axis, ...]


#: Adaptive windows up to this many along an axis are worked out once: a call of a small layer is mostly the way to its kernel.
MOST_KEPT = 1 << 10


def _edges(size: int, outputs: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    o = np.arange(outputs, dtype=np.int64)
    return o * size // outputs, -(-(o + 1) * size // outputs)


@lru_cache(maxsize=256)
def _kept_edges(size: int, outputs: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    made = _edges(size, outputs)
    for array in made:
        array.flags.writeable = False
    return made


@record
class Bins:
    """Adaptive windows along one axis: window o of `outputs` covers floor(o size / outputs) .. ceil((o + 1) size / outputs) - 1.

    Element i lies in the windows floor(i outputs / size) .. ceil((i + 1) outputs / size) - 1: going back, sizes change places.
    """

    size: int
    outputs: int

    def edges(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first element of every window, and the end."""
        return _edges(self.size, self.outputs) if self.outputs > MOST_KEPT else _kept_edges(self.size, self.outputs)

    @property
    def back(self) -> Bins:
        """The windows of outputs in which each element lies."""
        return Bins(self.outputs, self.size)


def spatial_of(x: Value, name: str) -> tuple[int, ...]:
    """The spatial sizes of an array (N, C, *spatial). Raises: ShapeError for fewer than two axes."""
    if x.ndim < 2:
        raise ShapeError(f"{name}: wanted (N, C, *spatial), got shape {x.shape}")
    return tuple(x.shape[2:])


def along(k: int, part: Any) -> tuple[Any, ...]:
    """The index of a part of the k-th spatial axis."""
    return (slice(None), slice(None), *([slice(None)] * k), part)


def _pads_of_word(
    word: str, size: tuple[int, ...], kernels: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    """ "valid": none; "same": as much as gives ceil(size / stride) windows."""
    if word == "valid":
        return ((0, 0),) * len(size)
    totals = (
        max(0, (-(-n // s) - 1) * s + extent_of(k, d) - n) for n, k, s, d in zip(size, kernels, strides, dilations, strict=True)
    )
    return tuple(split_same(total, word) for total in totals)


def windows_of(
    name: str,
    size: tuple[int, ...],
    kernel_size: PerAxis,
    stride: PerAxis | None,
    padding: Padding,
    dilation: PerAxis,
    ceil_mode: bool,
) -> Windows:
    """The windows over an input of spatial `size`; stride None means the kernel size.

    outputs = floor or ceil((size + lo + hi - extent) / stride) + 1; with ceil, a last window that would start in the padding
    behind the input is dropped, as PyTorch and Caffe do.

    Raises: GeometryError where no window fits, or padding is so large that a window could lie in it altogether.
    """
    options = (kernel_size, kernel_size if stride is None else stride, padding, dilation)
    plain = tuple([plain_option(v) for v in options])
    if None in plain or type(ceil_mode) is not bool:
        return _windows_of(name, size, *options, ceil_mode)
    return _known_windows(name, size, *plain, ceil_mode)


def _windows_of(
    name: str, size: tuple[int, ...], kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Windows:  # fmt: skip
    ndim = len(size)
    kernels = per_axis(kernel_size, ndim, "kernel_size")
    strides = per_axis(stride, ndim, "stride")
    dilations = per_axis(dilation, ndim, "dilation")
    pads = normalise_padding(padding, ndim)
    if isinstance(pads, str):
        pads = _pads_of_word(pads, size, kernels, strides, dilations)
    axes = []
    ceil_mode = flag_of(ceil_mode, f"{name}: ceil_mode")
    for k, (n, kernel, step, (lo, hi), dil) in enumerate(zip(size, kernels, strides, pads, dilations, strict=True)):
        extent = extent_of(kernel, dil)
        if not (0 <= lo < extent and 0 <= hi < extent):
            raise GeometryError(
                f"{name}: padding {(lo, hi)} of spatial axis {k} must lie in 0..{extent - 1}: smaller than the window's"
                f" extent {extent}"
            )
        # rounding up is rounding down with stride - 1 more room
        outputs = conv_size(n, lo, hi + (step - 1 if ceil_mode else 0), extent, step)
        if outputs < 1:
            raise GeometryError(
                f"{name}: the window's extent {extent} is larger than spatial axis {k}, {n} + padding {lo} + {hi};"
                f" at least {extent - lo - hi} is needed"
            )
        if ceil_mode and (outputs - 1) * step >= n + lo:
            outputs -= 1
        axes.append(Axis(n, outputs, kernel, step, lo, hi, dil))
    return tuple(axes)


_known_windows = lru_cache(maxsize=1024)(_windows_of)
