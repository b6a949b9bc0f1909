"""Rows whose ends reach into the padding: the ends are computed from a small copy with its margins, the rest in place.

Tiles that read nothing outside the input need no zeros. Those at the two ends of a row read windows, which are copied:

    row of the input           0 .. first-1 | ............. | last .. size-1
    its row in the copy        zeros 0 .. first-1 last .. size-1 zeros

Where rows are long or channels few, that saves a pass over the whole input.
"""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from preimage.engines.jit import branches
from preimage.engines.jit.compiler.costs import DirectCosts, PackingCosts
from preimage.engines.jit.index.taps import Axis, Ints, Phase
from preimage.engines.jit.index.tiling import Choice, Tiles, tile_phase
from preimage.engines.jit.packing.copy_kernel import NO_SOURCE, CopySpec, Line
from preimage.engines.jit.packing.moves import copy_call, positions
from preimage.engines.jit.program import KernelCall
from preimage.records import record

__all__ = ["Edges", "find_edges"]


@record
class Edges:
    """The windows of a row (before `first`, from `last` on) and the margins around them, in positions of the input.

    tiles: how many read the copy; none where no tile needs a position of the padding beside one of the input.
    """

    tiles: int
    size: int
    first: int
    last: int
    margins: tuple[int, int]

    @property
    def width(self) -> int:
        """Positions of a row of the copy."""
        return self.margins[0] + self.first + self.size - self.last + self.margins[1]

    def inner(self, phase: Phase, cover: Tiles) -> tuple[Tiles, Ints]:
        """The tiles that read the input where it lies, and how far each one's position 0 is from the input's."""
        low, high = _reads(phase, cover)
        kept = (low >= 0) & (high < self.size)
        return _only(cover, kept), np.zeros(int(kept.sum()), np.int64)

    def outer(self, phase: Phase, cover: Tiles) -> tuple[Tiles, Ints]:
        """The tiles that read the copy, and how far each one's position 0 is from the copy's."""
        low, high = _reads(phase, cover)
        kept = (low < 0) | (high >= self.size)
        moved = np.where(low < 0, self.margins[0], self.margins[0] + self.first - self.last)
        return _only(cover, kept), moved[kept].astype(np.int64)

    def copy_call(
        self, sizes: list[int], strides: list[int], channels: int, element: str, item: int, lanes: int, costs: PackingCosts
    ) -> KernelCall:
        """Make the copy: `sizes` and `strides` (bytes) are those of the axes before the rows' own."""
        pixel, (left, right) = channels * item, self.margins
        source = positions(sizes, strides)[:, None]
        result = np.arange(len(source), dtype=np.int64)[:, None] * (self.width * pixel)
        behind = left + self.first + self.size - self.last
        zeros = np.array([True, False, False, True])
        starts = np.array([0, 0, self.last, 0]) * pixel
        places = np.array([0, left, left + self.first, behind]) * pixel
        counts = np.array([left, self.first, self.size - self.last, right]) * channels
        kept = counts > 0
        lines = Line(
            source=np.where(zeros, NO_SOURCE, source + starts)[:, kept], result=result + places[kept], count=counts[kept]
        ).table()
        return copy_call("copy ends of rows", CopySpec(element, element, lanes), lines, "x", "edges", costs)


def _reads(phase: Phase, cover: Tiles) -> tuple[Ints, Ints]:
    """The lowest and the highest input position of every tile; a tile without taps reads nothing."""
    low, high = cover.starts * phase.in_step, (cover.starts + cover.pixels - 1) * phase.in_step
    if not phase.taps:
        return np.zeros_like(low), np.zeros_like(low)
    some = cover.last > cover.first
    a, b = phase.offsets[np.minimum(cover.first, len(phase.taps) - 1)], phase.offsets[np.maximum(cover.last - 1, 0)]
    return np.where(some, low + np.minimum(a, b), 0), np.where(some, high + np.maximum(a, b), 0)


def _only(cover: Tiles, kept: NDArray[np.bool_]) -> Tiles:
    return Tiles(cover.pixels, cover.starts[kept], cover.first[kept], cover.last[kept])


def find_edges(axes: list[Axis], choice: Choice, pixel_bytes: int, costs: DirectCosts) -> Edges | None:
    """The edges of a gather whose pixels run along `choice.axis`; None where a slab of the whole input costs hardly more."""
    axis = axes[choice.axis]
    if axis.margins == (0, 0) or choice.axis != len(axes) - 1:
        branches.halo("refused.no_padding" if axis.margins == (0, 0) else "refused.other_axis")
        return None
    first, last, edges, tiles = 0, axis.in_size, 0, 0
    for phase in axis.phases:
        if not phase.count:
            continue
        cover = tile_phase(phase, choice.pixels)
        low, high = _reads(phase, cover)
        left, right = low < 0, high >= axis.in_size
        if (left & right).any():
            branches.halo("refused.both_ends")
            return None
        first = max(first, int(high[left].max(initial=-1)) + 1)
        last = min(last, int(low[right].min(initial=axis.in_size)))
        edges, tiles = edges + int(left.sum() + right.sum()), tiles + len(cover.starts)
    slab = prod(a.in_size for a in axes) * pixel_bytes
    worth = costs.edge_copy_cycles * slab > costs.worth_edges * choice.cost
    if not worth or edges > costs.most_edges * tiles:
        branches.halo("refused.many_tiles" if worth else "refused.little_input")
        return None
    branches.halo("taken")
    return Edges(edges, axis.in_size, first, last, axis.margins)
