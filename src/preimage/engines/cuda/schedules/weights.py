"""conv_weight_grad on a device: how images are divided into parts, and the launches that make and add them up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, prod

import numpy as np

from preimage.engines.base import Array, accumulator_dtype
from preimage.engines.cuda.constants import Constants
from preimage.engines.cuda.device import Arrays, Device, Memory, Operand, Properties
from preimage.engines.cuda.plan import Launch, weight_tile
from preimage.engines.cuda.schedules.gather import ELEMENTS, check_range, given
from preimage.engines.cuda.schedules.reduce_kernel import ReduceArguments, ReduceSpec
from preimage.engines.cuda.schedules.weights_direct_kernel import WeightDirectSpec
from preimage.engines.cuda.schedules.weights_kernel import MOST_TAPS, Edge, PositionBlock, Unit, WeightSpec
from preimage.engines.cuda.tile import DirectTile
from preimage.engines.order import Order
from preimage.geometry import ConvGeometry

__all__ = ["WeightPlan", "launch_reduce", "run_weights", "weight_plan"]


@dataclass(frozen=True)
class Units:
    """An image's positions as units: nodes of a level of its sum. closes: see `reduce_kernel`."""

    level: int
    blocks: Array
    units: Array
    closes: Array
    inner_depth: int
    outer_depth: int


