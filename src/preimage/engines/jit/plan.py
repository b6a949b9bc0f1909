"""Planning, as pure data: which input positions and taps every output position reads, and which tile covers them best.

conv and conv_transpose are one thing here, a *gather*. Along one axis, output position p = start + t*step of a phase reads
input position t*in_step + offset[k] for every tap k of the phase, in the order of k:

    conv             one phase: step 1, in_step = stride, offset[k] = k*dilation - lo, all taps
    conv_transpose   `stride` phases r: p = r + t*stride, in_step 1, and only those taps with
                     r + lo - k*dilation = stride * offset[k]: no zero between strided values is ever multiplied

Taps outside the input are left out, row by row exactly; along the axis of the tile's pixels a tile takes every tap that
any of its pixels needs, and reads zeros from a margin for the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.engines.jit.locks import kept
from preimage.geometry import ConvGeometry

__all__ = [
    "Axis",
    "Choice",
    "Folded",
    "Phase",
    "Tiles",
    "choose_tile",
    "distinct",
    "fold_phases",
    "gather_axes",
    "join_taps",
    "merge_axes",
    "tile_costs",
    "tile_phase",
    "tile_shapes",
]

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Phase:
    """The positions of one axis that share their taps: see the module's first lines. taps: (number, offset)."""

    start: int
    step: int
    count: int
    in_step: int
    in_size: int
    taps: tuple[tuple[int, int], ...]
    every_tap: bool = False  # taps over the padding take part (weights that are not finite)
    reach: int = 0  # positions behind a tap's own that it reads as well (joined taps)

    @kept
    def offsets(self) -> Ints:
        return np.array([offset for _, offset in self.taps], np.int64)

    @kept
    def valid(self) -> tuple[Ints, Ints]:
        """For every position the range of taps (first, last + 1) whose input lies inside."""
        n = len(self.taps)
        if self.every_tap or n == 0:
            return np.zeros(self.count, np.int64), np.full(self.count, n, np.int64)
        base = np.arange(self.count, dtype=np.int64) * self.in_step
        if n == 1 or self.offsets[0] < self.offsets[-1]:
            return (
                np.searchsorted(self.offsets, -base, "left"),
                np.searchsorted(self.offsets, self.in_size - base, "left"),
            )
        up = self.offsets[::-1]
        first = n - np.searchsorted(up, self.in_size - base, "left")
        return first, n - np.searchsorted(up, -base, "left")

    @kept
    def margins(self) -> tuple[int, int]:
        """How far its taps reach before and behind the input."""
        if not self.count or not self.taps:
            return 0, 0
        last = (self.count - 1) * self.in_step
        return max(0, -int(self.offsets.min())), max(0, int(self.offsets.max()) + self.reach + last - self.in_size + 1)

    @kept
    def classes(self) -> tuple[Ints, list[tuple[int, int]]]:
        """For every position the number of its tap range, and the ranges."""
        return _classes(*self.valid)

    @kept
    def tap_total(self) -> int:
        """Taps of all positions together."""
        first, last = self.valid
        return int((last - first).sum())


def distinct(numbers: Ints) -> Ints:
    """The different ones of numbers from 0 on, in order. (np.unique would import numpy.ma, which takes longer than a plan.)"""
    ordered = np.sort(numbers)
    found: Ints = ordered[np.diff(ordered, prepend=-1) != 0]
    return found


def _classes(first: Ints, last: Ints) -> tuple[Ints, list[tuple[int, int]]]:
    """Pairs (first, last), numbered: the number of each, and the pairs that there are."""
    wide = int(last.max(initial=0)) + 1
    codes = first * wide + last
    found = distinct(codes)
    return np.searchsorted(found, codes), [divmod(int(code), wide) for code in found]


@dataclass(frozen=True)
class Axis:
    """One axis of the gather: spatial, or the batch (one tap)."""

    in_size: int
    out_size: int
    phases: tuple[Phase, ...]
    kernel: int = 1

    @property
    def plain(self) -> bool:
        """Whether output position p reads input position p alone."""
        only = self.phases[0]
        return (
            self.kernel == 1
            and len(self.phases) == 1
            and only.taps == ((0, 0),)
            and only.reach == 0
            and only.in_step == only.step == 1
            and (self.in_size == self.out_size)
        )

    @property
    def margins(self) -> tuple[int, int]:
        reach = [phase.margins for phase in self.phases]
        return max((lo for lo, _ in reach), default=0), max((hi for _, hi in reach), default=0)


