"""Cutting one call into smaller ones that give the same bits: when its scratch memory would pass the limit.

A band is a range of the result along the batch, or along the first spatial axis that is longer than one: again a convolution, of the part of the
input that the range reads, with its padding moved. Every element keeps its own chain of taps and channels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from preimage.geometry import ConvGeometry

__all__ = ["halves"]

Band = tuple[ConvGeometry, tuple[slice, ...], tuple[slice, ...]]


def halves(g: ConvGeometry, contraction: str) -> list[Band] | None:
    """The call as two: for each its geometry, the part of the input, the part of the result; None if it is too small."""
    if g.batch > 1:
        half = g.batch // 2
        every = (slice(0, half), slice(half, g.batch))
        return [(replace(g, batch=s.stop - s.start), (s,), (s,)) for s in every]
    result = g.output_size if contraction == "conv" else g.input_size
    axis = next((k for k, size in enumerate(result) if size > 1), None)
    if axis is None:
        return None
    half = result[axis] // 2
    return [_cut(g, contraction, axis, begin, end) for begin, end in ((0, half), (half, result[axis]))]


def _cut(g: ConvGeometry, contraction: str, axis: int, begin: int, end: int) -> Band:
    """The result's positions begin .. end - 1 along an axis."""
    kernel, stride, dilation, lo = g.kernel_size[axis], g.stride[axis], g.dilation[axis], g.padding[axis][0]
    reach = (kernel - 1) * dilation
    if contraction == "conv":
        first = max(0, min(begin * stride - lo, g.input_size[axis] - 1))
        last = max(first + 1, min((end - 1) * stride - lo + reach + 1, g.input_size[axis]))
        large, small = (first, last), (begin, end)
    else:
        first = max(0, min(-((reach - begin - lo) // stride), g.output_size[axis] - 1))
        last = max(first + 1, min((end - 1 + lo) // stride + 1, g.output_size[axis]))
        large, small = (begin, end), (first, last)
    # Position p of the large side and q of the small one meet at tap k where p = q*stride - lo + k*dilation.
    moved = lo + large[0] - small[0] * stride
    sizes = large[1] - large[0], small[1] - small[0]
    behind = (sizes[1] - 1) * stride + reach + 1 - sizes[0] - moved  # no remainder is left
    part = replace(
        g,
        input_size=_with(g.input_size, axis, sizes[0]),
        output_size=_with(g.output_size, axis, sizes[1]),
        padding=_with(g.padding, axis, (moved, behind)),
    )
    whole = (slice(None),) * (axis + 2)
    read, written = (large, small) if contraction == "conv" else (small, large)
    return part, (*whole, slice(*read)), (*whole, slice(*written))


def _with(values: tuple[Any, ...], axis: int, value: Any) -> tuple[Any, ...]:
    return (*values[:axis], value, *values[axis + 1 :])
