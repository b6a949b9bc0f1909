"""Tiles of an input, transformed in registers: what Winograd's kernels begin with.

    for vector of channels
        V[point][channels] = the matrices along each axis, of the tile's positions

What a tile reads beyond the borders is zero: in channels-last arrays its address is that of a line of zeros, of channels-first ones the
lanes of a masked load. Three axes always; those that are not there have one tap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from math import prod
from typing import NamedTuple

from preimage.engines.ir.builder import ELEMENT_BYTES, LINE_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.jit.conv.winograd.transforms import Matrix, apply_paired_rows
from preimage.engines.jit.packing.copy_kernel import transposed
from preimage.records import record

__all__ = [
    "AXES",
    "Index",
    "Line",
    "Place",
    "Shape",
    "Side",
    "lines_along",
    "place_in",
    "place_of",
    "points_of",
    "tile_memory",
    "transform_tiles",
]

AXES = 3
Shape = tuple[tuple[int, int], ...]  # along each of three axes: outputs of a tile, taps


class Place(NamedTuple):
    """A tile: its image, and its number along each axis."""

    image: Int
    along: tuple[Int, ...]


Index = Int | int


class Line(NamedTuple):
    """One application of a matrix along an axis of a tile: where its values are read and its results go."""

    reads: list[tuple[Index, ...]]
    writes: list[tuple[Index, ...]]


@record
class Side:
    """An array whose tiles are transformed. Strides and offsets in bytes, along each axis where there are three.

    element, lanes; planes: it is channels-first; sizes: positions of a tile along each axis, from `pitch` times its number less `lo` on;
    matrices: what is applied along each axis, None where nothing is; memory: scratch for a tile of one vector and its addresses.
    """

    element: str
    lanes: int
    planes: bool
    sizes: tuple[int, ...]
    pitch: tuple[int, ...]
    matrices: tuple[Matrix | None, ...]
    base: Ptr
    zeros: Ptr
    memory: Ptr
    lo: tuple[Int | int, ...]
    extent: tuple[Int, ...]
    strides: tuple[Int, ...]
    image: Int
    channel: Int
    channels: Int
    point: Int  # of the result, from a point to the next
    pieces: tuple[Int, Int] | None = None  # channels that lie together in the result, and bytes from such a piece to the next

    @property
    def span(self) -> int:
        """Positions of a row that are read at once, where channels come first: whole squares of positions and channels."""
        return span_of(self.sizes, self.lanes)

    @property
    def run(self) -> int:
        """Tiles of a row whose positions these are."""
        return (self.span - self.sizes[2]) // self.pitch[2] + 1

    @property
    def points(self) -> tuple[int, ...]:
        """Of the result, along each axis."""
        return tuple(n if m is None else len(m) for n, m in zip(self.sizes, self.matrices, strict=True))


def span_of(sizes: Sequence[int], lanes: int) -> int:
    """See `Side.span`."""
    return -(-max(sizes[2], 16) // lanes) * lanes


def tile_memory(sizes: Sequence[int], points: Sequence[int], lanes: int, item: int, planes: bool) -> int:
    """Bytes of the memory of a `Side`: a tile of one vector, then its addresses, or the rows of a run of tiles."""
    beside = sizes[0] * sizes[1] * span_of(sizes, lanes) * lanes * item if planes else prod(points) * ELEMENT_BYTES["i64"]
    return -(-(prod(points) * lanes * item + beside) // LINE_BYTES) * LINE_BYTES


def points_of(shape: Shape) -> tuple[int, ...]:
    """Points along each axis."""
    return tuple(m + taps - 1 for m, taps in shape)


def place_of(counts: Sequence[Int], tile: Int) -> Place:
    """Where a tile lies, by its number among those of all images; counts: tiles along each axis."""
    last = tile % counts[2]
    rest = tile // counts[2]
    return Place(rest // counts[1] // counts[0], (rest // counts[1] % counts[0], rest % counts[1], last))


def lines_along(axis: int, sizes: Sequence[int], results: int) -> list[Line]:
    """All lines along an axis of a block of these sizes."""
    others = [range(n) if k != axis else (0,) for k, n in enumerate(sizes)]
    return [_line(at, axis, sizes[axis], results) for at in product(*others)]


def _line(at: Sequence[Index], axis: int, values: int, results: int) -> Line:
    before, after = tuple(at[:axis]), tuple(at[axis + 1 :])
    return Line([(*before, k, *after) for k in range(values)], [(*before, k, *after) for k in range(results)])


@contextmanager
def each_line(f: Kernel, axis: int, sizes: Sequence[int], results: int) -> Iterator[Line]:
    """The same, as loops of the kernel over the other axes, around a body that is written once.

    LLVM takes as long as the text is, and a first call waits for it.
    """
    with ExitStack() as loops:
        index: list[Index] = [0] * len(sizes)
        for k, size in enumerate(sizes):
            if k != axis and size > 1:
                index[k] = loops.enter_context(f.loop(0, size)).index
        yield _line(index, axis, sizes[axis], results)


def place_in(block: Ptr, at: Sequence[Index], sizes: Sequence[int], step: Index) -> Ptr:
    """Where a point of a block of these sizes lies, row-major; step: bytes from one to the next."""
    known, steps = 0, (sizes[1] * sizes[2], sizes[2], 1)
    for i, each in zip(at, steps, strict=True):
        if isinstance(i, int):
            known += i * each
        else:
            block = block.at_bytes(i * each * step)
    return block.at_bytes(step * known)


def transform_tiles(
    f: Kernel, side_here: Callable[[], tuple[Side, tuple[Int, ...]]], first: Int, count: Int, result_of: Callable[[Int], Ptr]
) -> None:
    """So many tiles from a number on, all channels. side_here: the array and its tiles along each axis, read where they are used; result_of: where
    the result of a tile goes, by its number among these.
    """
    side, counts = side_here()
    if not side.planes:
        with f.loop(0, count) as tile:
            side, counts = side_here()
            _tile_of_channels_last(f, side, place_of(counts, first + tile.index), result_of(tile.index))
        return
    runs = (counts[2] + side.run - 1) // side.run  # of a row of tiles
    begin, end = (tile // counts[2] * runs + tile % counts[2] // side.run for tile in (first, first + count - 1))
    with f.loop(begin, end + 1, once=True) as run:
        side, counts = side_here()
        begin = run.index // runs * counts[2] + run.index % runs * side.run
        stop = (begin + side.run).minimum((run.index // runs + 1) * counts[2]).minimum(first + count)
        _run_of_planes(
            f, side, place_of(counts, begin), (begin, begin.maximum(first), stop), lambda tile: result_of(tile - first)
        )


def _corner(side: Side, place: Place) -> tuple[Ptr, list[Int]]:
    """The image of a tile, and the tile's first position along each axis."""
    return side.base.at_bytes(place.image * side.image), [place.along[k] * side.pitch[k] - side.lo[k] for k in range(AXES)]


