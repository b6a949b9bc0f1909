"""How the weight gradient of one geometry is computed: which operand gives scalars, the tile, the packing, the tables.

A geometry is, for one group, a matrix of weights  (tap of the other axes) x (tap of the last axis) x I x O.  Three
readings of it as rows x columns x loop turns are known, and the plan takes the one that wastes fewest lanes:

    "channels"  columns = input channels, rows = output channels, every tap is a loop turn   (needs no transposition)
    "run"       columns = (last-axis taps, input channels), rows = output channels           (few input channels)
    "outputs"   columns = output channels, rows = (last-axis taps, input channels)           (stems, RGB heads)

A run needs the taps of a kernel row to be neighbours in memory at every pixel, border included: x is copied with its
padding along the last axis, unless there is none. So there the padding of the last axis takes part, and that of the
other axes is left out; in "channels" all of it is left out. Which of the two holds is set by the geometry alone.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from math import prod

import numpy as np

from preimage.engines.base import Array
from preimage.engines.ir.arguments import Column, Record
from preimage.engines.ir.builder import LINE_BYTES
from preimage.engines.jit import branches
from preimage.engines.jit.compiler.costs import WeightGradCosts
from preimage.engines.jit.compiler.kernels import Target
from preimage.engines.jit.index.running_sums import RunningSums, running_sums
from preimage.engines.jit.weight_grad.tile_arguments import Block, Span
from preimage.engines.jit.weight_grad.tile_kernel import TOGETHER, TileSpec
from preimage.geometry import ConvGeometry
from preimage.records import record

__all__ = [
    "Reading",
    "Tables",
    "band_pixels",
    "lines_ahead",
    "prefetches_next_band",
    "products",
    "read_geometry",
    "spans",
    "tables",
    "take_reading",
    "tap_range",
    "tile_spec",
    "wants_blocks",
]


@record
class Reading:
    """A geometry read as a matrix, and its tile. lanes: width of each vector of the tile; rows: of the tile."""

    kind: str
    rows: int
    columns: int
    tile_rows: int
    lanes: tuple[int, ...]
    valid: int
    run: bool
    together: bool = False  # images of one position, several at once
    abreast: int = 0  # images of few positions, so many side by side

    @property
    def tile_columns(self) -> int:
        return sum(self.lanes[:-1]) + self.valid

    @property
    def row_tiles(self) -> int:
        return -(-self.rows // self.tile_rows)

    @property
    def column_tiles(self) -> int:
        return -(-self.columns // self.tile_columns)

    @property
    def waste(self) -> float:
        """Multiply-adds issued for one that is wanted, with a narrow vector counted by its width."""
        issued = self.row_tiles * self.tile_rows * self.column_tiles * sum(self.lanes)
        return issued / (self.rows * self.columns)


def _vectors(columns: int, most: int, lanes: int) -> tuple[tuple[int, ...], int]:
    """Vectors of one tile that cover `columns` in equal steps of at most `most` vectors; the last may be half as wide."""
    half = lanes // 2
    if columns <= most * lanes:  # one tile holds them all
        whole, rest = divmod(columns, lanes)
        if rest == 0:
            return (lanes,) * whole, lanes
        width = half if rest <= half and half >= 4 else lanes
        return (lanes,) * whole + (width,), rest
    vectors = -(-columns // lanes)
    tiles = -(-vectors // most)
    return (lanes,) * -(-vectors // tiles), lanes


def _shapes(columns: int, lanes: int, little: bool) -> list[tuple[tuple[int, ...], int]]:
    """Vectors of a tile worth trying, and how many lanes of the last one exist."""
    if not little:
        return [_vectors(columns, most, lanes) for most in (1, 2, 3, 4, 6, 8)]
    shapes: list[tuple[int, ...]] = [(lanes,)] if columns > lanes // 2 or lanes < 8 else [(lanes // 2,)]
    if columns > lanes:
        shapes.append((lanes, lanes))
    return [(shape, min(shape[-1], columns - sum(shape[:-1]))) for shape in shapes]


def _tile(
    kind: str, rows: int, columns: int, run: bool, target: Target, element_bytes: int, little: bool, together: bool, abreast: int
) -> Reading:  # fmt: skip
    """The tile with the least waste, then the fewest loads: rows * vectors accumulators, and room for the operands."""
    lanes, costs = target.vector_bytes // element_bytes, target.costs.weight_grad
    best: tuple[float, Reading] | None = None
    for shape, valid in _shapes(columns, lanes, little):
        width = len(shape)
        room = (target.vector_registers - 1 - width) // width if target.vector_registers > 16 else (15 - width) // width
        if together:  # two sums of images wait while a third is made
            room = (target.vector_registers - 4) // 3 // width
        if abreast:  # every image has sums of its own
            room = (target.vector_registers - 1 - width) // abreast // width
        highest = min(rows, room, 16)
        for tile_rows in [n for n in (1, 2, 4, 8) if n <= highest] if little else range(1, highest + 1):
            reading = Reading(kind, rows, columns, tile_rows, shape, valid, run, together, abreast)
            sums = tile_rows * width * max(1, abreast)
            latency = max(1.0, 10 / sums)  # too few sums do not hide the latency of a multiply-add
            loads = (width + costs.broadcast * tile_rows) / (tile_rows * width)
            cost = reading.waste * latency * max(1.0, loads) * (1 + 0.12 * loads)
            if abreast:  # a line of scalars and one for each vector, from the second cache
                cost = reading.waste * latency * (1 + costs.abreast_line * (1 + width) / (tile_rows * width))
            if best is None or cost < best[0] - 1e-9:
                best = cost, reading
    assert best is not None
    return best[1]


@lru_cache(maxsize=4096)
def read_geometry(geometry: ConvGeometry, element_bytes: int, target: Target, little: bool = False) -> Reading:
    """The reading with the least cost. It depends on the lanes of the target only through the tile, never in its order."""
    i, o = geometry.in_channels_per_group, geometry.out_channels_per_group
    last = geometry.kernel_size[-1] if geometry.ndim else 1
    together = not little and prod(geometry.output_size) == 1 and geometry.batch >= TOGETHER
    is_run = last > 1 and _run_by_geometry(geometry)
    how = target, element_bytes, little, together, 0 if little or together or is_run else _abreast(geometry, target)
    if is_run:
        readings = [
            _tile("run", o, last * i, True, *how),
            _tile("outputs", last * i, o, True, *how),
        ]
    else:
        readings = [
            _tile("channels", o, i, False, *how),
            _tile("outputs", i, o, False, *how),
        ]
    return min(readings, key=lambda r: r.waste * (1.06 if r.kind == "outputs" else 1.0))


def _abreast(geometry: ConvGeometry, target: Target) -> int:
    """How many images run past a tile at once: with few positions it takes a good part of the time to put the sums down. Not of few input
    channels: their rows are read in place, a wide tile at a time.
    """
    if running_sums(geometry.output_size).depth:
        return 0
    counts = (4, 2) if target.vector_registers > 16 else (2,)
    # those that are left over go one by one, through tiles that are small for it
    return next((n for n in counts if n <= geometry.batch and geometry.batch % n * 4 <= geometry.batch), 0)


def take_reading(g: ConvGeometry, reading: Reading, size: int, target: Target) -> None:
    """Name the decisions behind a reading, which `read_geometry` remembers."""
    take = branches.weight_grad
    take("taken")
    take("reading.run_outputs" if reading.run and reading.kind == "outputs" else f"reading.{reading.kind}")
    take("tile.half_vector" if reading.lanes[-1] < target.vector_bytes // size else "tile.full_vectors")
    take("tile.one_row" if reading.tile_rows == 1 else "tile.several_rows")
    if reading.rows % reading.tile_rows:
        take("tile.ragged_rows")
    if reading.columns % reading.tile_columns:
        take("tile.ragged_columns")
    if reading.valid < reading.lanes[-1]:
        take("tile.part_of_a_vector")
    take("groups.one" if g.groups == 1 else "groups.several")


def _run_by_geometry(geometry: ConvGeometry) -> bool:
    """Whether padding along the last axis takes part: only where there are few input channels, on any CPU."""
    if geometry.dilation[-1] != 1 or geometry.groups != 1:
        return False
    return geometry.in_channels_per_group < 16 or (
        geometry.in_channels_per_group % 16 != 0 and geometry.in_channels_per_group < 48
    )


def tap_range(size_in: int, size_out: int, offset: int, stride: int) -> tuple[int, int]:
    """The output positions p with 0 <= p*stride + offset < size_in, as (first, last + 1)."""
    first = max(0, -(offset // stride)) if offset < 0 else 0
    last = min(size_out, (size_in - 1 - offset) // stride + 1) if size_in - 1 >= offset else 0
    return (first, last) if first < last else (0, 0)


def products(geometry: ConvGeometry) -> dict[str, float]:
    """How often an element of x, and one of y, is multiplied."""
    taps = prod(geometry.kernel_size)
    return {
        "x": geometry.out_channels_per_group * taps / prod(geometry.stride),
        "y": geometry.in_channels_per_group * taps,
    }


def wants_blocks(geometry: ConvGeometry, reading: Reading, size: int, costs: WeightGradCosts) -> tuple[bool, bool]:
    """Whether x and y are worth a copy in blocks: where a pixel's channels are far apart and each is used often. Of images of few positions
    they are sooner: narrow tiles read few of the channels that lie beside each other, and each image begins somewhere else.
    """
    pixel_bytes = (geometry.in_channels * prod(geometry.stride) + geometry.out_channels) * size
    if reading.abreast or reading.together:
        often = products(geometry)
        x, y = (not reading.run and often[side] >= costs.few_products for side in "xy")
        return x, y
    if reading.run or prod(geometry.output_size) * pixel_bytes < costs.block_image_bytes:
        return False, False
    often = products(geometry)
    far = {"x": geometry.in_channels * size * geometry.stride[-1], "y": geometry.out_channels * size}
    many = prod(geometry.weight_shape) * size >= costs.block_weight_bytes
    x, y = (
        often[side] >= costs.block_products
        and (far[side] >= costs.block_far_bytes or (many and often[side] >= 4 * costs.block_products))
        for side in "xy"
    )
    return x, y


def band_pixels(geometry: ConvGeometry, reading: Reading, size: int, costs: WeightGradCosts, blocks: bool) -> int:
    """Output pixels of one band: what the cache suggests."""
    if blocks:  # one tile's vectors stay in the cache while the scalars stream past
        return costs.block_band_bytes // (reading.tile_columns * size)
    pixel_bytes = (geometry.in_channels * prod(geometry.stride) + geometry.out_channels) * size
    return max(costs.band_pixels, costs.band_bytes // pixel_bytes)


class RowPart(Record):
    """Part of a row of output pixels as a tap meets it. Offsets in bytes, of the column 0."""

    x: Column  # offset
    y: Column  # offset
    first: Column  # column
    end: Column  # last column + 1


@record
class Tables:
    """What a tile passes over, for every outer tap. See `tile_kernel`."""

    segments: Array  # of RowPart
    blocks: Array  # of Block: those of an image that are needed, for every outer tap
    bands: Array  # int64 (outer taps, bands + 1): the first block of each
    open_levels: int  # levels of positions that are put down between bands; below them the levels end with every band

    @property
    def n_bands(self) -> int:
        return int(self.bands.shape[1]) - 1


def tables(
    geometry: ConvGeometry, sums: RunningSums, x_strides: tuple[int, ...], y_strides: tuple[int, ...], pixels_per_band: int
) -> Tables:  # fmt: skip
    """The blocks of an image as segments of rows that each outer tap reaches, in bands of about `pixels_per_band` output pixels."""
    outer_sizes = geometry.output_size[:-1]
    n_rows, lines = prod(outer_sizes), sums.lines()
    edges, closes = _band_edges(sums, pixels_per_band)
    places = np.indices(outer_sizes, np.int64).reshape(len(outer_sizes), n_rows)
    y_row = np.array(y_strides[:-1], np.int64) @ places
    reached = [_rows_reached(geometry, axis, place, x_strides[axis]) for axis, place in enumerate(places)]
    segments: list[Array] = []
    walks: list[Array] = []
    bands: list[Array] = []
    count = n_blocks = 0
    for taps in product(*reached):
        valid, x_row = np.ones(n_rows, bool), np.zeros(n_rows, np.int64)
        for inside, offset in taps:
            valid, x_row = valid & inside, x_row + offset
        met = lines if valid.all() else lines[:, valid[lines[1]]]
        block, row, first, last = met
        segments.append(RowPart(x=x_row[row], y=y_row[row], first=first, end=last).table())
        edge = np.bincount(block + 1, minlength=len(sums.ends) + 1).cumsum() + count
        begin, end = edge[:-1], edge[1:]
        needed = sums.needed(begin == end)
        walks.append(Block(
            first_segment=begin, end_segment=end, first_step=sums.ends["first_step"], end_step=sums.ends["end_step"],
            level=sums.ends["level"],
        ).table()[needed])  # fmt: skip
        bands.append(needed.searchsorted(edges) + n_blocks)
        count, n_blocks = count + len(block), n_blocks + len(needed)
    open_levels = sums.depth - closes if len(edges) > 2 else 0
    return Tables(RowPart.joined(segments), Block.joined(walks), np.array(bands, np.int64), open_levels)


def _rows_reached(geometry: ConvGeometry, axis: int, place: Array, x_stride: int) -> list[tuple[Array, Array]]:
    """For each tap of an outer axis which rows of the output, at these places, read the input under it, and the offset of what they read."""
    found = []
    for k in range(geometry.kernel_size[axis]):
        position = place * geometry.stride[axis] + (k * geometry.dilation[axis] - geometry.padding[axis][0])
        found.append(((position >= 0) & (position < geometry.input_size[axis]), position * x_stride))
    return found


def _band_edges(sums: RunningSums, pixels: int) -> tuple[Array, int]:
    """Where bands begin and end, in blocks, and how many levels end with every band.

    A band is a whole number of blocks, or of groups of them as large as the cache allows: then fewer sums are put down.
    """
    blocks, closes = sums.order.ranges(), 0
    count = len(blocks)
    if blocks[-1, 1] <= pixels:
        return np.array([0, count], np.int64), 0
    ends = np.arange(1, count + 1)
    for level in range(1, sums.depth):
        wider = np.flatnonzero(sums.closed >= level) + 1
        if np.diff(blocks[wider - 1, 1], prepend=0).max() > pixels:
            break
        ends, closes = wider, level
    member = blocks[-1, 1] / len(ends)
    bands = -(-len(ends) // max(1, int(pixels / member)))
    last = np.array([len(ends) * (k + 1) // bands for k in range(bands)], np.int64)
    return np.concatenate([[0], ends[last - 1]]), closes


def spans(bands: list[list[tuple[int, int, int]]]) -> tuple[Array, Array]:
    """The stretches of memory that each band reads and the one before did not, as a table of `Span`, and each band's
    first one. Given for each band: (operand, first byte, last byte + 1) of its rows.
    """
    words: list[tuple[int, int, int]] = []
    starts = [0]
    before: set[tuple[int, int, int]] = set()
    for rows in bands:
        now = set(rows)
        joined: list[tuple[int, int, int]] = []
        for side, begin, end in sorted(now - before):
            if joined and joined[-1][0] == side and joined[-1][2] >= begin:
                joined[-1] = side, joined[-1][1], max(end, joined[-1][2])
            else:
                joined.append((side, begin, end))
        words += [(side, begin, -(-(end - begin) // LINE_BYTES)) for side, begin, end in joined]
        starts.append(len(words))
        before = now
    operand, offset, lines = np.array(words, np.int64).reshape(-1, 3).T
    return Span(operand=operand, offset=offset, lines=lines).table(), np.array(starts, np.int64)


def prefetches_next_band(geometry: ConvGeometry, reading: Reading, size: int, target: Target) -> bool:
    """Whether a band's operands are prefetched while the one before is computed: they come from memory, few at a time between many
    multiply-adds, and in an order (a tile's channels of each pixel) that the hardware does not follow.
    """
    pixel_bytes = (geometry.in_channels * prod(geometry.stride) + geometry.out_channels) * size
    if reading.kind != "channels" or prod(geometry.output_size) * pixel_bytes < 2 * target.l2_bytes:
        return False
    vectors = prod(geometry.weight_shape) // reading.lanes[0]
    return vectors * LINE_BYTES >= target.costs.weight_grad.prefetch_products * pixel_bytes


def lines_ahead(size: int, pixel_bytes: int, width: int, often: float, costs: WeightGradCosts) -> int:
    """Cache lines of one pixel to prefetch: of an operand that streams past, its pixels too far apart for the
    hardware to see a pattern (with many lines a pixel it sees one)."""
    lines = -(-width * size // LINE_BYTES) + 1
    streams = often < costs.block_products and pixel_bytes >= costs.far_pixel_bytes
    return lines if streams and lines <= costs.most_lines_ahead else 0


def tile_spec(
    reading: Reading,
    element: str,
    ahead: tuple[int, int],
    little: bool,
    prefetch: bool,
    far: bool,
    apart: bool = False,
) -> TileSpec:
    """What code the reading needs."""
    if little:
        return TileSpec(element, reading.tile_rows, reading.lanes, 0, True, True)
    return TileSpec(
        element=element,
        rows=reading.tile_rows,
        lanes=reading.lanes,
        valid=reading.valid,
        ragged_rows=reading.rows % reading.tile_rows != 0,
        ragged_cols=reading.columns % reading.tile_columns != 0,
        together=reading.together,
        abreast=reading.abreast,
        ahead=ahead,
        prefetch=prefetch,
        far=far,
        apart=apart,
    )
