"""Tiles of an input, transformed in registers: what Winograd's kernels begin with.

    for vector of channels
        V[point][channels] = the matrices along each axis, of the tile's positions

What a tile reads beyond the borders is zero: in channels-last arrays its address is that of a line of zeros, of channels-first ones the
lanes of a masked load. Three axes always; those that are not there have one tap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from math import prod
from typing import NamedTuple

from preimage.engines.ir.builder import ELEMENT_BYTES, Bit, Int, Kernel, Num, Ptr
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
    "number_of",
    "place_in",
    "place_of",
    "points_of",
    "transform_tile",
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
    looped: bool = (
        False  # the matrices are applied by loops: a shorter text, which takes less time to compile and a little more to run
    )

    @property
    def points(self) -> tuple[int, ...]:
        """Of the result, along each axis."""
        return tuple(n if m is None else len(m) for n, m in zip(self.sizes, self.matrices, strict=True))


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


def number_of(at: tuple[int, ...], sizes: Sequence[int]) -> int:
    """Row-major."""
    return (at[0] * sizes[1] + at[1]) * sizes[2] + at[2]


def place_in(block: Ptr, at: Sequence[Index], sizes: Sequence[int], step: Index) -> Ptr:
    """Where a point of a block of these sizes lies, row-major; step: bytes from one to the next."""
    known, steps = 0, (sizes[1] * sizes[2], sizes[2], 1)
    for i, each in zip(at, steps, strict=True):
        if isinstance(i, int):
            known += i * each
        else:
            block = block.at_bytes(i * each * step)
    return block.at_bytes(step * known)


def transform_tile(f: Kernel, side: Side, place: Place, result: Ptr) -> None:
    """One tile, all channels."""
    lanes, points = side.lanes, side.points
    addresses = side.memory.at(prod(points) * lanes).as_type("i64")
    starts = [place.along[k] * side.pitch[k] - side.lo[k] for k in range(AXES)]
    rows = [[starts[k] + a for a in range(side.sizes[k])] for k in range(2)]
    inside = [[row.below(side.extent[k]) for row in rows[k]] for k in range(2)]
    base = side.base.at_bytes(place.image * side.image)
    if not side.planes:
        _addresses(side, base, rows, inside, starts[2], addresses)
    axes = [k for k in range(AXES) if side.matrices[k] is not None]

    def vector(channel: Int, result: Ptr) -> None:
        """A vector of channels."""
        if side.planes:
            _gather_planes(f, side, base.at_bytes(channel * side.channel), rows, inside, starts[2])

        def read(first: bool, at: tuple[Index, ...]) -> Num:
            if first and not side.planes:
                address = place_in(addresses, at, side.sizes, ELEMENT_BYTES["i64"]).load_int()
                return f.pointer(address, side.element).at(channel).load(lanes)
            return place_in(side.memory, at, points, lanes * ELEMENT_BYTES[side.element]).load(lanes)

        def apply(axis: int, line: Line) -> None:
            matrix = side.matrices[axis]
            assert matrix is not None
            values = [read(axis == axes[0], at) for at in line.reads]
            for at, value in zip(line.writes, apply_paired_rows(f, matrix, values), strict=True):
                if axis == axes[-1]:
                    place_in(result, at, points, side.point).store(value)
                else:
                    place_in(side.memory, at, points, lanes * ELEMENT_BYTES[side.element]).store(value)

        sizes = list(side.sizes)
        for axis in axes:
            if side.looped:
                with each_line(f, axis, sizes, points[axis]) as line:
                    apply(axis, line)
            else:
                for line in lines_along(axis, sizes, points[axis]):
                    apply(axis, line)
            sizes[axis] = points[axis]

    if side.pieces is None:
        with f.loop(0, side.channels, lanes, once=True) as c:
            vector(c.index, result.at(c.index))
        return
    together, pitch = side.pieces
    with f.loop(0, (side.channels + together - 1) // together, once=True) as piece:
        first = piece.index * together
        with f.loop(0, together.minimum(side.channels - first), lanes, once=True) as c:
            vector(first + c.index, result.at_bytes(piece.index * pitch).at(c.index))


def _addresses(
    side: Side, base: Ptr, rows: list[list[Int]], inside: list[list[Bit]], start: Int, addresses: Ptr
) -> None:  # fmt: skip
    """The address of the channels of every position of a tile; beyond the borders that of zeros."""
    columns = [start + a for a in range(side.sizes[2])]
    lit = [column.below(side.extent[2]) for column in columns]
    steps = [column * side.strides[2] for column in columns]
    zeros = side.zeros.address()
    for a, b in product(range(side.sizes[0]), range(side.sizes[1])):
        line = base.at_bytes(rows[0][a] * side.strides[0]).at_bytes(rows[1][b] * side.strides[1]).address()
        row = inside[0][a] & inside[1][b]
        for c in range(side.sizes[2]):
            where = (row & lit[c]).pick(line + steps[c], zeros)
            addresses.at(number_of((a, b, c), side.sizes)).store_int(where)


def _gather_planes(
    f: Kernel, side: Side, planes: Ptr, rows: list[list[Int]], inside: list[list[Bit]], start: Int
) -> None:  # fmt: skip
    """A vector of channels of a tile of channels-first planes, transposed in registers, to the beginning of the scratch."""
    lanes, wide = side.lanes, side.sizes[2]
    for first in range(0, wide, lanes):
        low, high = f.i64(0) - start - first, side.extent[2] - start - first
        for a, b in product(range(side.sizes[0]), range(side.sizes[1])):
            row = inside[0][a] & inside[1][b]
            mask = f.lane_mask(lanes, row.pick(high.minimum(wide - first), f.i64(0))).but_not(f.lane_mask(lanes, low))
            line = planes.at_bytes(rows[0][a] * side.strides[0]).at_bytes(rows[1][b] * side.strides[1])
            line = line.at_bytes((start + first) * ELEMENT_BYTES[side.element])
            square = [line.at_bytes(side.channel * lane).load(lanes, mask) for lane in range(lanes)]
            for c, value in enumerate(transposed(square)[: wide - first]):
                side.memory.at(number_of((a, b, first + c), side.points) * lanes).store(value)