def _tile_of_channels_last(f: Kernel, side: Side, place: Place, result: Ptr) -> None:
    """One tile: the channels of a position lie side by side, so positions have addresses."""
    addresses = side.memory.at(prod(side.points) * side.lanes).as_type("i64")
    base, starts = _corner(side, place)
    _addresses(f, side, base, starts, addresses)
    with _each_vector(f, side) as (channel, offset):

        def read(at: tuple[Index, ...]) -> Num:
            address = place_in(addresses, at, side.sizes, ELEMENT_BYTES["i64"]).load_int()
            return f.pointer(address, side.element).at(channel).load(side.lanes)

        _apply(f, side, read, result.at_bytes(offset))


def _run_of_planes(
    f: Kernel, side: Side, place: Place, tiles: tuple[Int, Int, Int], result_of: Callable[[Int], Ptr]
) -> None:  # fmt: skip
    """Neighbouring tiles of a row of channels-first planes: what they read is transposed in registers once, as whole squares.

    place: of the first of them; tiles: its number, and the range of those that are wanted.
    """
    first, low, stop = tiles
    item = side.lanes * ELEMENT_BYTES[side.element]
    lines = side.memory.at(prod(side.points) * side.lanes)  # [row][position][channel]
    base, starts = _corner(side, place)
    with _each_vector(f, side) as (channel, offset):
        _gather_planes(f, side, base.at_bytes(channel * side.channel), starts, lines)
        with f.loop(low, stop, once=True) as tile:
            begin = lines.at_bytes((tile.index - first) * (side.pitch[2] * item))

            def read(at: tuple[Index, ...], begin: Ptr = begin) -> Num:
                return place_in(begin, at, (*side.sizes[:2], side.span), item).load(side.lanes)

            _apply(f, side, read, result_of(tile.index).at_bytes(offset))


