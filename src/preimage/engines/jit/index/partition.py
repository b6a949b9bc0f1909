"""Cutting one call into smaller ones that give the same bits: when its scratch memory or its tables would pass a limit.

A band is a range of the result along the batch, or along the first spatial axis that is longer than one: again a convolution, of the part of the
input that the range reads, with its padding moved. Every element keeps its own chain of taps and channels.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from preimage.engines.jit import branches
from preimage.geometry import ConvGeometry
from preimage.settings import current

__all__ = ["MOST_POSITIONS", "MOST_ROWS", "Band", "bands_within", "cut", "images_at_once"]

Band = tuple[ConvGeometry, tuple[slice, ...], tuple[slice, ...]]

# What one plan's tables may speak of. A larger batch runs the same plan again and again, so its size costs no memory.
MOST_ROWS = 1 << 14  # lines of the result, of all images together
LEAST_SCRATCH = 4096  # bytes; a call is not cut to stay below a page
MOST_POSITIONS = 1 << 18  # where lines are merged into one (1x1 kernels)


def images_at_once(g: ConvGeometry, contraction: str = "conv") -> int:
    """How many images one plan is made for."""
    lines = max(prod(g.output_size[:-1]), prod(g.input_size[:-1]))
    if prod(g.kernel_size) == 1:
        result = g.output_size if contraction == "conv" else g.input_size
        return max(1, min(g.batch, MOST_POSITIONS // max(1, prod(result)), 16 * MOST_ROWS // max(1, lines)))
    return max(1, min(g.batch, MOST_ROWS // max(1, lines)))


def cut(g: ConvGeometry, contraction: str, pieces: int) -> list[Band] | None:
    """The call as about so many (at least two) of even size: for each its geometry, the part of the input and that of the
    result; None if it is too small. Images first, then the first axis that is longer than one.
    """
    if g.batch > 1:
        every = _slices(g.batch, pieces)
        return [(replace(g, batch=s.stop - s.start), (s,), (s,)) for s in every]
    result = g.output_size if contraction == "conv" else g.input_size
    axis = next((k for k, size in enumerate(result) if size > 1), None)
    if axis is None:
        return None
    return [_cut(g, contraction, axis, s.start, s.stop) for s in _slices(result[axis], pieces)]


def _slices(size: int, pieces: int) -> list[slice]:
    step = -(-size // max(2, min(pieces, size)))
    return [slice(begin, min(begin + step, size)) for begin in range(0, size, step)]


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


def bands_within(scratch_bytes: int, g: ConvGeometry, contraction: str) -> list[Band] | None:
    """The call in pieces, if its activations in scratch memory pass the limit of the settings and there are pieces."""
    limit = max(current().workspace_bytes, LEAST_SCRATCH)
    if scratch_bytes <= limit:
        return None
    bands = cut(g, contraction, -(-scratch_bytes // limit))
    branches.call("partition.none" if bands is None else "partition.images" if g.batch > 1 else "partition.rows")
    return bands