@lru_cache(maxsize=512)
def units_of(size: tuple[int, ...], level: int, bk: int) -> Units:
    """level: 1 a block is a unit, 2 a group of blocks, ...; one more than the order has levels: an image."""
    order, inner = Order.of(size[::-1]), level - 1
    ranges = order.ranges()
    first, end = ranges.T
    index = np.unravel_index(first, size)[::-1]
    over = np.ones((order.depth + 1, len(ranges)), bool)  # whether a level's node ends with a block; the highest is the image
    over[-1, :-1] = False
    for k in range(order.depth):
        numbers = order.member(index, k + 1)
        over[k, :-1] = numbers[1:] != numbers[:-1]
    closed = np.logical_and.accumulate(over).sum(0)  # how many levels end, blocks among them
    steps, last = -(-(end - first) // bk), closed >= level
    begins = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    counts = np.diff(np.append(begins, len(ranges)))
    rows = np.stack([steps, np.minimum(closed, inner), first, end], 1)
    return Units(
        level,
        PositionBlock.of_rows(np.concatenate([rows, np.zeros((1, 4), np.int64)])),
        Unit.of_rows(np.stack([begins, counts, np.add.reduceat(steps, begins)], 1)),
        np.minimum(closed[last] - inner, order.depth + 1 - inner).astype(np.int64),
        inner,
        order.depth + 1 - level,
    )


@dataclass(frozen=True)
class WeightPlan:
    """How one geometry is computed. images: at a time, a power of two where there are more."""

    g: ConvGeometry
    launch: Launch
    spec: WeightSpec | WeightDirectSpec
    units: Units
    images: int

    @property
    def columns(self) -> int:
        return self.g.in_channels_per_group * prod(self.g.kernel_size)

    @property
    def grid(self) -> tuple[int, int]:
        tile = self.launch.tile
        return ceil(self.columns / tile.bn), ceil(self.g.out_channels_per_group / tile.bm)

    @property
    def algorithm(self) -> str:
        """In words, for plans."""
        if not isinstance(self.spec, WeightSpec):
            return "weight gradient, every thread for itself"
        return "weight gradient by tiles" + (" on tensor cores" if self.spec.tile.matrix else "")

    def blocks(self, images: int) -> int:
        """Blocks of threads for so many images."""
        column_blocks, out_blocks = self.grid
        return ceil(column_blocks * out_blocks * self.g.groups * images * len(self.units.units) / self.launch.tile.groups)

    @property
    def part_count(self) -> int:
        return prod(self.g.weight_shape)

    @property
    def workspace_bytes(self) -> int:
        item = 8 if self.spec.inner == "f64" else 4
        chunks = ceil(self.g.batch / self.images)
        return item * self.part_count * (self.images * len(self.units.units) + (chunks if chunks > 1 else 0))


def weight_plan(
    g: ConvGeometry, dtype: np.dtype, properties: Properties, workspace_bytes: int, channels_last: bool = False,
    launch: Launch | None = None,
) -> WeightPlan:  # fmt: skip
    """Images are divided where there would be too few blocks to fill the device, as far as the workspace allows. channels_last: how both
    operands lie.
    """
    sums = accumulator_dtype(dtype)
    launch = launch or weight_tile(g, sums.itemsize, properties)
    tile, order = launch.tile, Order.of(g.output_size[::-1])
    room = properties.multiprocessor_shared_bytes // tile.blocks_per_multiprocessor - 1024
    element, inner = ELEMENTS[dtype.name], ELEMENTS[sums.name]

    def spec(level: int) -> WeightSpec | WeightDirectSpec:
        if isinstance(tile, DirectTile):
            return WeightDirectSpec(g.ndim, tile, level - 1, element, inner)
        return WeightSpec(g.ndim, tile, level - 1, element, inner, channels_last, False, sum(g.kernel_size) > MOST_TAPS)

    levels = [n for n in range(1, order.depth + 2) if spec(n).shared_bytes <= room]
    wanted = 2 * properties.multiprocessors * tile.blocks_per_multiprocessor
    part = prod(g.weight_shape) * sums.itemsize

    def units(level: int) -> int:
        return prod(order.sizes[level]) if level <= order.depth else 1

    level = levels[-1]
    while level > 1 and launch.tiles * units(level) < wanted and part * units(level - 1) * 2 <= workspace_bytes:
        level -= 1
    images = g.batch
    if part * units(level) * images > workspace_bytes:
        images = 1 << max(0, (workspace_bytes // max(1, part * units(level))).bit_length() - 1)
    return WeightPlan(g, launch, spec(level), units_of(g.output_size, level, tile.bk), min(images, g.batch))


def run_weights(plan: WeightPlan, x: Operand, y: Operand, arrays: Arrays, constants: Constants) -> Operand:
    """The weight gradient of arrays that lie on the device."""
    g, device, dtype = plan.g, arrays.device, x.dtype
    check_range(x, y, _padded(g, x))
    result = arrays.make(g.weight_shape, dtype)
    sums = accumulator_dtype(dtype)
    item = sums.itemsize
    parts = device.allocate(plan.images * len(plan.units.units) * plan.part_count * item)
    chunks = range(0, g.batch, plan.images)
    totals = device.allocate(len(chunks) * plan.part_count * item) if len(chunks) > 1 else None
    for number, first in enumerate(chunks):
        images = min(plan.images, g.batch - first)
        _launch_parts(plan, x, y, parts, first, images, arrays, constants)
        to = result.address if totals is None else totals.address + number * plan.part_count * item
        out = ELEMENTS[dtype.name if totals is None else sums.name]
        spec = ReduceSpec(plan.units.outer_depth, ELEMENTS[sums.name], out)
        _launch_reduce(spec, parts.address, to, plan.units.closes, images, plan.part_count, arrays, constants)
    if totals is not None:
        names = ELEMENTS[sums.name], ELEMENTS[dtype.name]
        launch_reduce(*names, totals.address, result.address, len(chunks), plan.part_count, arrays, constants)
    return result


def launch_reduce(
    inner: str, out: str, parts: int, to: int, images: int, count: int, arrays: Arrays, constants: Constants
) -> None:
    """Add up arrays of `count` numbers that lie one after another, by the aligned tree; inner, out: element types of them and of the sum."""
    _launch_reduce(ReduceSpec(0, inner, out), parts, to, np.ones(1, np.int64), images, count, arrays, constants)


def _padded(g: ConvGeometry, x: Operand) -> Operand:
    """x with its padding, whose places are numbered too."""
    sizes = [lo + n + hi for n, (lo, hi) in zip(g.input_size, g.padding, strict=True)]
    return replace(x, shape=(1, x.shape[1], *(max(n, size) for n, size in zip(g.input_size, sizes, strict=True))))


def _launch_parts(
    plan: WeightPlan, x: Operand, y: Operand, parts: Memory, first: int, images: int, arrays: Arrays, constants: Constants
) -> None:
    g, device, spec = plan.g, arrays.device, plan.spec
    if isinstance(spec, WeightSpec):
        spec = replace(spec, wide=_wide(spec, g, x, y))
    kernel = device.load(spec)
    item = x.dtype.itemsize
    edges, first_edges = edges_of(g, plan.launch.tile.bk)
    blocks, units, placed = (constants.place(table) for table in (plan.units.blocks, plan.units.units, edges))
    xs, ys = ([s // item for s in operand.strides] for operand in (x, y))
    axes: dict[str, int] = {}
    hop = plan.launch.tile.bk
    for k in reversed(range(g.ndim)):
        axes |= {
            f"x_size_{k}": g.input_size[k], f"x_stride_{k}": xs[2 + k], f"y_size_{k}": g.output_size[k], f"y_stride_{k}": ys[2 + k],
            f"step_{k}": g.stride[k], f"lo_{k}": g.padding[k][0], f"dilation_{k}": g.dilation[k], f"kernel_{k}": g.kernel_size[k],
            f"hop_{k}": hop % g.output_size[k] if k else hop, f"edge_{k}": first_edges[k],
        }  # fmt: skip
        hop //= g.output_size[k]
    column_blocks, out_blocks = plan.grid
    words = spec.arguments(
        x=x.address + first * x.strides[0], y=y.address + first * y.strides[0], output=parts.address, blocks=blocks.address,
        units=units.address, edges=placed.address, unit_count=len(plan.units.units), batch=images, column_blocks=column_blocks,
        out_blocks=out_blocks, groups=g.groups, outs=g.out_channels_per_group, channels=g.in_channels_per_group, columns=plan.columns,
        x_image=xs[0], x_channel=xs[1], y_image=ys[0], y_channel=ys[1], part=plan.part_count, **axes,
    )  # fmt: skip
    device.launch(kernel, (plan.blocks(images), 1, 1), given(words), arrays.stream)


@lru_cache(maxsize=512)
def edges_of(g: ConvGeometry, bk: int) -> tuple[Array, tuple[int, ...]]:
    """The table of `Edge`, and where the rows of each axis begin; none for kernels of more taps than a word has bits.

    Rows of the first axis go on for positions behind the image, up to bk of them.
    """
    if sum(g.kernel_size) > MOST_TAPS:
        return Edge.of_rows(np.zeros(1)), (0,) * g.ndim
    words, begins, bit = [], [0], 0
    for k, (size, out, taps) in enumerate(zip(g.input_size, g.output_size, g.kernel_size, strict=True)):
        index, tap = np.arange(out if k else out + bk)[:, None], np.arange(taps)
        place = index * g.stride[k] + tap * g.dilation[k] - g.padding[k][0]
        words.append((((place < 0) | (place >= size)) << (tap + bit)).sum(1))
        begins.append(begins[-1] + len(index))
        bit += taps
    return Edge.of_rows(np.concatenate(words)), tuple(begins[:-1])


def _wide(spec: WeightSpec, g: ConvGeometry, x: Operand, y: Operand) -> bool:
    """Whether threads may copy 16 bytes of neighbouring channels at a time."""
    lanes = 16 // x.dtype.itemsize
    if not spec.last or spec.element != spec.inner or g.in_channels_per_group % lanes or g.out_channels_per_group % lanes:
        return False
    strides = [s for a in (x, y) for k, s in enumerate(a.strides) if k != 1]
    return not any(number % 16 for number in (x.address, y.address, *strides))


def _launch_reduce(
    spec: ReduceSpec, parts: int, to: int, closes: Array, images: int, count: int, arrays: Arrays, constants: Constants
) -> None:
    device: Device = arrays.device
    words = ReduceArguments(
        parts=parts, output=to, closes=constants.place(closes).address, images=images, units=len(closes),
        levels=(images - 1).bit_length(), count=count,
    )  # fmt: skip
    blocks = min(ceil(count / spec.threads), device.properties.multiprocessors * 16)
    device.launch(device.load(spec), (blocks, 1, 1), given(words), arrays.stream)
