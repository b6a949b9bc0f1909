"""Weights in the order in which a gather reads them: every packed number is copied from its place, or is -0 where there is none.

    packed[phase][group][block of outputs][row][m] = w[group, out = block * bm + m, channel and tap of the row]

-0 times whatever finite number is filled in beside it is added to a sum without a trace. `flag` is set to 1 where a weight is not finite.
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.cuda.device import Target
from preimage.engines.cuda.gpu import GpuKernel
from preimage.engines.ir.arguments import Arguments, Elements, Integer, Words, elements
from preimage.records import record

__all__ = ["PackArguments", "PackSpec"]


class PackArguments(Arguments):
    """Of one phase. Strides count elements; rows: where a row's channel and tap lie, -1: nowhere."""

    source: Elements = elements("element")
    output: Elements = elements("inner")
    flag: Words
    rows: Words
    row_count: Integer
    groups: Integer
    outs: Integer
    out_blocks: Integer
    group_stride: Integer
    out_stride: Integer


@record
class PackSpec:
    """bm: outputs of a block."""

    element: str
    inner: str
    bm: int

    arguments: ClassVar[type[PackArguments]] = PackArguments
    threads: ClassVar[int] = 128
    shared_bytes: ClassVar[int] = 0
    writes: ClassVar[tuple[str, ...]] = ("output", "flag")

    def ir(self, target: Target) -> str:
        f = GpuKernel(target, self)
        args = PackArguments.read(f, self)
        count, blocks = f.long_number("row_count"), f.long_number("out_blocks")
        total = count * self.bm * blocks * f.long_number("groups")
        first = f.block(0).wide() * self.threads + f.thread_number.wide()
        with f.loop(first, total, f.grid.wide() * self.threads) as place:
            m, line = place.index % self.bm, place.index // self.bm
            row, upper = line % count, line // count
            block, group = upper % blocks, upper // blocks
            out = block * self.bm + m
            from_row = args.rows.at(row).load_int()
            there = (from_row >= 0) & (out < f.long_number("outs"))
            with f.when(there, [f.const(self.inner, 1, -0.0)]) as known:
                at = group * f.long_number("group_stride") + out * f.long_number("out_stride") + from_row
                known.carry = [args.source.at(at).load()]
            value = known.result[0]
            args.output.at(place.index).store(value)
            with f.when((value - value).is_nan()):  # infinite, or not a number
                args.flag.store_int(1)
        return f.module()
