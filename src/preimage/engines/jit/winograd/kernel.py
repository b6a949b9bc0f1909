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

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import ClassVar, NamedTuple

from preimage.engines.ir.arguments import Elements, Integer, Records, elements, integer
from preimage.engines.ir.builder import ELEMENT_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.ir.epilogue import EpilogueArguments, EpilogueSpec, finish
from preimage.engines.ir.ordered import Node, ordered_sum
from preimage.engines.jit.packing.copy_kernel import transposed
from preimage.engines.jit.winograd.transforms import apply_paired_columns, apply_paired_rows, input_matrix, output_matrix

__all__ = ["AXES", "TileArguments", "WinogradArguments", "WinogradSpec", "input_tile", "place_of", "points_of"]

AXES = 3
UNROLL_PRODUCTS = 64  # about this many multiply-adds stand in the body of the innermost loop
Shape = tuple[tuple[int, int], ...]  # along each of three axes: outputs of a tile, taps


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


@dataclass(frozen=True, slots=True)
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


class Place(NamedTuple):
    """A tile: its image, and its number along each axis."""

    image: Int
    along: tuple[Int, ...]


def points_of(shape: Shape) -> tuple[int, ...]:
    """Points along each axis."""
    return tuple(m + taps - 1 for m, taps in shape)


