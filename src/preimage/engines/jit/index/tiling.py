"""Tiles: how windows of neighbouring positions cover a phase, and which shape of tile costs least by the model."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np

from preimage.engines.jit import branches
from preimage.engines.jit.compiler.costs import TilingCosts
from preimage.engines.jit.compiler.target import Target
from preimage.engines.jit.index.cached import kept
from preimage.engines.jit.index.taps import Axis, Ints, Phase, as_ints, classes
from preimage.records import record

__all__ = [
    "MAX_PIXELS",
    "Choice",
    "Tiles",
    "Work",
    "choose_tile",
    "cover_size",
    "take_tiling",
    "tile_costs",
    "tile_phase",
    "tile_shapes",
]


@record(slots=False)
class Tiles:
    """A cover of one phase by windows of `pixels` positions: their starts, and the taps of each (first, last + 1)."""

    pixels: int
    starts: Ints
    first: Ints
    last: Ints
    by_runs: bool = False

    @kept
    def tap_total(self) -> int:
        return int((self.last - self.first).sum())

    @kept
    def classes(self) -> tuple[Ints, list[tuple[int, int]]]:
        """For every window the number of its tap range, and the ranges."""
        return classes(self.first, self.last)


def _uniform(count: int, pixels: int) -> Ints:
    """Starts of windows in equal steps; the last one ends at the end, over what the one before it covers."""
    return np.minimum(np.arange(0, count, pixels, dtype=np.int64), count - pixels)


def _by_runs(phase: Phase, pixels: int) -> Ints:
    """Starts that stay inside runs of equal taps where they can (dilated layers: a third of the taps falls away)."""
    breaks = phase.runs
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
    if 2 < len(phase.runs) <= 17:
        plans.append(_by_runs(phase, pixels))
    for number, at in enumerate(plans):
        end = at + pixels - 1
        lo, hi = np.minimum(first[at], first[end]), np.maximum(last[at], last[end])
        tiles = Tiles(pixels, at, lo, np.maximum(lo, hi), number == 1)
        if best is None or tiles.tap_total < best.tap_total:
            best = tiles
    assert best is not None
    return best


def cover_size(phase: Phase, pixels: int) -> tuple[int, int]:
    """The taps and the number of the windows of tile_phase."""
    if len(phase.runs) == 2:  # all windows are alike
        windows = -(-phase.count // pixels)
        return phase.tap_total // phase.count * windows, windows
    tiles = tile_phase(phase, pixels)
    return tiles.tap_total, len(tiles.starts)


class Choice(NamedTuple):
    """The tile that was chosen: `cost` in cycles by the model; axis: number of the axis that its pixels run along."""

    axis: int
    lanes: int
    vectors: int
    pixels: int
    cost: float
    fitted: bool = False  # one pixel less than the model's best, to cover rows better


MAX_PIXELS = 28
LONG_PIXELS = {1: 16, 2: 8, 3: 8, 4: 6, 5: 5}  # vectors -> most pixels of a tile in long rows


def _step_cost(lanes: int, vectors: int, pixels: int, item: int, costs: TilingCosts) -> float:
    """Cycles of one turn of the innermost loop (one channel): fitted to tiles of every shape measured on Zen 4, and on Zen 3.

    The bounds: multiply-adds (one 512-bit one a cycle, or two of 256), the latency of a chain (4), the loads of single numbers and of
    weights, the weights' way from the L2 cache.
    """
    width = lanes * item / 64.0
    multiply = vectors * pixels * width
    if width < 1.0:
        return max(multiply * 1.1, 4.0, costs.load_cycles * (pixels + vectors), costs.weight_cycles * vectors) + 0.3
    loads = costs.wide_load_cycles * (pixels + vectors)
    return max(multiply, 4.0, 2.3 * vectors, loads) + (0.6 if pixels < 5 else 0.15)


@record
class Work:
    """What the cost of a tile depends on beside the axes.

    channels: output channels of a group; run: terms under one tap; item: bytes of a sum; little: only a few tiles are tried.
    """

    channels: int
    groups: int
    run: int
    item: int
    target: Target
    little: bool = False


def choose_tile(axes: list[Axis], candidates: list[int], work: Work, side: int = 1) -> Choice:
    """The tile with the least modelled time over `candidates`, the axes that the pixels may run along.

    side: the number of pixels is a multiple of it (results that are transposed in registers).
    """
    best: Choice | None = None
    for choice in tile_costs(axes, candidates, work, side):
        if best is None or choice.cost < best.cost * 0.999:
            best = choice
    assert best is not None
    if side > 1 or work.little:
        return best
    return _fitted(best, work.target.costs.tiling, [p for p in axes[best.axis].phases if p.count])


def take_tiling(axis: Axis, choice: Choice) -> None:
    """Name the decisions behind the tile that was taken: those of `tile_phase` are remembered, and others were weighed."""
    phases = [phase for phase in axis.phases if phase.count]
    branches.tiling("long_rows" if _is_long(phases) else "short_rows")
    if choice.fitted:
        branches.tiling("fitted")
    for phase in phases:
        cover = tile_phase(phase, choice.pixels)
        branches.tiling("by_runs" if cover.by_runs else "even")
        branches.tiling("exact" if len(cover.starts) * choice.pixels == phase.count else "overlapping")


def tile_costs(axes: list[Axis], candidates: list[int], work: Work, side: int = 1) -> Iterator[Choice]:
    """Every tile that there is to choose from, with its modelled time."""
    item, little, costs, registers = work.item, work.little, work.target.costs.tiling, work.target.vector_registers
    for number in candidates:
        axis = axes[number]
        outer_taps = prod([sum([p.tap_total for p in a.phases]) for k, a in enumerate(axes) if k != number])
        rows = prod([a.out_size for k, a in enumerate(axes) if k != number])
        phases = [p for p in axis.phases if p.count]
        shortest, long = min(p.count for p in phases), _is_long(phases)
        most = min(MAX_PIXELS, shortest)
        shapes = tile_shapes(item, work.target.vector_bytes, little)
        for pixels in [p for p in (1, 2, 4, 8) if p % side == 0 and p <= most] if little else range(side, most + 1, side):
            if long:
                tap_total, count = sum(p.tap_total for p in phases) / pixels, sum(p.count for p in phases) / pixels
            else:
                covers = [cover_size(p, pixels) for p in phases]
                tap_total, count = sum([taps for taps, _ in covers]), sum([windows for _, windows in covers])
            for lanes, vectors in shapes:
                if pixels * vectors + vectors + 1 > registers or (long and pixels > LONG_PIXELS[vectors]):
                    continue
                blocks = work.groups * -(-work.channels // (lanes * vectors))
                step = _step_cost(lanes, vectors, pixels, item, costs)
                held = pixels * vectors  # many stores at once are not hidden behind the next tile
                overhead = costs.tile_overhead + costs.store_cycles * held + (costs.transpose_cycles * held if side > 1 else 0.0)
                overhead += costs.crowded_cycles * max(0, held - costs.crowded_stores)
                cost = blocks * (outer_taps * tap_total * work.run * step + rows * count * overhead)
                yield Choice(number, lanes, vectors, pixels, cost)


def _fitted(choice: Choice, costs: TilingCosts, phases: list[Phase]) -> Choice:
    """A tile of long rows with one pixel less, where that covers rows of middling length with less waste (56 is 14 times 4).

    One pixel and no more: new sizes still find one of two kernels.
    """
    less = choice.pixels - 1
    if less < 4 or not _is_long(phases):
        return choice
    covered = [n * sum(-(-p.count // n) for p in phases) for n in (less, choice.pixels)]
    return choice._replace(pixels=less, fitted=True) if covered[0] < costs.worth_fitting * covered[1] else choice


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
