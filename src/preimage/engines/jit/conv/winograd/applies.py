"""Which convolutions Winograd's algorithms compute, and with which tiles: by the geometry alone, whatever the batch, the layout or the CPU.

`choose` is part of the definition (docs/contract.md), as the bits depend on it; `preimage.contract_fast` has it in words of its own.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import prod

from preimage.engines.jit.conv.winograd.transforms import amplification, roundings
from preimage.engines.order import Cut, Order
from preimage.geometry import ConvGeometry
from preimage.records import record

__all__ = ["Choice", "block_of", "choose", "order_of", "refused"]

LEAST_MACS = 1 << 18  # multiply-adds of an image and a group
LEAST_CHANNELS = 16  # of a group, on either side
WIDE_TERMS = 48  # so many terms at least have the sums of tiles of 6 points that are accurate enough: channels, or tiles of a weight gradient
TRANSFORM_MACS = 10  # what a point of a tile costs, for a channel of the input or of the result, in multiply-adds
WEIGHT_MACS = 10  # what a weight costs that comes from far, likewise
SUM_MACS = 8  # what a sum of a weight gradient at a point costs, until it is a weight's
RESULT_MACS = 2  # what a weight's gradient costs in the exact order, beside its multiply-adds
GAIN = 1.25  # so many times less work than the exact order at least
BLOCK_LEAST, BLOCK_MOST, GROUP = 16, 128, 9


@record
class Choice:
    """Along each axis the outputs of a tile and the taps; tiles along each axis; work in multiply-adds of an image, ours and the exact order's."""

    shape: tuple[tuple[int, int], ...]
    counts: tuple[int, ...]
    work: float
    exact_work: float
    error: float  # the bound, in units of u max|x| sum|w|

    @property
    def points(self) -> int:
        """Of a tile, along each axis with more than one tap."""
        return max(m + taps - 1 for m, taps in self.shape)


def refused(g: ConvGeometry, contraction: str, element: str) -> str | None:
    """In words why no tiles are tried, None where some are."""
    if element not in ("f32", "f64"):
        return f"elements of {element} are summed in float32 and rounded once"
    if max(g.stride, default=1) > 1 or max(g.dilation, default=1) > 1:
        return f"stride {g.stride} and dilation {g.dilation}, not 1"
    if not 1 <= g.ndim <= 3:
        return f"{g.ndim} spatial axes, not one to three"
    if max(g.kernel_size) == 1 or max(g.kernel_size) > 5:
        return f"kernel {g.kernel_size}: not two to five taps along some axis"
    channels = (g.in_channels_per_group, g.out_channels_per_group)
    if min(channels) < LEAST_CHANNELS or channels[0] % 8 or channels[1] % 8:
        return f"{channels[0]} and {channels[1]} channels a group: not whole eights from {LEAST_CHANNELS} on"
    return None


@lru_cache(maxsize=4096)
def choose(g: ConvGeometry, contraction: str, element: str) -> Choice | str:
    """The tiles, or in words why the exact order is taken."""
    why = refused(g, contraction, element)
    if why is not None:
        return why
    one = replace(g, batch=1)
    macs = one.inside_macs
    if macs // g.groups < LEAST_MACS:
        return f"{macs // g.groups:,} multiply-adds an image and group, fewer than {LEAST_MACS:,}"
    result = g.input_size if contraction == "conv_transpose" else g.output_size
    forward = contraction != "conv_transpose"
    inner, outer = g.in_channels_per_group, g.out_channels_per_group
    channels = (inner, outer) if forward else (outer, inner)
    weights = prod(channels) * g.groups
    gradient = contraction == "conv_weight_grad"
    exact = macs + (RESULT_MACS if gradient else WEIGHT_MACS) * weights * prod(g.kernel_size)
    tried = [_choice(g, shape, result, channels, exact, gradient) for shape in _shapes(g.kernel_size)]
    found = [choice for choice in tried if choice.points == 4 or (prod(choice.counts) if gradient else channels[0]) >= WIDE_TERMS]
    if not found:
        over = "tiles" if gradient else f"{channels[0]} channels"
        return f"kernel {g.kernel_size} over {over}: tiles of 6 points err too much with fewer than {WIDE_TERMS} terms"
    best = min(found, key=lambda choice: choice.work)
    if best.work * GAIN > exact:
        return f"{best.work:,.0f} multiply-adds with its transforms, {exact:,.0f} without"
    return best


def _shapes(kernel: tuple[int, ...]) -> list[tuple[tuple[int, int], ...]]:
    """The tiles that are tried: as many points along every axis with more than one tap."""
    found = []
    long = sum(taps > 1 for taps in kernel)
    for points in (4, 6):
        if points == 6 and (long > 2 or 2 in kernel):
            continue  # 6 points of two taps err more, on three axes they are too many
        if points == 4 and max(kernel) > 3:
            continue
        found.append(tuple((1, 1) if taps == 1 else (points + 1 - taps, taps) for taps in kernel))
    return found


def _choice(
    g: ConvGeometry, shape: tuple[tuple[int, int], ...], result: tuple[int, ...], channels: tuple[int, int], exact: float, gradient: bool
) -> Choice:  # fmt: skip
    points = prod(m + taps - 1 for m, taps in shape)
    counts = tuple(-(-size // m) for size, (m, _) in zip(result, shape, strict=True))
    tiles = prod(counts) * points * g.groups
    weight_macs = SUM_MACS if gradient else WEIGHT_MACS
    work = tiles * (prod(channels) + TRANSFORM_MACS * sum(channels)) + weight_macs * points * prod(channels) * g.groups
    order = order_of(channels[0])
    chain = (order.levels[0].step if order.levels else channels[0]) + GROUP * order.depth
    if gradient:
        chain = block_of(prod(counts)) + -(-prod(counts) // block_of(prod(counts)))
    return Choice(shape, counts, work, exact, roundings(shape, chain) * amplification(shape))


def block_of(tiles: int) -> int:
    """Tiles of a block of a weight gradient's sums, which are added one after another."""
    order = order_of(tiles)
    return order.levels[0].step if order.levels else tiles


@lru_cache(maxsize=1024)
def order_of(terms: int) -> Order:
    """How a sum over channels at one point is cut: as the contract's sums, but in blocks of 16 to 128."""
    limit = BLOCK_LEAST
    while limit < BLOCK_MOST and limit * limit <= terms:
        limit *= 2
    levels, size = [], terms
    while size > limit:
        pieces = -(-size // limit)
        step = -(-size // pieces)
        levels.append(Cut(0, step))
        size, limit = -(-size // step), GROUP
    return Order((terms,), tuple(levels))
