"""Winograd's weight gradient in one kernel: tiles of x and y are transformed, multiplied point by point, summed over tiles, transformed back.

    for image
        for band of tiles
            for tile in the band
                V[piece][point][tile][i] = B^T of x, W[piece][point][tile][o] = A of y
            for turn                               # with one band a piece of the pairs of channels a turn, else all
                for point, for piece of the output channels, for piece of the input channels
                    for `pixels` output channels, for block of input channels
                        for block of tiles
                            M[point][o][i] += chain over the block's tiles of W[..][tile][o] V[..][tile][i]
                for output channel, for vector of input channels               # after the last band
                    gradient = G^T of M
        add neighbouring nodes of the images' tree

The algorithm is that of the convolution, transposed: a tile of y has as many positions as the convolution's tile has outputs. One task is a
part of a group's output channels, over all tiles of all images; the images' gradients are added as the contract's tree has it.
"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import ClassVar, NamedTuple

from preimage.engines.ir.arguments import Column, Integer, Record, Records
from preimage.engines.ir.builder import ELEMENT_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.jit.conv.winograd.input_kernel import (
    AXES,
    Index,
    Shape,
    Side,
    lines_along,
    place_in,
    points_of,
    transform_tiles,
)
from preimage.engines.jit.conv.winograd.tile_kernel import TileArguments, counts_of, input_side
from preimage.engines.jit.conv.winograd.transforms import (
    apply_paired_columns,
    output_matrix,
    transposed_matrix,
    weight_matrix,
)
from preimage.engines.jit.packing.copy_kernel import transposed
from preimage.records import record

__all__ = ["GradientArguments", "GradientSpec", "ImageStep", "build"]


class ImageStep(Record):
    """What becomes of an image's gradient: the nodes of the images' tree that have no partner yet lie side by side, from the result on."""

    node: Column  # where it goes
    adds: Column  # 1: to what lies there
    joins: Column  # from there on so many nodes are added, each to the one before it


class GradientArguments(TileArguments):
    """`input` is x, `weight` is y. Strides in bytes."""

    y_0: Integer  # sizes of y
    y_1: Integer
    y_2: Integer
    y_stride_0: Integer
    y_stride_1: Integer
    y_stride_2: Integer
    y_image: Integer
    images: Integer
    image_steps: Records[ImageStep]
    nodes_at: Integer  # sums of images beside the result, in the thread's scratch
    node_bytes: Integer
    y_channel: Integer
    parts: Integer
    part: Integer  # output channels of a part
    outputs: Integer  # of a group
    band: Integer
    bands: Integer
    step: Integer  # tiles of a block of the order of sums
    w_point: Integer
    w_tile: Integer
    w_at: Integer
    m_point: Integer
    m_row: Integer  # from an output channel to the next
    m_at: Integer
    some_rows: Integer  # output channels of a piece
    some_channels: Integer  # input channels of a piece
    channel_pieces: Integer
    pieces: Integer  # of a task: pieces of the output channels times those of the input channels
    turns: Integer
    together: Integer  # pieces whose sums lie in M at once; with several bands all
    v_piece: Integer  # of the transformed x, from a piece of its channels to the next
    w_piece: Integer
    m_piece: Integer
    out_row: Integer  # of the result: between output channels ...
    out_in: Integer  # ... input channels
    out_tap_0: Integer  # ... and taps along each axis
    out_tap_1: Integer
    out_tap_2: Integer


@record
class GradientSpec:
    """As `WinogradSpec`; planes_y: y is channels-first; rows: the result's taps are contiguous, else its input channels; far: M does not stay
    in the second cache.
    """

    arguments: ClassVar = GradientArguments

    element: str
    lanes: int
    vectors: int
    pixels: int
    shape: Shape
    planes_in: bool
    planes_y: bool
    rows: bool
    far: bool

    @property
    def inner(self) -> str:
        """The type of y."""
        return self.element

    @property
    def out(self) -> str:
        """The type of the result."""
        return self.element

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: GradientSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    args = GradientArguments.read(f, spec, at_entry=True)
    part, group = f.task % args.parts, f.task // args.parts
    first_row = part * args.part
    rows = (first_row + args.part).minimum(args.outputs) - first_row
    own = args.scratch.at_bytes(f.thread * args.thread_bytes)
    x = args.input.at_bytes(group * args.channels * args.in_channel)
    y = args.weight.at_bytes((group * args.outputs + first_row) * args.y_channel)
    result = args.output.at_bytes((group * args.outputs + first_row) * args.out_row)
    with f.loop(0, args.images) as image:
        step = args.here.image_steps[image.index]
        to = _node(f, spec, own, result, step.node)
        _image(
            f,
            spec,
            own,
            x.at_bytes(image.index * args.in_image),
            y.at_bytes(image.index * args.y_image),
            to,
            rows,
            step.adds.equals(1),
        )
        with f.loop(0, step.joins) as join:
            right = step.node - join.index
            _join(f, spec, _node(f, spec, own, result, right - 1), _node(f, spec, own, result, right), rows)
    return f.ir()


def _node(f: Kernel, spec: GradientSpec, own: Ptr, result: Ptr, number: Int) -> Ptr:
    """Where a sum of images lies: number 0 in the result itself."""
    args = GradientArguments.read(f, spec)
    other = own.at_bytes(args.nodes_at + (number - 1) * args.node_bytes)
    return f.pointer(number.equals(0).pick(result.address(), other.address()), spec.element)


def _join(f: Kernel, spec: GradientSpec, left: Ptr, right: Ptr, rows: Int) -> None:
    """left += right."""
    args = GradientArguments.read(f, spec)
    with f.loop(0, rows * (args.out_row // ELEMENT_BYTES[spec.element]), spec.lanes) as k:
        left.at(k.index).store(left.at(k.index).load(spec.lanes) + right.at(k.index).load(spec.lanes))


def _image(f: Kernel, spec: GradientSpec, own: Ptr, x: Ptr, y: Ptr, to: Ptr, rows: Int, adds: Bit) -> None:
    """The gradient of an image; adds: to the sum that lies there."""
    args = GradientArguments.read(f, spec, at_entry=True)
    with f.loop(0, args.bands) as band:
        first = band.index * args.band
        count = (first + args.band).minimum(args.tiles) - first

        def x_side() -> tuple[Side, tuple[Int, ...]]:
            here = args.here
            return input_side(f, here, spec, x, own, (here.some_channels, here.v_piece)), counts_of(here)

        def y_side() -> tuple[Side, tuple[Int, ...]]:
            here = args.here
            return _y_side(f, spec, here, y, own, rows), counts_of(here)

        transform_tiles(f, x_side, first, count, lambda tile: own.at_bytes(args.here.v_at + tile * args.here.v_tile))
        transform_tiles(f, y_side, first, count, lambda tile: own.at_bytes(args.here.w_at + tile * args.here.w_tile))
        with f.loop(0, args.turns) as turn:
            begin = turn.index * args.together
            end = (begin + args.together).minimum(args.pieces)
            with f.loop(0, prod(points_of(spec.shape)), once=True) as point, f.loop(begin, end) as piece:
                some = _piece(args, piece.index, rows)
                _products(f, spec, own, point.index, some, piece.index - begin, count, band.index.equals(0))
            with f.when(band.index.equals(args.bands - 1)), f.loop(begin, end) as piece:
                some = _piece(args.here, piece.index, rows)
                with f.loop(0, some.rows) as row, f.loop(0, some.channels, spec.lanes) as c:
                    here = args.here
                    m = own.at_bytes(here.m_at + (piece.index - begin) * here.m_piece + row.index * here.m_row).at(c.index)
                    number, channel = (
                        some.row_piece * here.some_rows + row.index,
                        some.channel_piece * here.some_channels + c.index,
                    )
                    _result(f, spec, m, to.at_bytes(number * here.out_row + channel * here.out_in), adds)


class _Piece(NamedTuple):
    """Which of the pieces of the output and of the input channels, and how many of them."""

    row_piece: Int
    channel_piece: Int
    rows: Int
    channels: Int


def _piece(args: GradientArguments, number: Int, rows: Int) -> _Piece:
    """A piece by its number; rows: output channels of the task."""
    row, channel = number // args.channel_pieces, number % args.channel_pieces
    return _Piece(
        row, channel, args.some_rows.minimum(rows - row * args.some_rows),
        args.some_channels.minimum(args.channels - channel * args.some_channels),
    )  # fmt: skip


def _y_side(f: Kernel, spec: GradientSpec, args: GradientArguments, y: Ptr, own: Ptr, rows: Int) -> Side:
    """y, whose tiles lie side by side, for A."""
    sizes = tuple(m for m, _ in spec.shape)
    matrices = tuple(
        None if taps == 1 else transposed_matrix(output_matrix(m, n))
        for n, (m, taps) in zip(points_of(spec.shape), spec.shape, strict=True)
    )
    return Side(
        spec.element, spec.lanes, spec.planes_y, sizes, sizes, matrices, y, args.zeros, own, (0,) * AXES,
        (args.y_0, args.y_1, args.y_2), (args.y_stride_0, args.y_stride_1, args.y_stride_2), args.y_image, args.y_channel, rows,
        args.w_point, (args.some_rows, args.w_piece),
    )  # fmt: skip


def _products(
    f: Kernel, spec: GradientSpec, own: Ptr, point: Int, piece: _Piece, number: Int, count: Int, begins: object
) -> None:  # fmt: skip
    """A piece of M at a point, added to that of the bands before. number: of the piece, among those that lie in M together."""
    args = GradientArguments.read(f, spec, at_entry=True)
    width, item = spec.vectors * spec.lanes, ELEMENT_BYTES[spec.element]
    zeros = [f.zeros(spec.element, spec.lanes)] * (spec.pixels * spec.vectors)
    v_point = own.at_bytes(args.v_at + piece.channel_piece * args.v_piece + point * args.v_point)
    w_point = own.at_bytes(args.w_at + piece.row_piece * args.w_piece + point * args.w_point)
    m_point = own.at_bytes(args.m_at + number * args.m_piece + point * args.m_point)
    with f.loop(0, piece.rows, spec.pixels, once=True) as row, f.loop(0, piece.channels, width, once=True) as c:
        v, w = v_point.at(c.index), w_point.at(row.index)
        places = [
            m_point.at_bytes((row.index + p) * args.m_row).at(c.index).at_bytes(k * spec.lanes * item)
            for p in range(spec.pixels)
            for k in range(spec.vectors)
        ]
        if spec.far:  # the rows that come next: so many short ones the CPU does not foresee
            for place in places:
                f.prefetch(place.at_bytes(args.m_row * spec.pixels), write=True)
        totals: list[Num] = [begins.select(zeros[0], place.load(spec.lanes)) for place in places]  # type: ignore[attr-defined]
        with f.loop(0, (count + args.step - 1) // args.step, carry=totals, once=True) as block:
            first = block.index * args.step
            with f.loop(first, (first + args.step).minimum(count), carry=zeros, once=True) as t:
                t.carry = _step(spec, v.at_bytes(t.index * args.v_tile), w.at_bytes(t.index * args.w_tile), t.carry)
            block.carry = [total + value for total, value in zip(block.carry, t.result, strict=True)]
        for place, value in zip(places, block.result, strict=True):
            place.store(value)


def _step(spec: GradientSpec, v: Ptr, w: Ptr, sums: list[Num]) -> list[Num]:
    """The products of one tile."""
    columns = [v.at(k * spec.lanes).load(spec.lanes) for k in range(spec.vectors)]
    out = []
    for p in range(spec.pixels):
        value = w.at(p).splat(spec.lanes)
        out += [sums[p * spec.vectors + k].plus_product(column, value) for k, column in enumerate(columns)]
    return out


def _result(f: Kernel, spec: GradientSpec, m: Ptr, to: Ptr, adds: Bit) -> None:
    """G^T of the sums of an output channel and a vector of input channels, to the taps. adds: to what lies there."""
    args, points = GradientArguments.read(f, spec), points_of(spec.shape)
    sizes = list(points)
    axes = [k for k in range(AXES) if spec.shape[k][1] > 1]
    values: dict[tuple[Index, ...], Num] = {}
    for axis in axes:
        made: dict[tuple[Index, ...], Num] = {}
        matrix = transposed_matrix(weight_matrix(spec.shape[axis][1], points[axis]))
        for line in lines_along(axis, sizes, spec.shape[axis][1]):
            given = [
                place_in(m, at, points, args.m_point).load(spec.lanes) if axis == axes[0] else values[at] for at in line.reads
            ]
            made |= dict(zip(line.writes, apply_paired_columns(f, matrix, given), strict=True))
        values, sizes[axis] = made, spec.shape[axis][1]
    zero = f.zeros(spec.element, spec.lanes)
    taps = {at: values[at] + zero for at in product(*map(range, sizes))}

    def put(place: Ptr, value: Num, mask: Bit | None = None) -> None:
        place.store(adds.select(place.load(value.lanes, mask) + value, value), mask)

    if not spec.rows:
        for (a, b, c), value in taps.items():
            put(to.at_bytes(args.out_tap_0 * a).at_bytes(args.out_tap_1 * b).at_bytes(args.out_tap_2 * c), value)
        return
    found, lanes = list(taps.values()), spec.lanes
    for first in range(0, len(found), lanes):
        some = found[first : first + lanes]
        mask = None if len(some) == lanes else f.lane_mask(lanes, len(some))
        for j, value in enumerate(transposed([*some, *[some[-1]] * (lanes - len(some))])):
            put(to.at_bytes(args.out_in * j).at(first), value, mask)
