"""The weight gradient of groups of few weights (depthwise): each thread makes `outs` x `columns` weights alone, for one part of an image.

    for block of positions in the unit:  for p in block:  sums[o][c] = fma(x[c, p], y[o, p], sums[o][c])

Columns are (channel, tap), as in `weights_kernel`, whose parts these are. Neighbouring threads have neighbouring groups, so that they
read together where channels lie innermost, and else each goes along its own channel.
"""

from __future__ import annotations

from typing import Any, ClassVar

from preimage.engines.cuda.device import Target
from preimage.engines.cuda.gpu import GpuKernel
from preimage.engines.cuda.schedules.levels import closed_sums
from preimage.engines.cuda.schedules.weights_kernel import Column, column_of, weight_arguments
from preimage.engines.cuda.tile import DirectTile, Tiled
from preimage.engines.ir.builder import Bit, Int32, Num
from preimage.records import record

__all__ = ["WeightDirectSpec"]


@record
class WeightDirectSpec(Tiled):
    """What the code depends on. depth: levels of sums above the blocks, within a unit."""

    ndim: int
    tile: DirectTile
    depth: int
    element: str
    inner: str

    writes: ClassVar[tuple[str, ...]] = ("output",)
    shared_bytes: ClassVar[int] = 0

    @property
    def arguments(self) -> type[Any]:
        return weight_arguments(self.ndim)

    def ir(self, target: Target) -> str:
        return _Weights(target, self).text()


class _Weights:
    """The kernel under construction."""

    def __init__(self, target: Target, spec: WeightDirectSpec) -> None:
        self.f = f = GpuKernel(target, spec)
        self.spec, self.t = spec, spec.tile
        self.args = spec.arguments.read(f, spec)
        number = f.block(0).wide() * spec.threads + f.thread_number.wide()
        places = []
        for name in ("groups", "out_blocks", "column_blocks", "unit_count"):
            size = f.long_number(name)
            places.append((number % size).narrow())
            number = number // size
        self.group, self.out_block, self.column_block, self.unit = places
        self.image = number

    def axis(self, word: str) -> list[Int32]:
        return [self.f.number(f"{word}_{k}") for k in range(self.spec.ndim)]

    def text(self) -> str:
        with self.f.when(self.image < self.f.long_number("batch")):
            self._part()
        return self.f.module()

    def _part(self) -> None:
        f, t, depth = self.f, self.t, self.spec.depth
        first = self.out_block * t.outs
        self.outs = [(first + i, first + i < f.number("outs")) for i in range(t.outs)]
        channel = self.group * f.number("outs")
        y = self.args.y.at(self.image * f.long_number("y_image"))
        self.ys = [y.at(e.pick(channel + out, f.i32(0)).wide() * f.long_number("y_channel")) for out, e in self.outs]
        x = self.args.x.at(self.image * f.long_number("x_image"))
        self.x = x.at((self.group * f.number("channels")).wide() * f.long_number("x_channel"))
        self.columns = [column_of(f, self.axis, self.column_block * t.columns + j) for j in range(t.columns)]
        unit = self.args.units[self.unit.wide()]
        zeros = [f.zeros(self.spec.inner, 1)] * t.sums
        begin = unit.first_block.narrow()
        with f.loop(begin, begin + unit.blocks.narrow(), carry=zeros * max(1, depth)) as turn:
            block = self.args.blocks[f.index(turn).wide()]
            sums = self._block(block.first.narrow(), block.end.narrow(), zeros if depth else turn.carry)
            turn.carry = closed_sums(f, sums, turn.carry, block.closes.narrow()) if depth else sums
        self._store(turn.result[len(turn.result) - t.sums :])

    def _block(self, first: Int32, end: Int32, sums: list[Num]) -> list[Num]:
        f, t = self.f, self.t
        zero = f.zeros(self.spec.inner, 1)
        with f.loop(first, end, carry=sums) as loop:
            index, rest = [], f.index(loop)
            for size in reversed(self.axis("y_size")[1:]):
                above = rest // size
                index.append(rest - above * size)
                rest = above
            index = [rest, *reversed(index)]
            at, corner, tops = f.i32(0), f.i32(0), []
            for i, y_stride, step, x_stride in zip(index, *map(self.axis, ("y_stride", "step", "x_stride")), strict=True):
                at = at + i * y_stride
                tops.append(i * step)
                corner = corner + tops[-1] * x_stride
            ys = [exists.select(y.at(at).load(), zero) for y, (_, exists) in zip(self.ys, self.outs, strict=True)]
            made = list(loop.carry)
            for j, column in enumerate(self.columns):
                x = self._value(column, tops, corner)
                for i, y in enumerate(ys):
                    made[i * t.columns + j] = made[i * t.columns + j].plus_product(x, y)
            loop.carry = made
        return loop.result

    def _value(self, column: Column, tops: list[Int32], corner: Int32) -> Num:
        """What a column multiplies at a position."""
        f = self.f
        sizes = self.axis("x_size")
        inside: list[Bit] = [(top + shift).below(size) for top, shift, size in zip(tops, column.shifts, sizes, strict=True)]
        valid = f.all_of(*inside, column.exists)
        value: Num = valid.select(self.x.at(valid.pick(corner + column.offset, f.i32(0))).load(), f.zeros(self.spec.inner, 1))
        return value

    def _store(self, sums: list[Num]) -> None:
        f, t = self.f, self.t
        part = self.args.output.at((self.image * f.long_number("unit_count") + self.unit.wide()) * f.long_number("part"))
        for i, (out, exists) in enumerate(self.outs):
            with f.when(exists):
                line = part.at((self.group * f.number("outs") + out).wide() * f.long_number("columns"))
                for j, column in enumerate(self.columns):
                    with f.when(column.exists):
                        line.at(column.place).store(sums[i * t.columns + j])
