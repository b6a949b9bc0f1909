"""Winograd's convolution in one kernel: a band of tiles is transformed, multiplied point by point, and transformed back.

    for tile in this task's tiles                        # of any image
        for vector of input channels
            V[point][tile][channels] = B^T of the tile's input
    for block group in this task's output channels       # as many as leave their sums in the second cache
        for point
            for block of output channels, for `pixels` tiles
                M[block][point][tile][o] = sum over i of V[point][tile][i] U[block][point][i][o]     # in the order of sums
        for tile, for vector of output channels
            output = epilogue(A^T of M)

U, the transformed weights, is packed before (`weights_kernel`). What a tile reads beyond the borders is zero: in channels-last arrays its
address is that of a line of zeros, of channels-first ones the lanes of a masked load. Three axes always; those that are not there have one tap.
Conv and the transpose of a stride of 1 differ in the weights and in the padding alone.
"""

from __future__ import annotations

from contextlib import nullcontext
from math import prod
from typing import ClassVar, Protocol

from preimage.engines.ir.arguments import Elements, Integer, Records, elements, integer
from preimage.engines.ir.builder import ELEMENT_BYTES, LINE_BYTES, Int, Kernel, Num, Ptr
from preimage.engines.ir.epilogue import EpilogueArguments, EpilogueSpec, finish
from preimage.engines.ir.ordered import Node, ordered_sum
from preimage.engines.jit.conv.winograd.input_kernel import (
    AXES,
    Index,
    Place,
    Shape,
    Side,
    each_line,
    place_in,
    place_of,
    points_of,
    transform_tiles,
)
from preimage.engines.jit.conv.winograd.transforms import apply_paired_columns, input_matrix, output_matrix
from preimage.engines.jit.packing.copy_kernel import transposed
from preimage.records import record

__all__ = ["TileArguments", "WinogradArguments", "WinogradSpec", "build", "input_side"]


class TileArguments(EpilogueArguments):
    """Where tiles lie, and their input: strides and offsets in bytes. Axis 2 is the last."""

    zeros: Elements = elements("element")  # a line of zeros, as long as the channels
    scratch: Elements = elements("element")
    thread_bytes: Integer
    tiles: Integer  # of all images
    count_0: Integer  # tiles of an image along its axes
    count_1: Integer
    count_2: Integer
    lo_0: Integer  # padding before the first position
    lo_1: Integer
    lo_2: Integer
    in_0: Integer  # sizes
    in_1: Integer
    in_2: Integer
    in_stride_0: Integer
    in_stride_1: Integer
    in_stride_2: Integer
    in_image: Integer
    in_channel: Integer
    channels: Integer  # of a group's input
    v_point: Integer  # of the transformed input, from a point to the next
    v_tile: Integer
    v_at: Integer  # where it begins in the thread's scratch


class WinogradArguments(TileArguments):
    """A task is a band of tiles, and a part of a group's output channels."""

    band: Integer  # tiles of a task
    bands: Integer
    parts: Integer
    part_blocks: Integer  # blocks of output channels of a part
    group_blocks: Integer  # of a group
    together: Integer  # blocks whose sums lie in the scratch at once
    out_0: Integer
    out_1: Integer
    out_2: Integer
    out_stride_0: Integer
    out_stride_1: Integer
    out_stride_2: Integer
    out_image: Integer
    out_channel: Integer
    group_channels: Integer  # output channels of a group
    step: Integer  # input channels of a block of the order of sums
    first_member: Integer  # of the sums' highest level
    end_member: Integer
    nodes: Records[Node]
    panel_bytes: Integer  # packed weights of a block and a point
    m_point: Integer  # of the sums, from a point to the next
    m_block: Integer
    m_at: Integer
    group_span: Integer = integer(default=0)  # from a group's input channels to the next group's


class HasTiles(Protocol):
    """What the transform of the input depends on."""

    @property
    def element(self) -> str: ...
    @property
    def lanes(self) -> int: ...
    @property
    def shape(self) -> Shape: ...
    @property
    def planes_in(self) -> bool: ...


