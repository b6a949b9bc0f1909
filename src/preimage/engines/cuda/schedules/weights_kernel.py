"""The weight gradient: for every weight the sum over the output positions of an image, or of a part of it, in the contract's order.

    part[image][unit][o, i, kernel] = sum over the positions p of the unit of  y[o, p] * x[i, p * stride - lo + tap * dilation]

A block of threads makes bm output channels x bn columns (i, kernel) of one group, for one *unit*: an image, or a node of its sum (a
group of blocks of positions), so that small layers with large images fill a GPU too. `reduce_kernel` adds up units and images.
Both operands are neighbours along the sum, so a thread copies one position of several lines at a time. Positions over padding are +0
and take part (docs/contract.md); positions behind the end of a block are zeros on both sides. Lines that a tile has beyond the last channel
or column are copies of the last one: their sums are stored nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from preimage.engines.cuda.device import Target
from preimage.engines.cuda.gpu import GpuKernel
from preimage.engines.cuda.schedules.pipeline import Pipeline, copy_number, shared_bytes
from preimage.engines.cuda.schedules.tables import BlockRow
from preimage.engines.cuda.tile import Tile, Tiled
from preimage.engines.ir.arguments import Arguments, Elements, Integer, Record, Records, elements
from preimage.engines.ir.arguments import Column as Field
from preimage.engines.ir.builder import Bit, Int32
from preimage.engines.ir.types import ELEMENT_BYTES
from preimage.records import record

__all__ = ["MOST_TAPS", "Column", "Edge", "PositionBlock", "Unit", "WeightSpec", "column_of", "weight_arguments"]

#: Taps of all axes together that one word of `Edge` holds.
MOST_TAPS = 32


class PositionBlock(BlockRow):
    """Neighbouring output positions, row by row."""

    first: Field
    end: Field


class Unit(Record):
    """Neighbouring blocks whose sum is one part."""

    first_block: Field
    blocks: Field
    steps: Field


class Edge(Record):
    """Of one index along one axis: bit by bit the taps that lie outside the input there. The taps of the first axis have the lowest bits."""

    outside: Field


class _WeightArguments(Arguments):
    """Beside these, for every spatial axis k: x_size_k, x_stride_k, y_size_k, y_stride_k, step_k, lo_k, dilation_k, kernel_k; hop_k, how far along it
    a position is from the one `bk` before; and edge_k, its first row of `edges`.
    """

    x: Elements = elements("element")
    y: Elements = elements("element")
    output: Elements = elements("inner")
    blocks: Records[PositionBlock]
    units: Records[Unit]
    edges: Records[Edge]
    unit_count: Integer
    batch: Integer
    column_blocks: Integer
    out_blocks: Integer
    groups: Integer
    outs: Integer
    channels: Integer
    columns: Integer
    x_image: Integer
    x_channel: Integer
    y_image: Integer
    y_channel: Integer
    part: Integer


@cache
def weight_arguments(ndim: int) -> type[Any]:
    words = ("x_size", "x_stride", "y_size", "y_stride", "step", "lo", "dilation", "kernel", "hop", "edge")
    names: dict[str, Any] = {f"{word}_{k}": Integer for word in words for k in range(ndim)}
    return type(f"WeightArguments{ndim}", (_WeightArguments,), {"__annotations__": names, "__module__": __name__})


@record
class WeightSpec(Tiled):
    """What the code depends on. depth: levels of sums above the blocks, within a unit; all lie in shared memory. last: channels lie innermost
    in both operands, so neighbouring threads copy neighbouring channels, and columns are (kernel, channel). wide: they do so 16 bytes at a time;
    channels of both, their strides and addresses have to be multiples of that. compared: whether a tap lies inside the input is found by
    comparing, not by `edges`, for kernels of more than MOST_TAPS taps.
    """

    ndim: int
    tile: Tile
    depth: int
    element: str
    inner: str
    last: bool = False
    wide: bool = False
    compared: bool = False

    writes: ClassVar[tuple[str, ...]] = ("output",)

    @property
    def arguments(self) -> type[Any]:
        return weight_arguments(self.ndim)

    @property
    def pad(self) -> int:
        """Lines of a stage lie so far apart that copies of one position each meet no memory bank twice."""
        return 4

    @property
    def width(self) -> int:
        """Numbers that a thread copies at a time."""
        return 16 // ELEMENT_BYTES[self.inner] if self.wide else 1

    @property
    def shared_bytes(self) -> int:
        return shared_bytes(self.tile, self.inner, self.depth, self.pad, self.pad)

    def ir(self, target: Target) -> str:
        return _Weights(target, self).text()


@dataclass(frozen=True)
class Column:
    """A channel and tap of a group: where they read, counted from the window's first position, the tap's bits in an `Edge`, whether they
    exist, and their place in a filter.
    """

    offset: Int32
    shifts: list[Int32]
    bits: Int32
    exists: Bit
    place: Int32


def column_of(f: GpuKernel, axis: Callable[[str], list[Int32]], column: Int32, last: bool = False) -> Column:
    """The column of a number. last: channels are counted first, else taps."""
    sizes, channels = axis("kernel"), f.number("channels")
    count = sizes[0]
    for size in sizes[1:]:
        count = count * size
    per = channels if last else count
    upper = column // per
    lower = column - upper * per
    channel, tap = (lower, upper) if last else (upper, lower)
    place, rest, taps = channel * count + tap, tap, []
    for size in reversed(sizes[1:]):
        above = rest // size
        taps.append(rest - above * size)
        rest = above
    offset, shifts = channel * f.number("x_channel"), []
    bits, first = f.i32(0), f.i32(0)
    axes = sizes, axis("dilation"), axis("lo"), axis("x_stride")
    for at, size, dilation, lo, stride in zip([rest, *reversed(taps)], *axes, strict=True):
        shifts.append(at * dilation - lo)
        offset = offset + shifts[-1] * stride
        bits, first = bits | (f.i32(1) << (first + at)), first + size
    return Column(offset, shifts, bits, column < f.number("columns"), place)


class _Weights:
    """The kernel under construction."""

    def __init__(self, target: Target, spec: WeightSpec) -> None:
        t = spec.tile
        self.f = f = GpuKernel(target, spec)
        self.spec, self.t = spec, t
        self.args = args = spec.arguments.read(f, spec)
        self.rows = t.threads // t.bk * spec.width
        assert t.bm % self.rows == 0
        assert t.bn % self.rows == 0
        self.pipeline = Pipeline(f, t, spec.inner, spec.depth, spec.depth, args.output, spec.pad, spec.pad)
        number = f.block(0)
        self.column_block, rest = number % f.number("column_blocks"), number // f.number("column_blocks")
        self.out_block, rest = rest % f.number("out_blocks"), rest // f.number("out_blocks")
        self.group, rest = rest % f.number("groups"), rest // f.number("groups")
        self.unit, self.image = rest % f.number("unit_count"), rest // f.number("unit_count")
        tid = f.thread_number
        lines = t.threads // t.bk
        self.k, line = (tid // lines, tid % lines) if spec.last else (tid % t.bk, tid // t.bk)
        self.row = line * spec.width

    def axis(self, word: str) -> list[Int32]:
        return [self.f.number(f"{word}_{k}") for k in range(self.spec.ndim)]

    def text(self) -> str:
        f, t, spec = self.f, self.t, self.spec
        y = self.args.y.at(self.image.wide() * f.long_number("y_image"))
        self.y = y.at(self.group * f.number("outs") * f.number("y_channel"))
        self.lines = [line * f.number("y_channel") for line in self._lines(self.out_block * t.bm, t.bm, "outs")]
        x = self.args.x.at(self.image.wide() * f.long_number("x_image"))
        self.x = x.at(self.group * f.number("channels") * f.number("x_channel"))
        columns = self._lines(self.column_block * t.bn, t.bn, "columns")
        self.columns = [column_of(f, self.axis, column, spec.last) for column in columns]
        unit = self.args.units[self.unit.wide()]
        block = unit.first_block.narrow()
        sums = self.pipeline.run(unit.steps.narrow(), self._begin(block), self._issue, block, self.args.blocks)
        self._store(sums)
        return f.module()

    def _lines(self, first: Int32, count: int, name: str) -> list[Int32]:
        """Which of a tile's `count` lines this thread copies, by the numbers of their first ones; `name` says how many lines there are."""
        most = self.f.number(name) - self.spec.width
        return [(first + self.row + j).minimum(most) for j in range(0, count, self.rows)]

    def _begin(self, block: Int32) -> list[Any]:
        """This thread's first position of a block, the block's end and its number, the position's index along every axis, and which taps lie
        outside there.
        """
        row = self.args.blocks[block.wide()]
        first = row.first.narrow() + self.k
        index, rest = [], first
        for size in reversed(self.axis("y_size")[1:]):
            above = rest // size
            index.append(rest - above * size)
            rest = above
        index = [rest, *reversed(index)]
        return [first, row.end.narrow(), block, *index, *self._outside(index)]

    def _outside(self, index: list[Int32]) -> list[Int32]:
        """The taps that lie outside at a position."""
        if self.spec.compared:
            return []
        found = self.f.i32(0)
        for i, first in zip(index, self.axis("edge"), strict=True):
            found = found | self.args.edges[(first + i).wide()].outside.narrow()
        return [found]

    def _after(self, index: list[Int32]) -> list[Int32]:
        """The index of the position that is bk further: two numbers are added digit by digit."""
        sizes, hops = self.axis("y_size"), self.axis("hop")
        found, carried = [], self.f.i32(0)
        for i, size, hop in reversed([*zip(index, sizes, hops, strict=True)][1:]):
            moved = i + hop + carried
            over = moved >= size
            found.append(over.pick(moved - size, moved))
            carried = over.pick(self.f.i32(1), self.f.i32(0))
        return [index[0] + hops[0] + carried, *reversed(found)]

    def _issue(self, state: list[Any], stage: Int32) -> list[Any]:
        """Copy a step's positions of both operands into a stage, and go on to the next."""
        f, t, pad = self.f, self.t, self.spec.pad
        position, end, block = state[:3]
        index, outside = state[3 : 3 + self.spec.ndim], state[3 + self.spec.ndim :]
        exists = position < end
        at, corner, tops = f.i32(0), f.i32(0), []
        for i, y_stride, step, x_stride in zip(index, *map(self.axis, ("y_stride", "step", "x_stride")), strict=True):
            at = at + i * y_stride
            tops.append(i * step)
            corner = corner + tops[-1] * x_stride
        y, x = self.y.at(at), self.x.at(corner)
        to = self.pipeline.m_side.at(stage).at(self.k * (t.bm + pad) + self.row)
        for j, line in enumerate(self.lines):
            copy_number(f, to.at(j * self.rows), y.at(line), exists, self.spec.inner, self.spec.width)
        to = self.pipeline.n_side.at(stage).at(self.k * (t.bn + pad) + self.row)
        none = [exists.pick(bits, f.i32(-1)) for bits in outside]
        for j, column in enumerate(self.columns):
            if self.spec.compared:
                sizes = self.axis("x_size")
                inside = [(top + shift).below(size) for top, shift, size in zip(tops, column.shifts, sizes, strict=True)]
                valid = f.all_of(exists, *inside)
            else:
                valid = (none[0] & column.bits).equals(0)
            copy_number(f, to.at(j * self.rows), x.at(column.offset), valid, self.spec.inner, self.spec.width)
        moved = position + t.bk
        index = self._after(index)
        following = [moved, end, block, *index, *self._outside(index)]
        with f.when(moved - self.k >= end, following) as over:
            over.carry = self._begin(block + 1)
        return over.result

    def _store(self, sums: list[Any]) -> None:
        f, t = self.f, self.t
        number = self.image * f.number("unit_count") + self.unit
        part = self.args.output.at(number.wide() * f.long_number("part"))
        first_out, first_column = self.out_block * t.bm, self.column_block * t.bn
        columns = [column_of(f, self.axis, first_column + self.pipeline.n(j), self.spec.last) for j in range(t.tn)]
        for row in range(t.tm):
            out = first_out + self.pipeline.m(row)
            with f.when(out < f.number("outs")):
                line = part.at((self.group * f.number("outs") + out).wide() * f.long_number("columns"))
                for number_, column in enumerate(columns):
                    with f.when(column.exists):
                        line.at(column.place).store(sums[row * t.tn + number_])
