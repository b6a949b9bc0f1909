"""Frames: the parts of arrays that one transform takes, cut out and put back.

A frame has one side's channels and, along the spatial axes, zeros beyond what it holds. Rows are (tile, residue) pairs of an image. In
memory either the space is innermost ("planes", for products element by element) or the channels are ("channels", for matrix products); the
transforms give the same bits for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from preimage.engines.base import Array, DType
from preimage.engines.fft.plan import FftPlan, Tile
from preimage.engines.fft.transform import forward, inverse
from preimage.engines.fft.unit import Part
from preimage.records import record

__all__ = ["ALL", "Chunk", "Index", "Row", "Side", "empty_frames"]

#: Slices, one for each axis of space, as NumPy takes them in an index.
Index = tuple[Any, ...]
ALL: Any = slice(None)

#: A tile of an image and the residue of its outputs, along each axis.
Row = tuple[tuple[Tile, ...], tuple[int, ...]]


@record
class Chunk:
    """What is worked off at a time: groups g0..g1, and of each group the channels i0..i1 of the large side, o0..o1 of the small one."""

    g0: int
    g1: int
    i0: int
    i1: int
    o0: int
    o1: int

    @property
    def groups(self) -> int:
        return self.g1 - self.g0


def empty_frames(lead: Sequence[int], space: Sequence[int], dtype: DType, planes: bool) -> tuple[Array, tuple[int, ...]]:
    """Zeros of logical shape (*lead, *space), and the memory's axes of space: the last ones for planes, else the first ones."""
    if planes:
        return np.zeros((*lead, *space), dtype), tuple(range(len(lead), len(lead) + len(space)))
    return np.zeros((*space, *lead), dtype), tuple(range(len(space)))


def _logical(memory: Array, axes: tuple[int, ...]) -> Array:
    """The array with its axes of space last: a view."""
    return np.moveaxis(memory, axes, range(-len(axes), 0))


class Side:
    """One side of a plan's activations, "large" or "small": how its frames are read and written."""

    def __init__(self, plan: FftPlan, large: bool, planes: bool, real: DType) -> None:
        self.plan, self.large, self.planes, self.real = plan, large, planes, real
        reach = [
            max(self._at(t[k]) + self._range(t[k])[1] - self._range(t[k])[0] for t in plan.tiles) for k in range(len(plan.axes))
        ]
        #: Along all but the last axis frames end where their data do.
        self.space = (*reach[:-1], plan.periods[-1])
        self._phases = plan.phases if large else plan.phases[:1]
        #: By row and phase: slices of the array's space and of the frame's, where anything lies there.
        self._parts = {row: [self._part(row, phase) for phase in self._phases] for row in product(plan.tiles, plan.residues)}

    def _range(self, tile: Tile) -> tuple[int, int]:
        return tile.large if self.large else tile.small

    def _at(self, tile: Tile) -> int:
        return tile.large_at if self.large else tile.small_at

    def _part(self, row: Row, phase: tuple[int, ...]) -> tuple[Index, Index] | None:
        """Slices of the array's space and of the frame's; None where nothing lies there."""
        there, here = [], []
        for axis, tile, residue, p in zip(self.plan.axes, row[0], row[1], phase, strict=True):
            begin, end = self._range(tile)
            part: Part | None = axis.large_part(residue, p, begin, end) if self.large else axis.small_part(residue, begin, end)
            if part is None:
                return None
            at = self._at(tile)
            there.append(part[0])
            here.append(slice(part[1].start + at, part[1].stop + at))
        return tuple(there), tuple(here)

    def _channels(self, a: Array, chunk: Chunk) -> Array:
        """(images, groups, channels, *space) of the chunk: a view."""
        groups = self.plan.geometry.groups
        split = a.reshape(a.shape[0], groups, a.shape[1] // groups, *a.shape[2:])
        assert np.may_share_memory(split, a)
        own = slice(chunk.i0, chunk.i1) if self.large else slice(chunk.o0, chunk.o1)
        return split[:, chunk.g0 : chunk.g1, own]

    def spectra(self, a: Array, rows: Sequence[Row], chunk: Chunk) -> Array:
        """Spectra of the rows of some images: planes (R, G, C, *F) or channels (*F, R, G, C); R = rows x images, C: phases x channels."""
        source = self._channels(a, chunk)
        lead = (len(rows), source.shape[0], source.shape[1], len(self._phases), source.shape[2])
        memory, axes = empty_frames(lead, self.space, self.real, self.planes)
        frames = _logical(memory, axes)
        for number, row in enumerate(rows):
            for p, parts in enumerate(self._parts[row]):
                if parts is not None:
                    there, here = parts
                    frames[(number, ALL, ALL, p, ALL, *here)] = source[(..., *there)]
        merged, axes = _merged(memory, axes, lead)
        return forward(merged, axes, self.plan.periods)

    def write(self, spectrum: Array, out: Array, rows: Sequence[Row], chunk: Chunk) -> None:
        """The inverse of `spectra`: to where the rows lie in `out`. Overwrites the spectrum."""
        target, n = self._channels(out, chunk), len(self.plan.axes)
        axes = tuple(range(spectrum.ndim - n, spectrum.ndim)) if self.planes else tuple(range(n))
        keep = _keep_of(rows, self._at, self._range)
        real = _logical(inverse(spectrum, axes, self.plan.periods, keep), axes)
        frames = real.reshape(len(rows), target.shape[0], target.shape[1], len(self._phases), target.shape[2], *real.shape[3:])
        for number, row in enumerate(rows):
            for p, parts in enumerate(self._parts[row]):
                if parts is not None:
                    there, here = parts
                    inside = (slice(s.start - k.start, s.stop - k.start) for s, k in zip(here, keep, strict=True))
                    target[(..., *there)] = frames[(number, ALL, ALL, p, ALL, *inside)]


def _keep_of(rows: Sequence[Row], at: Any, extent: Any) -> tuple[slice, ...]:
    """What of the frames is wanted of any of the rows, along each axis."""
    found = []
    for k in range(len(rows[0][0])):
        tiles = [row[0][k] for row in rows]
        found.append(slice(min(at(t) for t in tiles), max(at(t) + extent(t)[1] - extent(t)[0] for t in tiles)))
    return tuple(found)


def _merged(memory: Array, axes: tuple[int, ...], lead: tuple[int, ...]) -> tuple[Array, tuple[int, ...]]:
    """Rows with images, and phases with channels, as one axis each."""
    shape = (lead[0] * lead[1], lead[2], lead[3] * lead[4])
    space = tuple(memory.shape[axis] for axis in axes)
    if axes[0]:
        return memory.reshape(*shape, *space), tuple(range(3, 3 + len(space)))
    return memory.reshape(*space, *shape), axes