@contextmanager
def _each_vector(f: Kernel, side: Side) -> Iterator[tuple[Int, Int]]:
    """Vectors of channels: the first channel, and how far from the beginning of a tile's result its own lies."""
    item = ELEMENT_BYTES[side.element]
    if side.pieces is None:
        with f.loop(0, side.channels, side.lanes, once=True) as c:
            yield c.index, c.index * item
        return
    together, pitch = side.pieces
    with f.loop(0, (side.channels + together - 1) // together, once=True) as piece:
        first = piece.index * together
        with f.loop(0, together.minimum(side.channels - first), side.lanes, once=True) as c:
            yield first + c.index, piece.index * pitch + c.index * item


def _apply(f: Kernel, side: Side, read: Callable[[tuple[Index, ...]], Num], result: Ptr) -> None:
    """The matrices along one axis after another, of a vector of channels of a tile."""
    points, item = side.points, side.lanes * ELEMENT_BYTES[side.element]
    axes = [k for k in range(AXES) if side.matrices[k] is not None]

    def apply(axis: int, line: Line) -> None:
        matrix = side.matrices[axis]
        assert matrix is not None
        given = [read(at) if axis == axes[0] else place_in(side.memory, at, points, item).load(side.lanes) for at in line.reads]
        for at, value in zip(line.writes, apply_paired_rows(f, matrix, given), strict=True):
            if axis == axes[-1]:
                place_in(result, at, points, side.point).store(value)
            else:
                place_in(side.memory, at, points, item).store(value)

    sizes = list(side.sizes)
    for axis in axes:
        with each_line(f, axis, sizes, points[axis]) as line:
            apply(axis, line)
        sizes[axis] = points[axis]


def _addresses(f: Kernel, side: Side, base: Ptr, starts: list[Int], addresses: Ptr) -> None:
    """The address of the channels of every position of a tile; beyond the borders that of zeros."""
    columns = [starts[2] + c for c in range(side.sizes[2])]
    lit = [column.below(side.extent[2]) for column in columns]
    steps = [column * side.strides[2] for column in columns]
    zeros = side.zeros.address()
    with _each_row(f, side, base, starts) as (number, inside, line):
        for c in range(side.sizes[2]):
            where = (inside & lit[c]).pick(line.address() + steps[c], zeros)
            addresses.at(number * side.sizes[2] + c).store_int(where)


@contextmanager
def _each_row(f: Kernel, side: Side, base: Ptr, starts: list[Int]) -> Iterator[tuple[Int, Bit, Ptr]]:
    """The rows that a tile reads: number, whether they are inside, and where they begin."""
    with ExitStack() as loops:
        rows = [loops.enter_context(f.loop(0, n)).index if n > 1 else f.i64(0) for n in side.sizes[:2]]
        at = [starts[k] + rows[k] for k in range(2)]
        inside = at[0].below(side.extent[0]) & at[1].below(side.extent[1])
        line = base.at_bytes(at[0] * side.strides[0]).at_bytes(at[1] * side.strides[1])
        yield rows[0] * side.sizes[1] + rows[1], inside, line


def _gather_planes(f: Kernel, side: Side, planes: Ptr, starts: list[Int], lines: Ptr) -> None:
    """A vector of channels of the rows of a run of tiles, transposed in registers."""
    lanes, start = side.lanes, starts[2]
    item = ELEMENT_BYTES[side.element]
    with _each_row(f, side, planes, starts) as (number, inside, line):
        to = lines.at_bytes(number * (side.span * lanes * item))
        for first in range(0, side.span, lanes):
            low, high = f.i64(0) - start - first, side.extent[2] - start - first
            mask = f.lane_mask(lanes, inside.pick(high, f.i64(0))).but_not(f.lane_mask(lanes, low))
            here = line.at_bytes((start + first) * item)
            square = [here.at_bytes(side.channel * lane).load(lanes, mask) for lane in range(lanes)]
            for c, value in enumerate(transposed(square)):
                to.at((first + c) * lanes).store(value)