def place_of(args: TileArguments, tile: Int) -> Place:
    """Where a tile lies, by its number among those of all images."""
    counts = (args.count_0, args.count_1, args.count_2)
    last = tile % counts[2]
    rest = tile // counts[2]
    return Place(rest // counts[1] // counts[0], (rest // counts[1] % counts[0], rest % counts[1], last))


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
    with f.loop(0, count) as tile:
        v_tile = own.at_bytes(args.v_at + tile.index * args.v_tile)
        here = WinogradArguments.read(f, spec)
        input_tile(f, spec, here, place_of(here, first + tile.index), x, own, v_tile)
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
            place = place_of(here, first + tile.index)
            with f.loop(block_0 * spec.vectors, block_1 * spec.vectors) as vector:
                m = m_tile.at_bytes((vector.index // spec.vectors - block_0) * here.m_block)
                m = m.at(vector.index % spec.vectors * spec.lanes)
                _output_tile(f, spec, m, own, place, group * here.group_channels + vector.index * spec.lanes)
    return f.ir()


# --------------------------------------------------------------------------------------------------- input


class _Lines(NamedTuple):
    """One application of a matrix along an axis of a tile: where its values are read and its results go."""

    axis: int
    reads: list[tuple[int, ...]]
    writes: list[tuple[int, ...]]


def _lines(axis: int, sizes: Sequence[int], results: int) -> list[_Lines]:
    """All lines along an axis of a block of these sizes."""
    others = [range(n) if k != axis else (0,) for k, n in enumerate(sizes)]
    return [
        _Lines(
            axis,
            [(*at[:axis], k, *at[axis + 1 :]) for k in range(sizes[axis])],
            [(*at[:axis], k, *at[axis + 1 :]) for k in range(results)],
        )
        for at in product(*others)
    ]


def _number(at: tuple[int, ...], sizes: Sequence[int]) -> int:
    return (at[0] * sizes[1] + at[1]) * sizes[2] + at[2]


def input_tile(f: Kernel, spec: WinogradSpec, args: TileArguments, place: Place, x: Ptr, own: Ptr, v_tile: Ptr) -> None:
    """B^T of one tile, all channels of a group, to v_tile. The thread's scratch begins with a tile of one vector, then the tile's addresses."""
    sizes = points_of(spec.shape)
    points, lanes = prod(sizes), spec.lanes
    addresses = own.at(points * lanes).as_type("i64")
    counts = ((args.lo_0, args.in_0, args.in_stride_0), (args.lo_1, args.in_1, args.in_stride_1))
    starts = [place.along[k] * spec.shape[k][0] - (args.lo_0, args.lo_1, args.lo_2)[k] for k in range(AXES)]
    rows = [[(starts[k] + a) for a in range(sizes[k])] for k in range(2)]
    inside = [[row.below(counts[k][1]) for row in rows[k]] for k in range(2)]
    base = x.at_bytes(place.image * args.in_image)
    if not spec.planes_in:
        _addresses(f, spec, args, base, rows, inside, starts[2], addresses)
    with f.loop(0, args.channels, lanes, once=True) as c:
        if spec.planes_in:
            planes = base.at_bytes(c.index * args.in_channel)
            _gather_planes(f, spec, args, planes, rows, inside, starts[2], own)

        def read(at: tuple[int, ...]) -> Num:
            if spec.planes_in:
                return own.at(_number(at, sizes) * lanes).load(lanes)
            address = addresses.at(_number(at, sizes)).load_int()
            return f.pointer(address, spec.element).at(c.index).load(lanes)

        def write(at: tuple[int, ...], value: Num) -> None:
            v_tile.at_bytes(args.v_point * _number(at, sizes)).at(c.index).store(value)

        axes = [k for k in range(AXES) if spec.shape[k][1] > 1]
        for axis in axes:
            for line in _lines(axis, sizes, sizes[axis]):
                values = [read(at) if axis == axes[0] else own.at(_number(at, sizes) * lanes).load(lanes) for at in line.reads]
                for at, value in zip(line.writes, apply_paired_rows(f, input_matrix(sizes[axis]), values), strict=True):
                    if axis == axes[-1]:
                        write(at, value)
                    else:
                        own.at(_number(at, sizes) * lanes).store(value)


def _addresses(
    f: Kernel, spec: WinogradSpec, args: TileArguments, base: Ptr, rows: list[list[Int]], inside: list[list[Bit]], start: Int,
    addresses: Ptr,
) -> None:  # fmt: skip
    """The address of the channels of every position of a tile; beyond the borders that of zeros."""
    sizes = points_of(spec.shape)
    columns = [start + a for a in range(sizes[2])]
    lit = [column.below(args.in_2) for column in columns]
    steps = [column * args.in_stride_2 for column in columns]
    zeros = args.zeros.address()
    for a, b in product(range(sizes[0]), range(sizes[1])):
        line = base.at_bytes(rows[0][a] * args.in_stride_0).at_bytes(rows[1][b] * args.in_stride_1).address()
        row = inside[0][a] & inside[1][b]
        for c in range(sizes[2]):
            where = (row & lit[c]).pick(line + steps[c], zeros)
            addresses.at(_number((a, b, c), sizes)).store_int(where)


def _gather_planes(
    f: Kernel, spec: WinogradSpec, args: TileArguments, planes: Ptr, rows: list[list[Int]], inside: list[list[Bit]], start: Int,
    own: Ptr,
) -> None:  # fmt: skip
    """A vector of channels of a tile of channels-first planes, transposed in registers, to the beginning of the scratch."""
    sizes, lanes, item = points_of(spec.shape), spec.lanes, ELEMENT_BYTES[spec.element]
    for first in range(0, sizes[2], lanes):
        low, high = f.i64(0) - start - first, args.in_2 - start - first
        for a, b in product(range(sizes[0]), range(sizes[1])):
            row = inside[0][a] & inside[1][b]
            mask = f.lane_mask(lanes, row.pick(high.minimum(sizes[2] - first), f.i64(0))).but_not(f.lane_mask(lanes, low))
            line = planes.at_bytes(rows[0][a] * args.in_stride_0).at_bytes(rows[1][b] * args.in_stride_1)
            line = line.at_bytes((start + first) * item)
            square = [line.at_bytes(args.in_channel * lane).load(lanes, mask) for lane in range(lanes)]
            for c, value in enumerate(transposed(square)[: sizes[2] - first]):
                own.at(_number((a, b, first + c), sizes) * lanes).store(value)


# ------------------------------------------------------------------------------------------------ products


def _products(f: Kernel, spec: WinogradSpec, own: Ptr, group_block: Int, block_0: Int, block_1: Int, count: Int) -> None:
    """M of these blocks of output channels: one point after another."""
    args = WinogradArguments.read(f, spec, at_entry=True)
    points, width = prod(points_of(spec.shape)), spec.vectors * spec.lanes
    with f.loop(0, points) as point, f.loop(block_0, block_1) as block:
        panel = args.weight.at_bytes(((group_block + block.index) * points + point.index) * args.panel_bytes)
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
        weight = [panel.at((i * spec.vectors + v) * spec.lanes).load(spec.lanes) for v in range(spec.vectors)]
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

    def value_at(axis: int, at: tuple[int, ...]) -> Num:
        number = _number(at, points)
        where = m.at_bytes(args.m_point * number) if axis == axes[0] else own.at(number * spec.lanes)
        return where.load(spec.lanes)

    for axis in axes[:-1]:
        matrix = output_matrix(spec.shape[axis][0], points[axis])
        for line in _lines(axis, sizes, spec.shape[axis][0]):
            values = [value_at(axis, at) for at in line.reads]
            for at, value in zip(line.writes, apply_paired_columns(f, matrix, values), strict=True):
                own.at(_number(at, points) * spec.lanes).store(value)
        sizes[axis] = spec.shape[axis][0]
    axis = axes[-1]
    outs = (args.out_0, args.out_1, args.out_2)
    left = [outs[k] - place.along[k] * spec.shape[k][0] for k in range(AXES)]
    strides = (args.out_stride_0, args.out_stride_1, args.out_stride_2)
    corner = place.image * args.out_image + channel * args.out_channel
    for k in range(AXES):
        corner = corner + place.along[k] * strides[k] * spec.shape[k][0]
    whole = (left[0] >= spec.shape[0][0]) & (left[1] >= spec.shape[1][0]) & (left[2] >= spec.shape[2][0])
    for guarded in (False, True):
        with f.when(whole.negated() if guarded else whole):
            made: dict[tuple[int, ...], Num] = {}
            for line in _lines(axis, sizes, spec.shape[axis][0]):
                values = [value_at(axis, at) for at in line.reads]
                matrix = output_matrix(spec.shape[axis][0], points[axis])
                found = apply_paired_columns(f, matrix, values)
                made |= dict(zip(line.writes, found, strict=True))
                if axis == AXES - 1:
                    _store_row(f, spec, made, left if guarded else None, strides, corner, channel)
                    made = {}
            if made:
                _store_rows(f, spec, made, left if guarded else None, strides, corner, channel)


def _store_rows(
    f: Kernel, spec: WinogradSpec, made: dict[tuple[int, ...], Num], left: list[Int] | None, strides: tuple[Int, ...], corner: Int,
    channel: Int,
) -> None:  # fmt: skip
    """All rows of a tile whose last transform ran along another axis than the last."""
    for row in sorted({at[:2] for at in made}):
        some = {at: value for at, value in made.items() if at[:2] == row}
        _store_row(f, spec, some, left, strides, corner, channel)


def _store_row(
    f: Kernel, spec: WinogradSpec, made: dict[tuple[int, ...], Num], left: list[Int] | None, strides: tuple[Int, ...], corner: Int,
    channel: Int,
) -> None:  # fmt: skip
    """Neighbouring results of a row, of a vector of channels; left: positions up to the end along each axis, where some lie beyond."""
    (a, b, _), *_ = made
    at_row = corner + strides[0] * a + strides[1] * b
    row = None if left is None else (left[0] > a) & (left[1] > b)
    with nullcontext() if row is None else f.when(row):
        if spec.planes_out:
            _store_planes(f, spec, list(made.values()), None if left is None else left[2], at_row, channel)
            return
        for (_, _, c), value in made.items():
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
