"""Plans: which transforms compute a geometry, how an image is cut into tiles, what it costs and what memory it takes.

Everything on which bits depend (tiles, periods, whether products are matrix products) is a function of the geometry without its batch and
of the type, so an image gives the same bits alone and among others, whatever the memory, the threads or the CPU.

A period P along an axis is enough where no position of the large side meets a wrong tap modulo P. With x at positions begin..end of
0 .. outputs + taps - 2, that is P >= max(outputs + taps - 1 - begin, end): the zeros on both sides of a picture are shared, so that a blur of
256 by 256 over a picture of 256 by 256 takes transforms of 384, not of 511. Where an image is cut, each tile has taps - 1 neighbours more
than outputs, which are thrown away (overlap-save).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import product
from math import ceil, log2, prod

from preimage.engines.fft.costs import COSTS
from preimage.engines.fft.transform import good_size, spectrum_size
from preimage.engines.fft.unit import UnitAxis, unit_axes
from preimage.geometry import ConvGeometry
from preimage.records import record

__all__ = ["FftPlan", "Tile", "plan_for"]

#: The scratch memory that tiles are chosen for, with the spectra of one output channel.
TILE_BYTES = 48 << 20
#: Periods that are tried along an axis.
TRIED = 10
#: What NumPy takes beside the arrays, and rows of pointers.
SLACK_BYTES = 256 << 10
#: Spectra of weights are held so many times over while they are made: frames, spectra, factors.
KERNEL_COPIES = 3.5
#: So many calls are taken to share the spectra of weights: layers and linear operators keep them, steps of training do not.
CALLS = 4
#: A weight gradient sums the rows of an image so many at a time, at most.
GRAD_ROWS = 16


@record
class Tile:
    """Along one axis: outputs (of the transpose: positions of the large side) `first`..`last` come from one transform.

    large, small: begin and end of what is read or written of either side, in positions t and o1; at: where they lie in the frame.
    """

    large: tuple[int, int]
    small: tuple[int, int]
    large_at: int
    small_at: int


@dataclass(frozen=True)
class FftPlan:
    """How a contraction of a geometry is computed, for one image of it."""

    geometry: ConvGeometry  # of one image
    contraction: str
    item: int  # bytes of a real number in the transforms
    axes: tuple[UnitAxis, ...]
    periods: tuple[int, ...]
    steps: tuple[int, ...]  # positions that a tile gives along each axis

    @cached_property
    def residues(self) -> tuple[tuple[int, ...], ...]:
        return tuple(product(*(range(a.residues) for a in self.axes)))

    @cached_property
    def phases(self) -> tuple[tuple[int, ...], ...]:
        return tuple(product(*(range(a.phases) for a in self.axes)))

    @cached_property
    def tiles(self) -> tuple[tuple[Tile, ...], ...]:
        """The tiles of an image, each with one entry per axis."""
        return tuple(
            product(*(_tiles(a, p, s, self.contraction) for a, p, s in zip(self.axes, self.periods, self.steps, strict=True)))
        )

    @property
    def meets(self) -> bool:
        """Whether any tap of any output lies on the large side; else all is padding."""
        return all(begin < end for begin, end in (a.span for a in self.axes))

    @property
    def depth(self) -> int:
        """Products that are summed for an output, at each frequency: channels of the group times phases."""
        g = self.geometry
        return g.out_channels_per_group if self.contraction == "conv_transpose" else g.in_channels_per_group * len(self.phases)

    @property
    def elementwise(self) -> bool:
        """Whether nothing is summed over channels: each group has one channel on the large side, or the stride leaves it so."""
        g = self.geometry
        return g.in_channels_per_group * len(self.phases) == 1 and (self.contraction == "conv" or g.out_channels_per_group == 1)

    @property
    def rows(self) -> int:
        """Frames of an image: tiles times residues."""
        return len(self.tiles) * len(self.residues)

    @property
    def frequencies(self) -> int:
        return prod(spectrum_size(self.periods))

    @property
    def row_bytes(self) -> int:
        """Scratch memory of one frame of all channels: frame, spectrum and factor of what is read, likewise of what is written."""
        g, frame = self.geometry, self.item * (2 * self.frequencies + 2)
        large, small = g.in_channels * len(self.phases), g.out_channels
        if self.elementwise:
            return frame * 5 * (large + small) // 2
        read, written = (small, large) if self.contraction == "conv_transpose" else (large, small)
        return frame * 4 * (read + written)

    @property
    def grad_rows(self) -> int:
        """So many rows of an image are summed by one matrix product of a weight gradient, and such sums one after another."""
        return max(1, min(GRAD_ROWS, TILE_BYTES // self.row_bytes))

    @property
    def kernel_bytes(self) -> int:
        """The spectra of all weights, as they are kept."""
        g = self.geometry
        return self.item * 2 * self.frequencies * g.out_channels * g.in_channels_per_group * len(self.phases)

    @cached_property
    def chunks(self) -> int:
        """In how many parts the output channels are worked off (groups first), so that their spectra fit beside a frame."""
        g = self.geometry
        most = g.out_channels
        room = max(TILE_BYTES - self.row_bytes, TILE_BYTES // 2)
        return min(most, ceil(KERNEL_COPIES * self.kernel_bytes / room))

    def cost_ns(self) -> float:
        """Modelled time of one image, of one thread of a nominal CPU; weights serve several calls, so each bears a part of their transforms."""
        g, costs = self.geometry, COSTS[self.item]
        positions = prod(self.periods)
        transform = positions * (costs.transform * log2(max(positions, 2)) + costs.move)
        large, small = g.in_channels * len(self.phases), g.out_channels
        weights = g.out_channels * g.in_channels_per_group * len(self.phases)
        products = self.rows * weights * self.frequencies * (costs.single if self.elementwise else costs.product)
        spectra = self.frequencies * weights * costs.read
        kernels = weights if self.contraction == "conv_weight_grad" else weights / CALLS
        return costs.call + self.rows * costs.row + transform * (self.rows * (large + small) + kernels) + products + spectra

    def direct_ns(self) -> float:
        """Modelled time of the exact path for one image, on the same nominal CPU."""
        g, costs = self.geometry, COSTS[self.item]
        inner, outer = g.in_channels_per_group, g.out_channels_per_group
        if g.is_depthwise and outer == 1:
            return costs.direct_call + g.inside_macs * costs.depthwise
        written = inner if self.contraction == "conv_transpose" else outer
        few = 1 + 3 / max(written, 1) + 5 / max(inner * outer, 1)
        if self.contraction == "conv_weight_grad":
            few /= 2 if inner * outer == 1 else 1
        return costs.direct_call + g.inside_macs * costs.direct * few

    @property
    def error_bound(self) -> float:
        """c of |error| <= c u |x|_2 |w|_1, with u the unit roundoff, of one frame: a-priori (docs/large-kernels.md has the derivation)."""
        return 3 * (7 * log2(max(prod(self.periods), 2)) + 2) + self.depth


def _tiles(a: UnitAxis, period: int, step: int, contraction: str) -> list[Tile]:
    begin, end = a.span
    if contraction == "conv_transpose":
        if period >= _whole(a):
            return [Tile((begin, end), (0, a.outputs), begin, 0)]
        found = []
        for t in range(begin, end, step):
            last = min(t + step, end)
            base = t - a.taps + 1  # the first output that reaches t
            small = max(base, 0), min(last, a.outputs)
            found.append(Tile((t, last), small, a.taps - 1, small[0] - base))
        return found
    if period >= _whole(a):
        return [Tile((begin, end), (0, a.outputs), begin, 0)]
    found = []
    for o in range(0, a.outputs, step):
        last = min(o + step, a.outputs)
        large = max(o, begin), max(max(o, begin), min(last + a.taps - 1, end))
        found.append(Tile(large, (o, last), large[0] - o, 0))
    return found


def _whole(a: UnitAxis) -> int:
    """The least period with which an axis needs no cutting."""
    begin, end = a.span
    return max(a.outputs + a.taps - 1 - begin, end, a.outputs, a.taps, 1)


def _choices(a: UnitAxis, contraction: str) -> list[tuple[int, int]]:
    """(period, positions that a tile gives) along an axis: whole, and tiles of rising size."""
    begin, end = a.span
    positions = end - begin if contraction == "conv_transpose" else a.outputs
    whole = good_size(_whole(a))
    found = {whole: max(positions, 1)}
    for k in range(TRIED):
        period = good_size(int(a.taps * 1.25 * 1.35**k) + 8)
        if period < _whole(a):
            found.setdefault(period, period - a.taps + 1)
    return [(p, s) for p, s in found.items() if s > 0]


@lru_cache(maxsize=4096)
def plan_for(geometry: ConvGeometry, contraction: str, item: int) -> FftPlan:
    """The plan of a geometry, of any batch; item: bytes of a real number."""
    return _plan(replace(geometry, batch=1), contraction, item)


@lru_cache(maxsize=1024)
def _plan(g: ConvGeometry, contraction: str, item: int) -> FftPlan:
    axes = unit_axes(g)
    best: tuple[float, FftPlan] | None = None
    small: tuple[int, FftPlan] | None = None
    for choice in product(*(_choices(a, contraction) for a in axes)):
        made = FftPlan(g, contraction, item, axes, tuple(p for p, _ in choice), tuple(s for _, s in choice))
        if small is None or made.row_bytes < small[0]:
            small = made.row_bytes, made
        if made.row_bytes + KERNEL_COPIES * made.kernel_bytes // max(g.out_channels, 1) <= TILE_BYTES:
            cost = made.cost_ns()
            if best is None or cost < best[0]:
                best = cost, made
    assert small is not None
    return small[1] if best is None else best[1]
