"""im2col and col2im for the gemm engine: the patches of a block of output positions as the columns of a matrix.

    columns[g, (i, kh..), (oh..)] = x[g*I + i, oh*stride - lo + kh*dilation]          channels first
    columns[g, (oh..), (kh.., i)]                                                     channels last

A block is a box of output positions that is one contiguous range of the flattened output, so that the product of weights
and columns can be written straight to where it belongs. Any number of spatial axes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from preimage.engines.base import Array, DType
from preimage.engines.kept_tables import kept_tables
from preimage.geometry import ConvGeometry

__all__ = ["Block", "Columns", "blocks", "is_pointwise", "with_places"]

#: (start, stop) along every spatial axis of the small side.
Block = tuple[tuple[int, int], ...]


def is_pointwise(g: ConvGeometry) -> bool:
    """Whether the columns are the image itself: a 1x1 kernel, stride 1, no padding."""
    return all(
        k == 1 and s == 1 and lo == 0 and large == small
        for k, s, (lo, _), large, small in zip(g.kernel_size, g.stride, g.padding, g.input_size, g.output_size, strict=True)
    )


@kept_tables
def blocks(size: tuple[int, ...], most: int) -> tuple[Block, ...]:
    """Boxes of at most `most` positions (at least 1), each one contiguous range of the flattened `size`, in order."""
    if 0 in size:
        return ()
    for axis in range(len(size)):
        inner = prod(size[axis + 1 :])
        if inner <= most or axis == len(size) - 1:
            count = -(-size[axis] // max(1, most // inner))
            length = -(-size[axis] // count)
            outer = [[(p, p + 1) for p in range(n)] for n in size[:axis]]
            own = [(p, min(p + length, size[axis])) for p in range(0, size[axis], length)]
            rest = [[(0, n)] for n in size[axis + 1 :]]
            return tuple(product(*outer, own, *rest))
    return ((),)


def with_places(boxes: Iterable[Block]) -> Iterator[tuple[Block, slice]]:
    """Blocks that follow one another, and the range of the flattened output that each is."""
    done = 0
    for box in boxes:
        size = prod(stop - start for start, stop in box)
        yield box, slice(done, done + size)
        done += size


@kept_tables
def _tap_ranges(g: ConvGeometry) -> tuple[tuple[tuple[int, int, int], ...], ...]:
    """Per axis and tap: (first, last + 1, offset), the output positions p whose tap p*stride + offset lies on the input."""
    axes = []
    for size, out, k, s, (lo, _), d in zip(
        g.input_size, g.output_size, g.kernel_size, g.stride, g.padding, g.dilation, strict=True
    ):
        taps = []
        for tap in range(k):
            offset = tap * d - lo
            taps.append((max(0, -(offset // s)), min(out, (size - 1 - offset) // s + 1), offset))
        axes.append(tuple(taps))
    return tuple(axes)


class Columns:
    """The columns of the blocks of one call: one buffer, used again for every block and image."""

    def __init__(
        self, g: ConvGeometry, dtype: DType, channels_last: bool, positions: int = 0, buffer: Array | None = None
    ) -> None:
        self.g, self.dtype, self.channels_last = g, dtype, channels_last
        self.taps = prod(g.kernel_size)
        self.rows = g.in_channels_per_group * self.taps
        self._buffer = np.empty(g.groups * self.rows * positions, dtype) if buffer is None else buffer
        self._margin: Array | None = None

    def matrix(self, block: Block) -> Array:
        """The buffer as the matrix of one block: (groups, rows, positions), or (groups, positions, rows) channels last."""
        positions = prod(b - a for a, b in block)
        flat = self._buffer[: self.g.groups * self.rows * positions]
        if self.channels_last:
            return flat.reshape(self.g.groups, positions, self.rows)
        return flat.reshape(self.g.groups, self.rows, positions)

    def _logical(self, block: Block) -> Array:
        """The buffer as (groups, channels, *kernel, *block) whatever its order."""
        g, sizes = self.g, tuple(b - a for a, b in block)
        flat = self._buffer[: g.groups * self.rows * prod(sizes)]
        if not self.channels_last:
            return flat.reshape(g.groups, g.in_channels_per_group, *g.kernel_size, *sizes)
        n = g.ndim
        box = flat.reshape(g.groups, *sizes, *g.kernel_size, g.in_channels_per_group)
        return box.transpose(0, 2 * n + 1, *range(n + 1, 2 * n + 1), *range(1, n + 1))

    def gather(self, image: Array, block: Block) -> Array:
        """im2col: the patches of one image (C, *input_size) for a block of outputs; gives `matrix(block)`."""
        g = self.g
        starts = [a * s - lo for (a, _), s, (lo, _) in zip(block, g.stride, g.padding, strict=True)]
        lengths = [(b - a - 1) * s + e for (a, b), s, e in zip(block, g.stride, g.kernel_extent, strict=True)]
        ends = [a + n for a, n in zip(starts, lengths, strict=True)]
        if all(a >= 0 and e <= size for a, e, size in zip(starts, ends, g.input_size, strict=True)):
            source = image[(slice(None), *map(slice, starts, ends))]
        else:
            source = self._with_margin(image, starts, lengths)
        channel, *space = source.strides
        shape = (g.groups, g.in_channels_per_group, *g.kernel_size, *(b - a for a, b in block))
        steps = (
            channel * g.in_channels_per_group,
            channel,
            *(step * d for step, d in zip(space, g.dilation, strict=True)),
            *(step * s for step, s in zip(space, g.stride, strict=True)),
        )
        # NumPy leaves the stride of an axis of one position undefined: times a stride or dilation it may be any number
        meant = tuple(step if n > 1 else 0 for n, step in zip(shape, steps, strict=True))
        windows = as_strided(source, shape, meant, writeable=False)
        np.copyto(self._logical(block), windows, casting="unsafe")
        return self.matrix(block)

    def _with_margin(self, image: Array, starts: list[int], lengths: list[int]) -> Array:
        """The part of the image that a block reads, with zeros where it reaches over the border."""
        g = self.g
        size = g.in_channels * prod(lengths)
        if self._margin is None or self._margin.size < size:
            self._margin = np.empty(size, image.dtype)
        flat = self._margin[:size]
        flat.fill(0)
        if self.channels_last:
            frame = np.moveaxis(flat.reshape(*lengths, g.in_channels), -1, 0)
        else:
            frame = flat.reshape(g.in_channels, *lengths)
        here: list[Any] = [slice(None)]
        there: list[Any] = [slice(None)]
        for a, n, in_size in zip(starts, lengths, g.input_size, strict=True):
            first = max(a, 0)
            last = max(first, min(a + n, in_size))
            here.append(slice(first - a, last - a))
            there.append(slice(first, last))
        frame[tuple(here)] = image[tuple(there)]
        return frame

    def scatter(self, image: Array, block: Block) -> None:
        """col2im: add the columns in the buffer to where `gather` would have read them in `image` (C, *input_size)."""
        g = self.g
        source = self._logical(block)
        target = image.reshape(g.groups, g.in_channels_per_group, *g.input_size)
        assert np.may_share_memory(target, image)
        axes = []
        for taps, (a, b), s in zip(_tap_ranges(g), block, g.stride, strict=True):
            choices = []
            for tap, (first, last, offset) in enumerate(taps):
                p, q = max(first, a), min(last, b)
                if p < q:
                    choices.append((tap, slice(p - a, q - a), slice(p * s + offset, (q - 1) * s + offset + 1, s)))
            axes.append(choices)
        for choice in product(*axes):
            here: list[Any] = [slice(None), slice(None), *(c[0] for c in choice), *(c[1] for c in choice)]
            there: list[Any] = [slice(None), slice(None), *(c[2] for c in choice)]
            cells = target[tuple(there)]
            np.add(cells, source[tuple(here)], out=cells)