@record
class WinogradSpec:
    """What the code depends on.

    element: of all arrays; lanes, vectors, pixels: the tile of the products, lanes also the vectors of the transforms; shape: see `Shape`; depth:
    levels of the order of sums; unroll: what divides the channels of every block; planes_in, planes_out: those arrays are channels-first.
    """

    arguments: ClassVar = WinogradArguments

    element: str
    lanes: int
    vectors: int
    pixels: int
    shape: Shape
    depth: int
    unroll: int
    planes_in: bool
    planes_out: bool
    epilogue: EpilogueSpec

    @property
    def out(self) -> str:
        """The type of the result."""
        return self.element

    @property
    def inner(self) -> str:
        """The type of sums and packed weights."""
        return self.element

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: WinogradSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    args = WinogradArguments.read(f, spec, at_entry=True)
    part, rest = f.task % args.parts, f.task // args.parts
    band, group = rest % args.bands, rest // args.bands
    first = band * args.band
    count = (first + args.band).minimum(args.tiles) - first
    own = args.scratch.at_bytes(f.thread * args.thread_bytes)
    x = args.input.at_bytes(group * args.group_span)

    def side_here() -> tuple[Side, tuple[Int, ...]]:
        here = WinogradArguments.read(f, spec)
        return input_side(f, here, spec, x, own), counts_of(args.here)

    transform_tiles(f, side_here, first, count, lambda tile: own.at_bytes(args.v_at + tile * args.v_tile))
    begin = part * args.part_blocks
    end = (begin + args.part_blocks).minimum(args.group_blocks)
    turns = (end - begin + args.together - 1) // args.together
    with f.loop(0, turns) as turn:
        block_0 = begin + turn.index * args.together
        block_1 = (block_0 + args.together).minimum(end)
        _products(f, spec, own, group * args.group_blocks, block_0, block_1, count)
        with f.loop(0, count) as tile:
            m_tile = own.at_bytes(args.m_at).at(tile.index * (spec.vectors * spec.lanes))
            here = WinogradArguments.read(f, spec)
            place = place_of(counts_of(here), first + tile.index)
            with f.loop(block_0 * spec.vectors, block_1 * spec.vectors) as vector:
                m = m_tile.at_bytes((vector.index // spec.vectors - block_0) * here.m_block)
                m = m.at(vector.index % spec.vectors * spec.lanes)
                _output_tile(f, spec, m, own, place, group * here.group_channels + vector.index * spec.lanes)
    return f.ir()


def counts_of(args: TileArguments) -> tuple[Int, ...]:
    """Tiles along each axis."""
    return args.count_0, args.count_1, args.count_2


def input_side(
    f: Kernel, args: TileArguments, spec: HasTiles, x: Ptr, own: Ptr, pieces: tuple[Int, Int] | None = None
) -> Side:  # fmt: skip
    """The input, whose tiles overlap, for B^T; own: the thread's scratch."""
    sizes = points_of(spec.shape)
    return Side(
        spec.element, spec.lanes, spec.planes_in, sizes, tuple(m for m, _ in spec.shape),
        tuple(None if taps == 1 else input_matrix(n) for n, (_, taps) in zip(sizes, spec.shape, strict=True)), x, args.zeros, own,
        (args.lo_0, args.lo_1, args.lo_2), (args.in_0, args.in_1, args.in_2),
        (args.in_stride_0, args.in_stride_1, args.in_stride_2), args.in_image, args.in_channel, args.channels, args.v_point,
        pieces,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ products


def _products(f: Kernel, spec: WinogradSpec, own: Ptr, group_block: Int, block_0: Int, block_1: Int, count: Int) -> None:
    """M of these blocks of output channels: one point after another."""
    args = WinogradArguments.read(f, spec, at_entry=True)
    points, width = prod(points_of(spec.shape)), spec.vectors * spec.lanes
    with f.loop(0, points) as point, f.loop(block_0, block_1) as block:
        before = group_block * points + point.index * args.group_blocks + block.index
        panel = args.weight.at_bytes(before * args.panel_bytes)
        v_point = own.at_bytes(args.v_at + point.index * args.v_point)
        m = own.at_bytes(args.m_at + (block.index - block_0) * args.m_block + point.index * args.m_point)
        with f.loop(0, count, spec.pixels, once=True) as tile:
            last = count - 1
            rows = [v_point.at_bytes((tile.index + p).minimum(last) * args.v_tile) for p in range(spec.pixels)]
            sums = _sums(f, spec, rows, panel)
            to = m.at(tile.index * width)
            for number, value in enumerate(sums):
                to.at(number * spec.lanes).store(value)


def _sums(f: Kernel, spec: WinogradSpec, rows: list[Ptr], panel: Ptr) -> list[Num]:
    """The sums over the channels of `pixels` tiles and a block of output channels, in their order."""
    args = WinogradArguments.read(f, spec)
    zeros = [f.zeros(spec.element, spec.lanes)] * (spec.pixels * spec.vectors)

    def step(i: Int, sums: list[Num]) -> list[Num]:
        line = panel.at(i * (spec.vectors * spec.lanes))
        for offset in range(0, spec.vectors * spec.lanes * ELEMENT_BYTES[spec.element], LINE_BYTES):
            f.prefetch(line.at_bytes(args.panel_bytes).at_bytes(offset), level=2)  # of the panel that comes next
        weight = [line.at(v * spec.lanes).load(spec.lanes) for v in range(spec.vectors)]
        out = []
        for p, row in enumerate(rows):
            value = row.at(i).splat(spec.lanes)
            for v in range(spec.vectors):
                out.append(sums[p * spec.vectors + v].plus_product(weight[v], value))
        return out

    def block(number: Int, sums: list[Num]) -> list[Num]:
        first = number * args.step
        with f.loop(first, (first + args.step).minimum(args.channels), spec.unroll, carry=sums, once=True) as i:
            for u in range(spec.unroll):
                i.carry = step(i.index + u, i.carry)
        return i.result

    bounds = args.first_member, args.end_member
    return ordered_sum(f, spec.depth, bounds, zeros, block, lambda number: args.nodes[number], lone=True)


# -------------------------------------------------------------------------------------------------- output


def _output_tile(f: Kernel, spec: WinogradSpec, m: Ptr, own: Ptr, place: Place, channel: Int) -> None:
    """A^T of the sums of a tile and a vector of channels, stored with the epilogue; of a tile at the border what lies inside."""
    args = WinogradArguments.read(f, spec)
    sizes = list(points_of(spec.shape))
    points = tuple(sizes)
    axes = [k for k in range(AXES) if spec.shape[k][1] > 1]

    item = spec.lanes * ELEMENT_BYTES[spec.element]

    def value_at(axis: int, at: tuple[Index, ...]) -> Num:
        where = place_in(m, at, points, args.m_point) if axis == axes[0] else place_in(own, at, points, item)
        return where.load(spec.lanes)

    for axis in axes[:-1]:
        matrix = output_matrix(spec.shape[axis][0], points[axis])
        with each_line(f, axis, sizes, spec.shape[axis][0]) as line:
            values = [value_at(axis, at) for at in line.reads]
            for at, value in zip(line.writes, apply_paired_columns(f, matrix, values), strict=True):
                place_in(own, at, points, item).store(value)
        sizes[axis] = spec.shape[axis][0]
    axis = axes[-1]
    outs = (args.out_0, args.out_1, args.out_2)
    left = [outs[k] - place.along[k] * spec.shape[k][0] for k in range(AXES)]
    strides = (args.out_stride_0, args.out_stride_1, args.out_stride_2)
    corner = place.image * args.out_image + channel * args.out_channel
    for k in range(AXES):
        corner = corner + place.along[k] * strides[k] * spec.shape[k][0]
    whole = (left[0] >= spec.shape[0][0]) & (left[1] >= spec.shape[1][0]) & (left[2] >= spec.shape[2][0])
    # channels-last, a branch for each position that a tile at the border may not have costs nothing; masks of planes do
    for guarded in (False, True) if spec.planes_out else (True,):
        alone = f.when(whole.negated() if guarded else whole) if spec.planes_out else nullcontext()
        with alone, each_line(f, axis, sizes, spec.shape[axis][0]) as line:
            values = [value_at(axis, at) for at in line.reads]
            found = apply_paired_columns(f, output_matrix(spec.shape[axis][0], points[axis]), values)
            if axis == AXES - 1:
                _store_row(f, spec, line.writes, found, left if guarded else None, strides, corner, channel)
            else:
                for at, value in zip(line.writes, found, strict=True):
                    _store_row(f, spec, [at], [value], left if guarded else None, strides, corner, channel)


def _store_row(
    f: Kernel, spec: WinogradSpec, places: list[tuple[Index, ...]], values: list[Num], left: list[Int] | None,
    strides: tuple[Int, ...], corner: Int, channel: Int,
) -> None:  # fmt: skip
    """Neighbouring results of a row, of a vector of channels; left: positions up to the end along each axis, where some lie beyond."""
    (a, b, _), *_ = places
    at_row = corner + strides[0] * a + strides[1] * b
    row = None if left is None else (left[0] > a) & (left[1] > b)
    with nullcontext() if row is None else f.when(row):
        if spec.planes_out:
            _store_planes(f, spec, values, None if left is None else left[2], at_row, channel)
            return
        for (_, _, c), value in zip(places, values, strict=True):
            with nullcontext() if left is None else f.when(left[2] > c):
                finish(f, spec.epilogue, value, spec.element, at_row + strides[2] * c, channel, None)


def _store_planes(f: Kernel, spec: WinogradSpec, values: list[Num], left: Int | None, at_row: Int, channel: Int) -> None:
    """The same to channels-first planes: squares of results and channels are transposed in registers."""
    args, count, lanes = WinogradArguments.read(f, spec), len(values), spec.lanes
    side = 1 << (count - 1).bit_length()
    pieces = [(0, count)] if left is not None else _powers(count)
    square = transposed([*values, *[values[-1]] * (side - count)])
    for j, value in enumerate(square):
        for s in range(lanes // side):
            to = at_row + args.out_channel * (s * side + j)
            for first, size in pieces:
                whole = left is not None
                width = side if whole else size
                begin = s * side + first
                part = value.lane(begin) if width == 1 else value.shuffle(value, range(begin, begin + width))
                mask = f.lane_mask(side, left.minimum(count)) if left is not None and side > 1 else None
                at = to + first * ELEMENT_BYTES[spec.element]
                finish(f, spec.epilogue, part, spec.element, at, channel + (s * side + j), mask, spread=True)


def _powers(count: int) -> list[tuple[int, int]]:
    """A count as powers of two: (first, size)."""
    found, first = [], 0
    while first < count:
        size = 1 << (count - first).bit_length() - 1
        found.append((first, size))
        first += size
    return found
