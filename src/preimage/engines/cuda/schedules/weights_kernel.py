"""The weight gradient: for every weight the sum over the output positions of an image, or of a part of it, in the contract's order.

    part[image][unit][o, i, kernel] = sum over the positions p of the unit of  y[o, p] * x[i, p * stride - lo + tap * dilation]

A block of threads makes bm output channels x bn columns (i, kernel) of one group, for one *unit*: an image, or a node of its sum (a
group of blocks of positions), so that small layers with large images fill a GPU too. `reduce_kernel` adds up units and images.
Both operands are neighbours along the sum, so a thread copies one position of several lines at a time. Positions over padding are +0
and take part (docs/contract.md); positions behind the end of a block are zeros on both sides.
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
from preimage.engines.ir.builder import Bit, Int32, Ptr
from preimage.records import record

__all__ = ["Column", "PositionBlock", "Unit", "WeightSpec", "column_of", "weight_arguments"]


class PositionBlock(BlockRow):
    """Neighbouring output positions, row by row."""

    first: Field
    end: Field


class Unit(Record):
    """Neighbouring blocks whose sum is one part."""

    first_block: Field
    blocks: Field
    steps: Field


class _WeightArguments(Arguments):
    """Beside these, for every spatial axis k: x_size_k, x_stride_k, y_size_k, y_stride_k, step_k, lo_k, dilation_k, kernel_k."""

    x: Elements = elements("element")
    y: Elements = elements("element")
    output: Elements = elements("inner")
    blocks: Records[PositionBlock]
    units: Records[Unit]
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
    words = ("x_size", "x_stride", "y_size", "y_stride", "step", "lo", "dilation", "kernel")
    names: dict[str, Any] = {f"{word}_{k}": Integer for word in words for k in range(ndim)}
    return type(f"WeightArguments{ndim}", (_WeightArguments,), {"__annotations__": names, "__module__": __name__})


@record
class WeightSpec(Tiled):
    """What the code depends on. depth: levels of sums above the blocks, within a unit; all lie in shared memory. last: channels lie innermost
    in both operands, so neighbouring threads copy neighbouring channels, and columns are (kernel, channel).
    """

    ndim: int
    tile: Tile
    depth: int
    element: str
    inner: str
    last: bool = False

    writes: ClassVar[tuple[str, ...]] = ("output",)

    @property
    def arguments(self) -> type[Any]:
        return weight_arguments(self.ndim)

    @property
    def pad(self) -> int:
        """Lines of a stage lie so far apart that copies of one position each meet no memory bank twice."""
        return 4

    @property
    def shared_bytes(self) -> int:
        return shared_bytes(self.tile, self.inner, self.depth, self.pad, self.pad)

    def ir(self, target: Target) -> str:
        return _Weights(target, self).text()


@dataclass(frozen=True)
class Column:
    """A channel and tap of a group: where they read, counted from the window's first position, whether they exist, and their place in a
    filter.
    """

    offset: Int32
    shifts: list[Int32]
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
    axes = axis("dilation"), axis("lo"), axis("x_stride")
    for at, dilation, lo, stride in zip([rest, *reversed(taps)], *axes, strict=True):
        shifts.append(at * dilation - lo)
        offset = offset + shifts[-1] * stride
    return Column(offset, shifts, column < f.number("columns"), place)


class _Weights:
    """The kernel under construction."""

    def __init__(self, target: Target, spec: WeightSpec) -> None:
        t = spec.tile
        self.f = f = GpuKernel(target, spec)
        self.spec, self.t = spec, t
        self.args = args = spec.arguments.read(f, spec)
        self.rows = t.threads // t.bk
        assert t.bm % self.rows == 0
        assert t.bn % self.rows == 0
        self.pipeline = Pipeline(f, t, spec.inner, spec.depth, spec.depth, args.output, spec.pad, spec.pad)
        number = f.block(0)
        self.column_block, rest = number % f.number("column_blocks"), number // f.number("column_blocks")
        self.out_block, rest = rest % f.number("out_blocks"), rest // f.number("out_blocks")
        self.group, rest = rest % f.number("groups"), rest // f.number("groups")
        self.unit, self.image = rest % f.number("unit_count"), rest // f.number("unit_count")
        tid = f.thread_number
        self.k, self.row = (tid // self.rows, tid % self.rows) if spec.last else (tid % t.bk, tid // t.bk)

    def axis(self, word: str) -> list[Int32]:
        return [self.f.number(f"{word}_{k}") for k in range(self.spec.ndim)]

    def text(self) -> str:
        f, t, spec = self.f, self.t, self.spec
        y = self.args.y.at(self.image.wide() * f.long_number("y_image"))
        out = self.out_block * t.bm + self.row
        self.y = y.at((self.group * f.number("outs") + out) * f.number("y_channel"))
        x = self.args.x.at(self.image.wide() * f.long_number("x_image"))
        self.x = x.at(self.group * f.number("channels") * f.number("x_channel"))
        self.have_out = [out + j * self.rows < f.number("outs") for j in range(t.bm // self.rows)]
        first = self.column_block * t.bn + self.row
        self.columns = [column_of(f, self.axis, first + j * self.rows, spec.last) for j in range(t.bn // self.rows)]
        unit = self.args.units[self.unit.wide()]
        block = unit.first_block.narrow()
        sums = self.pipeline.run(unit.steps.narrow(), self._begin(block), self._issue, block, self.args.blocks)
        self._store(sums)
        return f.module()

    def _begin(self, block: Int32) -> list[Any]:
        """A block's first position, of this thread, its end, and its number."""
        row = self.args.blocks[block.wide()]
        return [row.first.narrow() + self.k, row.end.narrow(), block]

    def _issue(self, state: list[Any], stage: Int32) -> list[Any]:
        """Copy a step's positions of both operands into a stage, and go on to the next."""
        f, t, pad = self.f, self.t, self.spec.pad
        position, end, block = state
        exists = position < end
        index, rest = [], position
        for size in reversed(self.axis("y_size")[1:]):
            above = rest // size
            index.append(rest - above * size)
            rest = above
        index.append(rest)
        index.reverse()
        y, corner, tops = self.y, f.i32(0), []
        for i, y_stride, step, x_stride in zip(index, *map(self.axis, ("y_stride", "step", "x_stride")), strict=True):
            y = y.at(i * y_stride)
            tops.append(i * step)
            corner = corner + tops[-1] * x_stride
        to = self.pipeline.m_side.at(stage).at(self.k * (t.bm + pad) + self.row)
        for j, have in enumerate(self.have_out):
            copy_number(f, to.at(j * self.rows), y, exists & have, self.spec.inner)
            y = y.at(f.number("y_channel") * self.rows)
        to = self.pipeline.n_side.at(stage).at(self.k * (t.bn + pad) + self.row)
        for j, column in enumerate(self.columns):
            self._copy_column(to.at(j * self.rows), column, tops, corner, exists)
        moved = position + t.bk
        with f.when(moved - self.k >= end, [moved, end, block]) as following:
            following.carry = self._begin(block + 1)
        return following.result

    def _copy_column(self, to: Ptr, column: Column, tops: list[Int32], corner: Int32, exists: Bit) -> None:
        f = self.f
        sizes = self.axis("x_size")
        inside = [(top + shift).below(size) for top, shift, size in zip(tops, column.shifts, sizes, strict=True)]
        valid = f.all_of(*inside, column.exists, exists)
        source = self.x.at(valid.pick(corner + column.offset, f.i32(0)))
        copy_number(f, to, source, valid, self.spec.inner)

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