def gather_axes(g: ConvGeometry, contraction: str, every_tap: bool = False) -> list[Axis]:
    """The batch axis and the spatial axes of conv (x -> y) or conv_transpose (y -> x)."""
    axes = [Axis(g.batch, g.batch, (Phase(0, 1, g.batch, 1, g.batch, ((0, 0),)),))]
    for axis in range(g.ndim):
        sizes = g.kernel_size[axis], g.stride[axis], g.dilation[axis], g.padding[axis][0], g.input_size[axis], g.output_size[axis]
        axes.append(_spatial_axis(contraction == "conv", every_tap, *sizes))
    return axes


@lru_cache(maxsize=256)  # one layer is planned for several memory orders and batches: what its axes found out is kept with them
def _spatial_axis(
    forward: bool, every_tap: bool, kernel: int, stride: int, dilation: int, lo: int, large: int, small: int
) -> Axis:  # fmt: skip
    if forward:
        taps = tuple((k, k * dilation - lo) for k in range(kernel))
        return Axis(large, small, (Phase(0, 1, small, stride, large, taps, every_tap),), kernel)
    phases = []
    for r in range(min(stride, large)):
        taps = tuple((k, (r + lo - k * dilation) // stride) for k in range(kernel) if (r + lo - k * dilation) % stride == 0)
        phases.append(Phase(r, stride, -(-(large - r) // stride), 1, small, taps))
    return Axis(small, large, tuple(phases), kernel)


def join_taps(g: ConvGeometry) -> Axis:
    """The last axis of a conv with its taps joined to the channels: every position reads one run that starts at its tap 0.

    In a channels-last input the taps of a line (without dilation) and their channels are one run of numbers.
    """
    kernel, lo = g.kernel_size[-1], g.padding[-1][0]
    phase = Phase(0, 1, g.output_size[-1], g.stride[-1], g.input_size[-1], ((0, -lo),), every_tap=True, reach=kernel - 1)
    return Axis(g.input_size[-1], g.output_size[-1], (phase,), 1)


@dataclass(frozen=True)
class Folded:
    """The last axis of a transposed convolution with its `stride` phases laid side by side as channels.

    In a channels-last result the values of `stride` neighbouring pixels are one run of stride * channels numbers: position
    u holds ih = u*stride + q - lo for all q, and tap j of q is k = q + j*stride, which reads u - j whatever q is. So few
    channels (an RGB head, 21 classes) fill whole vectors. first_cut, last_end: the phases that exist at the first position
    (q >= first_cut) and at the last (q < last_end); phases_of_tap[j]: how many phases have tap j.
    """

    axis: Axis
    stride: int
    first_cut: int
    last_end: int
    phases_of_tap: tuple[int, ...]


def fold_phases(g: ConvGeometry) -> Folded | None:
    """The last axis folded, where that is possible: stride above 1, no dilation."""
    kernel, stride, lo = g.kernel_size[-1], g.stride[-1], g.padding[-1][0]
    large, small = g.input_size[-1], g.output_size[-1]
    if stride == 1 or (g.dilation[-1] != 1 and kernel > 1) or kernel < 2:
        return None
    first = lo // stride
    last = (large - 1 + lo) // stride
    taps = tuple((j, first - j) for j in range(-(-kernel // stride)))
    phase = Phase(first * stride - lo, stride, last - first + 1, 1, small, taps)
    existing = tuple(min(stride, kernel - j * stride) for j, _ in taps)
    return Folded(Axis(small, large, (phase,), len(taps)), stride, lo - first * stride, large + lo - last * stride, existing)


MOST_MERGED = 1 << 18  # positions: of a longer row its table would be the memory that counts, and its end wastes nothing


def merge_axes(axes: list[Axis], in_strides: list[int], out_strides: list[int]) -> tuple[list[Axis], list[int], list[int]]:
    """Neighbouring plain axes that lie contiguously in both arrays, as one (1x1 layers become one long row)."""
    out: list[Axis] = []
    ins: list[int] = []
    outs: list[int] = []
    for axis, a, b in zip(axes, in_strides, out_strides, strict=True):
        size = out[-1].in_size * axis.in_size if out else 0
        near = out and ins[-1] == a * axis.in_size and outs[-1] == b * axis.out_size
        if near and out[-1].plain and axis.plain and size <= MOST_MERGED:
            out[-1] = Axis(size, size, (Phase(0, 1, size, 1, size, ((0, 0),)),))
            ins[-1], outs[-1] = a, b
        else:
            out.append(axis)
            ins.append(a)
            outs.append(b)
    return out, ins, outs


@dataclass(frozen=True)
class Tiles:
    """A cover of one phase by windows of `pixels` positions: their starts, and the taps of each (first, last + 1)."""

    pixels: int
    starts: Ints
    first: Ints
    last: Ints

    @kept
    def tap_total(self) -> int:
        return int((self.last - self.first).sum())

    @kept
    def classes(self) -> tuple[Ints, list[tuple[int, int]]]:
        """For every window the number of its tap range, and the ranges."""
        return _classes(self.first, self.last)


def _uniform(count: int, pixels: int) -> Ints:
    """Starts of windows in equal steps; the last one ends at the end, over what the one before it covers."""
    return np.minimum(np.arange(0, count, pixels, dtype=np.int64), count - pixels)


def _by_runs(phase: Phase, pixels: int) -> Ints:
    """Starts that stay inside runs of equal taps where they can (dilated layers: a third of the taps falls away)."""
    first, last = phase.valid
    breaks = [0, *(np.flatnonzero((np.diff(first) != 0) | (np.diff(last) != 0)) + 1).tolist(), phase.count]
    starts, covered, run = [], 0, 0
    while covered < phase.count:
        while breaks[run + 1] <= covered:
            run += 1
        end = breaks[run + 1]
        start = end - pixels if end - covered < pixels and end - pixels >= breaks[run] else covered
        start = min(start, phase.count - pixels)
        starts.append(start)
        covered = start + pixels
    return as_ints(starts)


@lru_cache(maxsize=1024)
def tile_phase(phase: Phase, pixels: int) -> Tiles:
    """The cheaper of two covers: equal steps, or windows that follow the runs of equal taps."""
    first, last = phase.valid
    best: Tiles | None = None
    plans = [_uniform(phase.count, pixels)]
    runs = int(np.count_nonzero((np.diff(first) != 0) | (np.diff(last) != 0))) + 1
    if 1 < runs <= 16:
        plans.append(_by_runs(phase, pixels))
    for at in plans:
        end = at + pixels - 1
        lo, hi = np.minimum(first[at], first[end]), np.maximum(last[at], last[end])
        tiles = Tiles(pixels, at, lo, np.maximum(lo, hi))
        if best is None or tiles.tap_total < best.tap_total:
            best = tiles
    assert best is not None
    return best


@dataclass(frozen=True)
class Choice:
    """The tile that was chosen: `cost` in cycles by the model; axis: number of the axis that its pixels run along."""

    axis: int
    lanes: int
    vectors: int
    pixels: int
    cost: float


MAX_PIXELS = 28
LONG_PIXELS = {1: 16, 2: 8, 3: 8, 4: 6, 5: 5}  # vectors -> most pixels of a tile in long rows
WORTH_FITTING = 0.96
TILE_OVERHEAD = 60.0  # cycles to begin and end a tile: tables, first loads


def _step_cost(lanes: int, vectors: int, pixels: int, item: int) -> float:
    """Cycles of one turn of the innermost loop (one channel): fitted to tiles of every shape measured on Zen 4.

    The bounds: multiply-adds (one 512-bit one a cycle), the latency of a chain (4), the weights' way from the L2 cache.
    """
    width = lanes * item / 64.0
    multiply = vectors * pixels * width
    if width < 1.0:
        return max(multiply * 1.1, 4.0, 0.5 * (pixels + vectors)) + 0.3
    return max(multiply, 4.0, 2.3 * vectors) + (0.6 if pixels < 5 else 0.15)


def choose_tile(
    axes: list[Axis],
    candidates: list[int],
    channels: int,
    groups: int,
    run: int,
    item: int,
    vector_bytes: int,
    registers: int,
    side: int = 1,
    little: bool = False,
) -> Choice:
    """The tile with the least modelled time over `candidates`, the axes that the pixels may run along.

    side: the number of pixels is a multiple of it (results that are turned in registers); little: only a few tiles are tried.
    """
    best: Choice | None = None
    for choice in tile_costs(axes, candidates, channels, groups, run, item, vector_bytes, registers, side, little):
        if best is None or choice.cost < best.cost * 0.999:
            best = choice
    assert best is not None
    return _fitted(best, [p for p in axes[best.axis].phases if p.count]) if side == 1 and not little else best


def tile_costs(
    axes: list[Axis], candidates: list[int], channels: int, groups: int, run: int, item: int, vector_bytes: int,
    registers: int, side: int = 1, little: bool = False,
) -> Iterator[Choice]:  # fmt: skip
    """Every tile that there is to choose from, with its modelled time."""
    for number in candidates:
        axis = axes[number]
        outer_taps = prod(sum(p.tap_total for p in a.phases) for k, a in enumerate(axes) if k != number)
        rows = prod(a.out_size for k, a in enumerate(axes) if k != number)
        phases = [p for p in axis.phases if p.count]
        shortest, long = min(p.count for p in phases), _is_long(phases)
        most = min(MAX_PIXELS, shortest)
        for pixels in [p for p in (1, 2, 4, 8) if p % side == 0 and p <= most] if little else range(side, most + 1, side):
            if long:
                tap_total, count = sum(p.tap_total for p in phases) / pixels, sum(p.count for p in phases) / pixels
            else:
                covers = [tile_phase(p, pixels) for p in phases]
                tap_total, count = sum(c.tap_total for c in covers), sum(len(c.starts) for c in covers)
            for lanes, vectors in tile_shapes(item, vector_bytes, little):
                if pixels * vectors + vectors + 1 > registers or (long and pixels > LONG_PIXELS[vectors]):
                    continue
                blocks = groups * -(-channels // (lanes * vectors))
                step = _step_cost(lanes, vectors, pixels, item)
                held = pixels * vectors  # many stores at once are not hidden behind the next tile
                overhead = TILE_OVERHEAD + 3.0 * held + 20.0 * max(0, held - 18) + (6.0 * held if side > 1 else 0.0)
                cost = blocks * (outer_taps * tap_total * run * step + rows * count * overhead)
                yield Choice(number, lanes, vectors, pixels, cost)


def _fitted(choice: Choice, phases: list[Phase]) -> Choice:
    """A tile of long rows with one pixel less, where that covers rows of middling length with less waste (56 is 14 times 4).

    One pixel and no more: new sizes still find one of two kernels.
    """
    less = choice.pixels - 1
    if less < 4 or not _is_long(phases):
        return choice
    covered = [n * sum(-(-p.count // n) for p in phases) for n in (less, choice.pixels)]
    return replace(choice, pixels=less) if covered[0] < WORTH_FITTING * covered[1] else choice


def _is_long(phases: list[Phase]) -> bool:
    """Whether what a tile wastes at the end of a row does not count: then the tile depends on the channels alone, and new
    sizes find their kernels made. Not where most of the row lacks taps (large dilation): there the cover decides."""
    full = sum(p.count * len(p.taps) for p in phases)
    return min(p.count for p in phases) > MAX_PIXELS and sum(p.tap_total for p in phases) >= 0.9 * full


def tile_shapes(item: int, vector_bytes: int, little: bool = False) -> list[tuple[int, int]]:
    """(lanes, vectors) worth trying: full vectors, and half ones where the CPU has the widest (21 channels, 8 phases)."""
    full = vector_bytes // item
    if little:
        return [(full, 1), (full, 2), *([(full // 2, 1)] if vector_bytes == 64 else [])]
    shapes = [(full, v) for v in (1, 2, 3, 4)]
    if vector_bytes == 64:
        shapes += [(full // 2, v) for v in (1, 2, 3, 5)]
    return shapes


def as_ints(rows: Any) -> Ints:
    return np.ascontiguousarray(np.array(rows, dtype=np.int64))
